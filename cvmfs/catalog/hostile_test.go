package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// small writes a catalog with one entry of each kind and returns its bytes.
func small(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small")
	w, err := Create(path, NewCatalog{Revision: 3})
	if err != nil {
		t.Fatal(err)
	}
	h := hash.Sum(hash.SHA1, []byte("x"))
	for _, e := range []Entry{
		{Mode: 0o040755},
		{Path: "/d", Mode: 0o040755},
		{Path: "/d/f", Mode: 0o100644, Size: 1, Hash: h, Hardlinks: 1<<32 | 2, Xattrs: []Xattr{{"user.a", []byte("b")}}},
		{Path: "/d/g", Mode: 0o100644, Size: 1, Hash: h, Hardlinks: 1<<32 | 2},
		{Path: "/d/c", Mode: 0o100644, Size: 9, Chunks: []Chunk{{0, 4, h}, {4, 5, h}}},
		{Path: "/l", Mode: 0o120777, Symlink: "$(X)"},
		{Path: "/n", Mode: 0o040755, Nested: true},
	} {
		w.Add(e)
	}
	w.AddNested("/n", h, 5)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// change runs SQL on a database held in memory.
func change(t testing.TB, b []byte, sql string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "changed")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	err = sqlitex.ExecuteScript(conn, sql, nil)
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	b, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tour uses all that a catalog offers, on limit rows at most. It goes on after
// an error, and returns all.
func tour(c *Catalog, limit int) (rows int, err error) {
	ctx := context.Background()
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	_, err = c.Nested(ctx)
	note(err)
	_, err = c.Statistics(ctx)
	note(err)
	root, err := c.Root(ctx)
	note(err)
	todo := []Row{root}
	for len(todo) > 0 && rows < limit {
		r := todo[0]
		todo = todo[1:]
		rows++
		_, err = c.ByID(ctx, r.ID)
		note(err)
		path, err := c.PathOf(ctx, r)
		note(err)
		_, err = c.Chunks(ctx, r)
		note(err)
		_, err = c.Xattrs(ctx, r.ID)
		note(err)
		if r.LinkGroup() != 0 {
			_, err = c.FirstOfGroup(ctx, r.LinkGroup())
			note(err)
		}
		if !r.IsDir() {
			continue
		}
		note(c.Children(ctx, r.Path, math.MinInt64, func(child Row) bool {
			_, err := c.Lookup(ctx, path, child.Name)
			note(err)
			todo = append(todo, child)
			return len(todo) < limit
		}))
	}
	return rows, errors.Join(errs...)
}

// openAndTour opens b and looks at everything.
func openAndTour(b []byte, limit int) (int, error) {
	c, err := OpenBytes(b)
	if err != nil {
		return 0, err
	}
	rows, err := tour(c, limit)
	return rows, errors.Join(err, c.Close())
}

const onFile = " WHERE name = 'f'"

// hostileSQL holds changes to the small catalog that must not go unnoticed.
var hostileSQL = []string{
	"UPDATE catalog SET size = -1" + onFile,
	"UPDATE catalog SET size = 1.5" + onFile,
	"UPDATE catalog SET size = 'x'" + onFile,
	"UPDATE catalog SET mode = 420" + onFile,
	"UPDATE catalog SET mode = NULL" + onFile,
	"UPDATE catalog SET mode = 4294967296" + onFile,
	"UPDATE catalog SET mode = 131072 + 33188" + onFile,
	"UPDATE catalog SET flags = -1" + onFile,
	"UPDATE catalog SET flags = 6" + onFile,
	"UPDATE catalog SET flags = 65 WHERE name = 'd'",
	"UPDATE catalog SET name = ''" + onFile,
	"UPDATE catalog SET name = NULL" + onFile,
	"UPDATE catalog SET name = x'6162'" + onFile,
	"UPDATE catalog SET name = 'a/b'" + onFile,
	"UPDATE catalog SET name = '.'" + onFile,
	"UPDATE catalog SET name = '..'" + onFile,
	"UPDATE catalog SET name = 'other'" + onFile,
	"UPDATE catalog SET name = CAST(x'610062' AS TEXT)" + onFile,
	"UPDATE catalog SET name = printf('%0256d', 0)" + onFile,
	"UPDATE catalog SET name = hex(zeroblob(2000000))" + onFile,
	"UPDATE catalog SET symlink = CAST(x'610062' AS TEXT) WHERE name = 'l'",
	"UPDATE catalog SET symlink = x'6100' WHERE name = 'l'",
	"UPDATE catalog SET hash = x'00'" + onFile,
	"UPDATE catalog SET hash = 'aaaaaaaaaaaaaaaaaaaa'" + onFile,
	"UPDATE catalog SET hash = zeroblob(1000)" + onFile,
	"UPDATE catalog SET mtimens = 1000000000" + onFile,
	"UPDATE catalog SET uid = 4294967296" + onFile,
	"UPDATE catalog SET xattr = x'01'" + onFile,
	"UPDATE catalog SET xattr = 'text'" + onFile,
	"UPDATE catalog SET parent_1 = md5path_1, parent_2 = md5path_2 WHERE name = 'd'; UPDATE catalog SET mode = 1" + onFile + "; DELETE FROM catalog WHERE name = ''",
	"UPDATE catalog SET mode = 33188 WHERE name = ''",
	"DELETE FROM catalog",
	"UPDATE chunks SET offset = 5 WHERE offset = 4",
	"UPDATE chunks SET offset = 3 WHERE offset = 4",
	"UPDATE chunks SET offset = -4 WHERE offset = 4",
	"UPDATE chunks SET size = 6 WHERE offset = 4",
	"UPDATE chunks SET size = 4 WHERE offset = 4",
	"UPDATE chunks SET size = -5 WHERE offset = 4",
	"UPDATE chunks SET size = 9223372036854775807 WHERE offset = 4",
	"UPDATE chunks SET hash = NULL WHERE offset = 4",
	"UPDATE chunks SET hash = x'00' WHERE offset = 4",
	"INSERT INTO chunks SELECT md5path_1, md5path_2, 0, 0, hash FROM chunks WHERE offset = 0",
	"INSERT INTO chunks SELECT md5path_1, md5path_2, 9, 0, hash FROM chunks WHERE offset = 0",
	"DELETE FROM chunks",
	"DROP TABLE chunks",
	"DROP TABLE catalog",
	"DROP TABLE properties",
	"ALTER TABLE catalog DROP COLUMN mode",
	"ALTER TABLE catalog RENAME COLUMN size TO rowid",
	"ALTER TABLE catalog DROP COLUMN size; ALTER TABLE catalog ADD COLUMN size AS (9)",
	"ALTER TABLE catalog RENAME TO c; CREATE VIEW catalog AS SELECT * FROM c",
	"CREATE TRIGGER t AFTER INSERT ON catalog BEGIN DELETE FROM chunks; END",
	"UPDATE properties SET value = 'x' WHERE key = 'schema'",
	"UPDATE properties SET value = '-1' WHERE key = 'schema'",
	"UPDATE properties SET value = 'NaN' WHERE key = 'schema'",
	"UPDATE properties SET value = '-1' WHERE key = 'revision'",
	"UPDATE properties SET value = 'zz' WHERE key = 'previous_revision'",
	"INSERT INTO properties VALUES ('root_prefix', 'sw')",
	"INSERT INTO properties VALUES ('root_prefix', '/sw/../x')",
	"INSERT INTO properties VALUES ('root_prefix', '/not/there')",
	"INSERT INTO properties VALUES ('TTL', 'soon')",
	"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 2000) INSERT INTO properties SELECT i, i FROM n",
	"UPDATE statistics SET value = 9223372036854775807",
	"UPDATE statistics SET value = 'many'",
}

func TestHostileRows(t *testing.T) {
	good := small(t)
	if rows, err := openAndTour(good, 100); err != nil || rows != 7 {
		t.Fatalf("unchanged: %d rows, %v", rows, err)
	}
	for _, sql := range hostileSQL {
		rows, err := openAndTour(change(t, good, sql), 100)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%.100s: %d rows, %v", sql, rows, err)
		}
	}
}

