package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// all lists every row by ID, hidden ones and the top too.
func all(t testing.TB, c *Catalog) (rows []Row) {
	t.Helper()
	var ids []int64
	err := c.db.each("SELECT rowid FROM catalog ORDER BY rowid", func(s *sqlite.Stmt) error {
		ids = append(ids, s.ColumnInt64(0))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		r, err := c.ByID(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

// entryOf makes the entry that the writer turns back into r.
func entryOf(t testing.TB, c *Catalog, r Row) Entry {
	t.Helper()
	ctx := context.Background()
	path, err := c.PathOf(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := c.Xattrs(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := c.Chunks(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Path: path, Mode: r.Mode, Size: r.Size, MTime: r.MTime, MTimeNsec: int32(r.MTimeNsec), UID: r.UID, GID: r.GID,
		Symlink: r.Symlink, Hash: r.Hash, Compression: r.Compression, Hardlinks: r.Hardlinks, Rdev: r.Rdev(), Xattrs: attrs, Chunks: chunks,
		External: r.IsExternal(), Nested: r.IsNestedMount(), NestedRoot: r.IsNestedRoot(), Hidden: r.IsHidden(), BindMount: r.IsBindMount()}
}

// TestRewriteGolden writes each golden catalog anew and compares all tables.
func TestRewriteGolden(t *testing.T) {
	for name, b := range goldenObjects(t, hash.Catalog) {
		old := openTest(t, b)
		if len(dump(t, old.db, "SELECT key FROM properties WHERE key = 'previous_revision'")) == 0 {
			continue // the very first, empty catalog of a repository
		}
		path := filepath.Join(t.TempDir(), "new")
		w, err := Create(path, NewCatalog{old.Prefix(), old.Revision(), old.TTL(), old.Previous(), old.LastModified()})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all(t, old) {
			if err := w.Add(entryOf(t, old, r)); err != nil {
				t.Fatal(err)
			}
		}
		ctx := context.Background()
		nested, err := old.Nested(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nested {
			add := w.AddNested
			if n.Bind {
				add = w.AddBind
			}
			if err := add(n.Path, n.Hash, n.Size); err != nil {
				t.Fatal(err)
			}
		}
		stats, err := old.Statistics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.AddSubtree(Statistics{Self: stats.Subtree})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, name, old.db, again.db)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func compare(t *testing.T, name string, old, again *db) {
	for _, query := range []string{
		"PRAGMA page_size",
		"SELECT rowid, type, name, sql FROM sqlite_schema ORDER BY rowid",
		"SELECT 0, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, nullif(mtimens, 0), flags, name, symlink, uid, gid, xattr FROM catalog ORDER BY rowid",
		"SELECT 0, * FROM chunks ORDER BY md5path_1, md5path_2, offset",
		"SELECT 0, * FROM properties ORDER BY key",
		"SELECT 0, * FROM nested_catalogs ORDER BY path",
		"SELECT 0, * FROM bind_mountpoints ORDER BY path",
		"SELECT 0, * FROM statistics ORDER BY counter",
	} {
		a, b := dump(t, old, query), dump(t, again, query)
		if len(a) != len(b) {
			t.Errorf("%s: %s: %d rows, want %d", name, query, len(b), len(a))
			continue
		}
		for i := range a {
			if a[i] != b[i] {
				t.Errorf("%s: %s:\n got %s\nwant %s", name, query, b[i], a[i])
			}
		}
	}
}

// dump reads the answer to a query as text, with types.
func dump(t *testing.T, d *db, query string) (rows []string) {
	t.Helper()
	stmt, _, err := d.conn.PrepareTransient(query)
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Finalize()
	for {
		more, err := stmt.Step()
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return rows
		}
		line := ""
		for i := range stmt.ColumnCount() {
			line += fmt.Sprintf("|%v %q", stmt.ColumnType(i), stmt.ColumnText(i))
		}
		rows = append(rows, line)
	}
}

func TestHistory(t *testing.T) {
	ctx := context.Background()
	for name, b := range goldenObjects(t, hash.History) {
		h, err := OpenHistoryBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		tags, err := h.Tags(ctx)
		if err != nil || len(tags) == 0 {
			t.Fatalf("%s: %d tags, %v", name, len(tags), err)
		}
		path := filepath.Join(t.TempDir(), "history")
		if err := CreateHistory(path, h.FQRN(), tags); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := OpenHistoryBytes(written)
		if err != nil {
			t.Fatal(err)
		}
		same, err := again.Tags(ctx)
		if err != nil || !reflect.DeepEqual(tags, same) {
			t.Errorf("%s: got %v, %v; want %v", name, same, err, tags)
		}
		for _, q := range []string{"SELECT rowid, type, name, sql FROM sqlite_schema ORDER BY rowid", "SELECT 0, * FROM tags ORDER BY name", "SELECT 0, * FROM branches ORDER BY branch", "SELECT 0, * FROM recycle_bin"} {
			if a, b := dump(t, h.db, q), dump(t, again.db, q); !reflect.DeepEqual(a, b) {
				t.Errorf("%s: %s:\n got %v\nwant %v", name, q, b, a)
			}
		}
		for _, tag := range tags {
			if got, err := again.ByName(ctx, tag.Name); err != nil || got != tag {
				t.Errorf("ByName %s: %v, %v", tag.Name, got, err)
			}
			got, err := again.ByDate(ctx, tag.Timestamp.Add(time.Second/2))
			if err != nil || !got.Timestamp.Equal(tag.Timestamp) || got.Revision < tag.Revision {
				t.Errorf("ByDate %s: %v, %v", tag.Timestamp, got, err)
			}
		}
		if _, err := again.ByDate(ctx, tags[0].Timestamp.Add(-time.Second)); !errors.Is(err, ErrNotFound) {
			t.Errorf("ByDate before the first: %v", err)
		}
		if _, err := again.ByName(ctx, "nobody"); !errors.Is(err, ErrNotFound) {
			t.Errorf("ByName: %v", err)
		}
		if err := errors.Join(h.Close(), again.Close()); err != nil {
			t.Error(err)
		}
		if _, err := h.Tags(ctx); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, e := range map[string]Entry{
		"outside":       {Path: "/other/x", Mode: 0o100644},
		"relative":      {Path: "sw/x", Mode: 0o100644},
		"slash":         {Path: "/sw/x/", Mode: 0o100644},
		"dots":          {Path: "/sw/../x", Mode: 0o100644},
		"zero":          {Path: "/sw/a\x00b", Mode: 0o100644},
		"no type":       {Path: "/sw/x", Mode: 0o644},
		"size":          {Path: "/sw/x", Mode: 0o100644, Size: -1},
		"chunk gap":     {Path: "/sw/x", Mode: 0o100644, Size: 9, Chunks: []Chunk{{1, 8, hash.Sum(hash.SHA1, nil)}}},
		"md5":           {Path: "/sw/x", Mode: 0o100644, Hash: hash.Sum(hash.MD5, nil)},
		"two hashes":    {Path: "/sw/x", Mode: 0o100644, Size: 8, Hash: hash.Sum(hash.RMD160, nil), Chunks: []Chunk{{0, 8, hash.Sum(hash.SHA1, nil)}}},
		"chunked dir":   {Path: "/sw/x", Mode: 0o040755, Size: 8, Chunks: []Chunk{{0, 8, hash.Sum(hash.SHA1, nil)}}},
		"nested file":   {Path: "/sw/x", Mode: 0o100644, Nested: true},
		"long xattr":    {Path: "/sw/x", Mode: 0o100644, Xattrs: []Xattr{{"user.a", make([]byte, 65536)}}},
		"nameless attr": {Path: "/sw/x", Mode: 0o100644, Xattrs: []Xattr{{"", nil}}},
		"twice":         {Path: "/sw", Mode: 0o040755},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "new")
			w, err := Create(path, NewCatalog{RootPrefix: "/sw"})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Add(Entry{Path: "/sw", Mode: 0o040755}); err != nil {
				t.Fatal(err)
			}
			first := w.Add(e)
			if first == nil {
				t.Fatal("accepted")
			}
			if err := w.Close(); !errors.Is(err, first) {
				t.Errorf("Close: %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file is left: %v", err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, NewCatalog{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if _, err := Create(filepath.Join(t.TempDir(), "x"), NewCatalog{RootPrefix: "sw"}); err == nil {
		t.Error("odd prefix accepted")
	}
}

// odd is a name that is no UTF-8.
const odd = "\xff\xfe'\n\"é"

// writeOdd writes a catalog with values that no golden one has, and opens it.
func writeOdd(t *testing.T, h hash.Hash) *Catalog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "new")
	w, err := Create(path, NewCatalog{Revision: 9, TTL: 4 * time.Minute, Previous: h, LastModified: time.Unix(77, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{
		{Path: "", Mode: 0o040755},
		{Path: "/dev", Mode: 0o020600, Rdev: 1<<40 | 0x0103},
		{Path: "/" + odd, Mode: 0o120777, Symlink: odd},
		{Path: "/hidden", Mode: 0o040755, Hidden: true},
		{Path: "/old", Mode: 0o100644, MTime: -1, MTimeNsec: 999_999_999, UID: math.MaxUint32, GID: 1 << 31, Hash: h, Hardlinks: math.MaxUint64},
		{Path: "/n", Mode: 0o040755, Nested: true},
	} {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.AddNested("/n", h, 5), w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWrittenCatalog(t *testing.T) {
	ctx := context.Background()
	h := hash.Sum(hash.SHAKE128, []byte("x"))
	c := writeOdd(t, h)
	version, rev := c.Schema()
	if c.Revision() != 9 || c.TTL() != 4*time.Minute || c.Previous() != h || !c.LastModified().Equal(time.Unix(77, 0)) || version != "2.5" || rev != 7 {
		t.Errorf("properties: %+v", c.properties)
	}
	var names []string
	if err := c.Children(ctx, HashPath(""), 0, func(r Row) bool { names = append(names, r.Name); return true }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"dev", odd, "old", "n"}; !reflect.DeepEqual(names, want) {
		t.Errorf("listing %q, want %q", names, want)
	}
	if r, err := c.Lookup(ctx, "", "hidden"); err != nil || !r.IsHidden() {
		t.Errorf("hidden: %v, %v", r, err)
	}
	if r, err := c.Lookup(ctx, "", odd); err != nil || r.Symlink != odd || r.Size != int64(len(odd)) {
		t.Errorf("link: %v, %v", r, err)
	}
	if r, err := c.Lookup(ctx, "", "dev"); err != nil || r.Rdev() != 1<<40|0x0103 || r.Size != 0 || !r.IsSpecial() {
		t.Errorf("device: %v, %v", r, err)
	}
	r, err := c.Lookup(ctx, "", "old")
	if err != nil || r.MTime != -1 || r.MTimeNsec != 999_999_999 || r.UID != math.MaxUint32 || r.GID != 1<<31 || r.Hash != h || r.Nlink() != math.MaxUint32 {
		t.Errorf("file: %v, %v", r, err)
	}
	if id, err := c.FirstOfGroup(ctx, math.MaxUint32); err != nil || id != r.ID {
		t.Errorf("group: %d, %v", id, err)
	}
	if _, err := c.FirstOfGroup(ctx, 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("no group: %v", err)
	}
	if n, err := c.Nested(ctx); err != nil || len(n) != 1 || n[0] != (Nested{"/n", h, 5, false}) {
		t.Errorf("nested: %v, %v", n, err)
	}
	if s, err := c.Statistics(ctx); err != nil || s.Self.Entries() != 6 || s.Self.Nested != 1 {
		t.Errorf("statistics: %v, %v", s, err)
	}
}
