package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

func TestHashPath(t *testing.T) {
	// The root is MD5 of nothing, d41d8cd98f00b204 e9800998ecf8427e.
	want := PathHash{A: 0x04b2008fd98c1dd4, B: 0x7e42f8ec980980e9}
	if got := HashPath(""); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	long := strings.Repeat("/x", 2000)
	if HashPath(long) != hashBytes([]byte(long)) {
		t.Error("long paths hash differently")
	}
}

// TestPlans makes sure that no query scans or sorts.
func TestPlans(t *testing.T) {
	c := openTest(t, small(t))
	for _, q := range []struct{ sql, want string }{
		{c.sql.byID, "SEARCH catalog USING INTEGER PRIMARY KEY (rowid=?)"},
		{c.sql.byPath, "SEARCH catalog USING INDEX sqlite_autoindex_catalog_1 (md5path_1=? AND md5path_2=?)"},
		{c.sql.children, "SEARCH catalog USING INDEX idx_catalog_parent (parent_1=? AND parent_2=? AND rowid>?)"},
		{c.sql.chunks, "SEARCH chunks USING INDEX sqlite_autoindex_chunks_1 (md5path_1=? AND md5path_2=?)"},
	} {
		var plan []string
		err := c.db.each("EXPLAIN QUERY PLAN "+q.sql, func(s *sqlite.Stmt) error {
			plan = append(plan, s.ColumnText(3))
			return nil
		})
		if err != nil || len(plan) != 1 || plan[0] != q.want {
			t.Errorf("%s\n got %q, %v\nwant %q", q.sql, plan, err, q.want)
		}
	}
}

// TestChildrenPages reads a large directory in pages of 100, as a kernel does.
func TestChildrenPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flat")
	if err := writeBig(path, 6000); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, flat, after, total := context.Background(), HashPath("/flat"), int64(math.MinInt64), 0
	for {
		n := 0
		err := c.Children(ctx, flat, after, func(r Row) bool {
			if want := fmt.Sprintf("file-%06d.nii.gz", total); r.Name != want || r.ID <= after {
				t.Fatalf("entry %d is %q, want %q", r.ID, r.Name, want)
			}
			if same, err := c.ByID(ctx, r.ID); err != nil || same != r { // the callback may ask
				t.Fatal(err)
			}
			after = r.ID
			total++
			n++
			return n < 100
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if total != 3000 {
		t.Errorf("%d entries", total)
	}
}

func TestNotFound(t *testing.T) {
	c, ctx := openTest(t, small(t)), context.Background()
	_, err1 := c.ByID(ctx, 99)
	_, err2 := c.ByPath(ctx, HashPath("/none"))
	_, err3 := c.Lookup(ctx, "/d", "none")
	_, err4 := c.Lookup(ctx, "", "d/f")
	_, err5 := c.Lookup(ctx, "/d", "..")
	_, err6 := c.Xattrs(ctx, 99)
	_, err7 := c.FirstOfGroup(ctx, 7)
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
		if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%d: %v", i+1, err)
		}
	}
	if err := c.Children(ctx, HashPath("/none"), 0, func(Row) bool { t.Error("entry"); return true }); err != nil {
		t.Errorf("children of nothing: %v", err)
	}
}