// TestADamagedNestedCatalogSpoilsNoOther: others are listed all the same, and of
// a place whose catalog is not told that there is one.
func TestADamagedNestedCatalogSpoilsNoOther(t *testing.T) {
	good := change(t, small(t), "INSERT INTO nested_catalogs SELECT '/m', sha1, size FROM nested_catalogs")
	for set, want := range map[string]Nested{
		"path = ''": {}, "path = '/'": {}, "path = '/n/'": {}, "path = '/d//n'": {}, "path = NULL": {}, "path = x'2f6e00'": {},
		"sha1 = ''": {Path: "/n", Size: 5}, "sha1 = NULL": {Path: "/n", Size: 5}, "sha1 = 'abc'": {Path: "/n", Size: 5},
		"sha1 = '00000000000000000000000000000001'": {Path: "/n", Size: 5},
		"size = -1": {Path: "/n", Hash: hash.Sum(hash.SHA1, []byte("x"))},
	} {
		c := openTest(t, change(t, good, "UPDATE nested_catalogs SET "+set+" WHERE path = '/n'; INSERT INTO bind_mountpoints VALUES ('x', 'y', 1)"))
		list, err := c.Nested(t.Context())
		i := slices.IndexFunc(list, func(n Nested) bool { return n.Path == "/m" && !n.Hash.IsZero() && n.Size == 5 })
		if err != nil || i < 0 {
			t.Errorf("%s: %+v, %v", set, list, err)
			continue
		}
		if list = slices.Delete(list, i, i+1); len(list) > 1 || len(list) == 1 && list[0] != want || len(list) == 0 && want != (Nested{}) {
			t.Errorf("%s: %+v, want %+v", set, list, want)
		}
	}
}