// TestCancelledAndClosed calls everything with a dead context, then after Close.
func TestCancelledAndClosed(t *testing.T) {
	c := openTest(t, small(t))
	root, err := c.Root(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"ByID":         func(ctx context.Context) error { _, err := c.ByID(ctx, 1); return err },
		"ByPath":       func(ctx context.Context) error { _, err := c.ByPath(ctx, root.Path); return err },
		"Lookup":       func(ctx context.Context) error { _, err := c.Lookup(ctx, "", "d"); return err },
		"Children":     func(ctx context.Context) error { return c.Children(ctx, root.Path, 0, func(Row) bool { return true }) },
		"PathOf":       func(ctx context.Context) error { _, err := c.PathOf(ctx, root); return err },
		"Xattrs":       func(ctx context.Context) error { _, err := c.Xattrs(ctx, 1); return err },
		"Nested":       func(ctx context.Context) error { _, err := c.Nested(ctx); return err },
		"Statistics":   func(ctx context.Context) error { _, err := c.Statistics(ctx); return err },
		"FirstOfGroup": func(ctx context.Context) error { _, err := c.FirstOfGroup(ctx, 1); return err },
		"Chunks": func(ctx context.Context) error {
			_, err := c.Chunks(ctx, Row{Mode: 0o100644, Flags: FlagChunked})
			return err
		},
	}
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	for name, call := range calls {
		if err := call(dead); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", name, err)
		}
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls {
		if err := call(context.Background()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
}

// TestConcurrent lets goroutines use one catalog in all ways, also while it is closed.
func TestConcurrent(t *testing.T) {
	b := small(t)
	c, err := OpenBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b) // OpenBytes has its own copy
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if rows, err := tour(c, 100); err != nil || rows != 7 {
					t.Errorf("%d rows, %v", rows, err)
				}
			}
		})
	}
	wg.Wait()
	started := make(chan struct{}, 4)
	for range cap(started) {
		wg.Go(func() {
			started <- struct{}{}
			for {
				if _, err := tour(c, 100); err != nil {
					if !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range cap(started) {
		<-started
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// TestPathOf covers paths that the golden trees don't have.
func TestPathOf(t *testing.T) {
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "deep")
	w, err := Create(file, NewCatalog{RootPrefix: "/sw/v1"})
	if err != nil {
		t.Fatal(err)
	}
	path := "/sw/v1"
	w.Add(Entry{Path: path, Mode: 0o040755})
	for range pathCacheSize * 3 {
		path += "/x"
		w.Add(Entry{Path: path, Mode: 0o040755})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, r := range all(t, c) {
		got, err := c.PathOf(ctx, r)
		if err != nil || got != "/sw/v1"+strings.Repeat("/x", int(r.ID)-1) {
			t.Fatalf("entry %d: %.99q, %v", r.ID, got, err)
		}
	}
	if len(c.paths.young) > pathCacheSize || len(c.paths.old) > pathCacheSize {
		t.Errorf("%d and %d paths remembered", len(c.paths.young), len(c.paths.old))
	}
	root, err := c.Root(ctx)
	if err != nil || root.Name != "v1" || !root.IsNestedRoot() || root.Parent != HashPath("/sw") {
		t.Errorf("root: %+v, %v", root, err)
	}
	// The top directory is no child of its parent here.
	if err := c.Children(ctx, root.Parent, 0, func(r Row) bool { t.Errorf("child %q", r.Name); return true }); err != nil {
		t.Error(err)
	}
	for name, r := range map[string]Row{
		"forged name": {ID: 2, Path: HashPath("/sw/v1/x"), Parent: root.Path, Name: "y"},
		"no parent":   {ID: 2, Path: HashPath("/sw/v1/x"), Parent: HashPath("/none"), Name: "x"},
	} {
		if got, err := c.PathOf(ctx, r); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestPathCycle makes two directories each other's parent.
func TestPathCycle(t *testing.T) {
	c := openTest(t, change(t, small(t),
		"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE name = 'n') WHERE name = 'd';"+
			"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE name = 'd') WHERE name = 'n'"))
	r, err := c.ByPath(context.Background(), HashPath("/d/f"))
	if err != nil {
		t.Fatal(err)
	}
	if path, err := c.PathOf(context.Background(), r); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%.99q, %v", path, err)
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "a", "EMPTY": "", "NEST": "$(A)", "B:": "colon"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	for link, want := range map[string]string{
		"":                        "",
		"plain":                   "plain",
		"$(A)":                    "a",
		"x$(A)y$(A)z":             "xayaz",
		"$(UNSET)":                "",
		"$(UNSET:-d)/$(A:-d)":     "d/a",
		"$(EMPTY:-d)":             "",
		"$(UNSET:-)":              "",
		"$(UNSET:-a:-b)":          "a:-b",
		"$(NEST)":                 "$(A)",
		"$(UNSET:-$(A))":          "$(A)",
		"$(A":                     "$(A",
		"$(A)$(A":                 "a$(A",
		"$A ${A} $ ( $() $":       "$A ${A} $ (  $",
		"$$(A)":                   "$a",
		"$(":                      "$(",
		"$(A-:d)":                 "",
		"\xff$(A)\xfe":            "\xffa\xfe",
		"../$(N:-sw)/$(V:-v1)/bi": "../sw/v1/bi",
	} {
		if got := Expand(link, lookup); got != want {
			t.Errorf("%q: got %q, want %q", link, got, want)
		}
	}
}

func TestParseXattrs(t *testing.T) {
	for version, last := range map[byte]int{1: 255, 2: 300} {
		attrs := []Xattr{{"user.a", []byte{}}, {"user.b", []byte("\x00\xff")}, {strings.Repeat("n", 255), make([]byte, last)}}
		blob, err := packXattrs(attrs)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseXattrs(blob); err != nil || blob[0] != version || !reflect.DeepEqual(got, attrs) {
			t.Errorf("got %v, %v", got, err)
		}
		for n := range blob[1:] {
			if _, err := ParseXattrs(blob[:n+1]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("cut at %d: %v", n+1, err)
			}
		}
	}
	large := "\x02\x02\x01\x01\x00ab\x01\x02\x01c" + strings.Repeat("d", 258) // as the format says it
	if got, err := ParseXattrs([]byte(large)); err != nil || len(got) != 2 || string(got[0].Value) != "b" || got[1].Name != "c" || len(got[1].Value) != 258 {
		t.Errorf("large: %v, %v", got, err)
	}
	for _, bad := range []string{"\x01\x01\x00\x00", "\x01\x01\x01\x00\x00", "\x01\x02\x01\x00a\x01\x00a", "\x01\x00x", "\x02\x01\x01\x00"} {
		if _, err := ParseXattrs([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseXattrs([]byte{3, 0}); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if got, err := ParseXattrs(nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
}

// TestHistoryOld reads tags of revision 0, without size and branch, and refuses bad ones.
func TestHistoryOld(t *testing.T) {
	ctx := context.Background()
	h := hash.Sum(hash.RMD160, []byte("x"))
	path := filepath.Join(t.TempDir(), "history")
	if err := CreateHistory(path, "x.test", []Tag{{Name: "a", Hash: h, Revision: 1}, {Name: "b", Hash: h, Revision: 2, Branch: "side"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tags := func(sql string) ([]Tag, error) {
		h, err := OpenHistoryBytes(change(t, b, sql))
		if err != nil {
			return nil, err
		}
		defer h.Close()
		tag, err := h.ByDate(ctx, time.Unix(1<<39, 0))
		return []Tag{tag}, err
	}
	if got, err := tags(""); err != nil || got[0].Name != "a" {
		t.Errorf("trunk only: %v, %v", got, err)
	}
	old := "CREATE TABLE t (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT);" +
		"INSERT INTO t SELECT name, hash, revision, timestamp, channel, description FROM tags; DROP TABLE tags; ALTER TABLE t RENAME TO tags"
	if got, err := tags(old); err != nil || got[0].Name != "b" || got[0].Hash != h {
		t.Errorf("old: %v, %v", got, err)
	}
	for _, sql := range []string{"UPDATE tags SET hash = 'x'", "UPDATE tags SET name = NULL", "UPDATE tags SET revision = -1",
		"UPDATE tags SET timestamp = 'x'", "UPDATE tags SET size = -1", "DROP TABLE tags", "ALTER TABLE tags DROP COLUMN hash"} {
		if _, err := tags(sql); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if err := CreateHistory(path, "x.test", nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
}