// TestACounterBelowZero: it counts nothing, and the others count.
func TestACounterBelowZero(t *testing.T) {
	c := openTest(t, change(t, small(t), "UPDATE statistics SET value = -2 WHERE counter IN ('subtree_xattr', 'self_symlink')"))
	s, err := c.Statistics(t.Context())
	if err != nil || s.Subtree.Xattr != 0 || s.Self.Symlink != 0 || s.Self.Entries() != 6 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestUnsupported lists what a newer CVMFS writes, and reads none of it.
func TestUnsupported(t *testing.T) {
	ctx := context.Background()
	for _, flags := range []string{"4 | 2 << 11", "4 | 7 << 11", "4 | 3 << 8", "4 | 7 << 8"} {
		c := openTest(t, change(t, small(t), "UPDATE catalog SET flags = "+flags+" WHERE name IN ('f', 'c')"))
		var names []string
		if err := c.Children(ctx, HashPath("/d"), 0, func(r Row) bool { names = append(names, r.Name); return true }); err != nil || len(names) != 3 {
			t.Errorf("flags %s: listing %q, %v", flags, names, err)
		}
		if _, err := c.Lookup(ctx, "/d", "f"); !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrCorrupt) {
			t.Errorf("flags %s: %v", flags, err)
		}
	}
	for _, sql := range []string{
		"UPDATE properties SET value = '2.6' WHERE key = 'schema'",
		"UPDATE properties SET value = '30' WHERE key = 'schema'",
		"UPDATE catalog SET xattr = x'0300' WHERE name = 'f'",
	} {
		if _, err := openAndTour(change(t, small(t), sql), 100); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// TestOldSchemas takes away what older servers did not write.
func TestOldSchemas(t *testing.T) {
	const version = "UPDATE properties SET value = '%s' WHERE key = 'schema'; "
	for name, sql := range map[string]string{
		"2.5 revision 6": "ALTER TABLE catalog DROP COLUMN mtimens",
		"2.5 revision 1": "ALTER TABLE catalog DROP COLUMN mtimens; ALTER TABLE catalog DROP COLUMN xattr; DROP TABLE bind_mountpoints",
		"2.4": fmt.Sprintf(version, "2.4") + "ALTER TABLE catalog DROP COLUMN mtimens; ALTER TABLE catalog DROP COLUMN xattr; DROP TABLE bind_mountpoints;" +
			"ALTER TABLE nested_catalogs DROP COLUMN size; UPDATE catalog SET uid = NULL",
		"0.9": fmt.Sprintf(version, "0.9") + "ALTER TABLE nested_catalogs DROP COLUMN sha1; ALTER TABLE nested_catalogs DROP COLUMN size",
		"1.0": "DELETE FROM properties WHERE key LIKE 'schema%'; ALTER TABLE catalog DROP COLUMN mtimens; ALTER TABLE catalog DROP COLUMN xattr;" +
			"ALTER TABLE catalog DROP COLUMN uid; ALTER TABLE catalog DROP COLUMN gid; ALTER TABLE catalog RENAME COLUMN hardlinks TO inode;" +
			"ALTER TABLE nested_catalogs DROP COLUMN size; DROP TABLE bind_mountpoints; DROP TABLE statistics; UPDATE catalog SET flags = flags & ~64; DROP TABLE chunks",
	} {
		c := openTest(t, change(t, small(t), sql))
		rows, err := tour(c, 100)
		if err != nil || rows != 7 {
			t.Errorf("%s: %d rows, %v", name, rows, err)
		}
		ctx := context.Background()
		r, err := c.Lookup(ctx, "/d", "f")
		old := name == "1.0"
		if err != nil || c.HasOwners() == old || r.MTimeNsec != 0 || r.Hash.IsZero() || (r.Nlink() == 2) == old {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if got, _ := c.Schema(); !strings.HasPrefix(name, got) {
			t.Errorf("%s: schema %s", name, got)
		}
		if n, err := c.Nested(ctx); err != nil || len(n) != 1 {
			t.Errorf("%s: nested %v, %v", name, n, err)
		}
	}
}

// TestDamagedBytes cuts golden catalogs short and flips bytes in them: there
// may be errors, of the right kind, and nothing worse.
func TestDamagedBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	check := func(b []byte) {
		if _, err := openAndTour(b, 50); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrNotFound) {
			t.Errorf("unexpected error: %v", err)
		}
	}
	done := 0
	for _, b := range goldenObjects(t, hash.Catalog) {
		if len(b) > 40_000 {
			continue
		}
		check(append(bytes.Clone(b), make([]byte, 64)...))
		for n := 0; n < len(b); n += 3000 {
			check(b[:n])
		}
		for range 8 {
			bad := bytes.Clone(b)
			for range 1 + random.IntN(20) {
				bad[random.IntN(len(bad))] = byte(random.Uint32())
			}
			check(bad)
		}
		done++
	}
	if done == 0 {
		t.Error("no small golden catalogs")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(dir); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("directory: %v", err)
	}
	wal := small(t)
	wal[18], wal[19] = 2, 2
	utf16 := small(t)
	utf16[59] = 2
	for name, b := range map[string][]byte{"empty": nil, "short": []byte("SQLite format 3\x00"), "text": bytes.Repeat([]byte("x"), 4096), "wal": wal, "utf16": utf16} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err1 := Open(path)
		_, err2 := OpenBytes(b)
		_, err3 := OpenHistoryBytes(b)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := OpenHistoryBytes(small(t)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("catalog as history: %v", err)
	}
}
