package catalog

import (
	"bytes"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// goldenObjects inflates all objects of one kind: 'C' catalogs, 'H' histories.
func goldenObjects(t testing.TB, suffix hash.Suffix) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Path(t, "cvmfs"), "*.golden.test", "data", "*", "*"+string(rune(suffix))))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden objects of kind %c: %v", suffix, err)
	}
	objects := make(map[string][]byte, len(files))
	for _, f := range files {
		objects[filepath.Base(filepath.Dir(f))+filepath.Base(f)] = inflate(t, f)
	}
	return objects
}

func inflate(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zlib.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openTest writes b, with a trailer of foreign bytes, to a file of an odd name
// and opens that.
func openTest(t testing.TB, b []byte) *Catalog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a ?#%41&é\xff.db")
	if err := os.WriteFile(path, append(bytes.Clone(b), bytes.Repeat([]byte{0xA5}, 64)...), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
			t.Errorf("files beside the catalog: %q", left)
		}
	})
	return c
}

// walker compares one golden revision with its list.
type walker struct {
	t    *testing.T
	web  string
	want map[string][]string
	seen map[string]bool
}

func TestGoldenTrees(t *testing.T) {
	manifests, _ := filepath.Glob(filepath.Join(golden.Path(t, "cvmfs"), "manifests", "*", "*.cvmfspublished"))
	if len(manifests) == 0 {
		t.Fatal("no golden manifests")
	}
	for _, m := range manifests {
		fqrn, rev := filepath.Base(filepath.Dir(m)), strings.TrimSuffix(filepath.Base(m), ".cvmfspublished")
		t.Run(fqrn+"/"+rev, func(t *testing.T) {
			text, err := os.ReadFile(m)
			if err != nil {
				t.Fatal(err)
			}
			root, err := hash.Parse(string(regexp.MustCompile(`(?m)^C(.*)$`).FindSubmatch(text)[1]))
			if err != nil {
				t.Fatal(err)
			}
			w := &walker{t: t, web: filepath.Join(golden.Path(t, "cvmfs"), fqrn), seen: map[string]bool{}}
			w.want = readList(t, filepath.Join(golden.Path(t, "cvmfs"), "expected", fqrn, rev+".tsv"))
			w.catalog(root, "")
			for path := range w.want {
				if !w.seen[path] {
					t.Errorf("%q is missing", path)
				}
			}
		})
	}
}

func readList(t *testing.T, path string) map[string][]string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	escape := regexp.MustCompile(`\\x[0-9a-fA-F]{2}`)
	list := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		for i := range f {
			f[i] = escape.ReplaceAllStringFunc(f[i], func(s string) string {
				n, _ := strconv.ParseUint(s[2:], 16, 8)
				return string([]byte{byte(n)})
			})
		}
		list[strings.TrimSuffix(f[0], "/")] = f
	}
	return list
}

func (w *walker) catalog(h hash.Hash, prefix string) {
	t, ctx := w.t, context.Background()
	c := openTest(t, inflate(t, filepath.Join(w.web, h.Path(hash.Catalog))))
	if c.Prefix() != prefix || !c.HasOwners() {
		t.Fatalf("prefix %q, want %q", c.Prefix(), prefix)
	}
	nested, err := c.Nested(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mounts := make(map[string]Nested)
	for _, n := range nested {
		mounts[n.Path] = n
	}
	root, err := c.Root(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.row(c, prefix, root)
	w.dir(c, prefix, mounts)
	if len(mounts) > 0 {
		// What is left are mountpoints that no listing shows.
		for path := range mounts {
			if !strings.HasPrefix(path, "/.cvmfs") {
				t.Errorf("mountpoint %q was not met", path)
			}
		}
	}
}

func (w *walker) dir(c *Catalog, path string, mounts map[string]Nested) {
	ctx := context.Background()
	var rows []Row
	if err := c.Children(ctx, HashPath(path), math.MinInt64, func(r Row) bool { rows = append(rows, r); return true }); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range rows {
		at := path + "/" + r.Name
		if found, err := c.Lookup(ctx, path, r.Name); err != nil || found != r {
			w.t.Fatalf("Lookup %q: %v, %v", at, found, err)
		}
		if found, err := c.ByID(ctx, r.ID); err != nil || found != r {
			w.t.Fatalf("ByID %q: %v, %v", at, found, err)
		}
		if found, err := c.PathOf(ctx, r); err != nil || found != at {
			w.t.Fatalf("PathOf %q: %q, %v", at, found, err)
		}
		w.row(c, at, r)
		switch n, ok := mounts[at]; {
		case ok != r.IsNestedMount():
			w.t.Errorf("%q: nested %v, flags %#x", at, ok, r.Flags)
		case ok:
			delete(mounts, at)
			w.catalog(n.Hash, at)
		case r.IsDir():
			w.dir(c, at, mounts)
		}
	}
}

// row compares all columns of the list that a catalog knows.
func (w *walker) row(c *Catalog, path string, r Row) {
	w.seen[path] = true
	want := w.want[path]
	if want == nil {
		w.t.Errorf("%q should not be there", path)
		return
	}
	kinds := map[uint32]string{modeDir: "d", modeReg: "f", modeLink: "l", modeFIFO: "p", modeSock: "s", modeBlk: "b", modeChr: "c"}
	kind := kinds[r.Mode&modeType]
	got := []string{want[0], kind, fmt.Sprintf("%04o", r.Mode&0o7777), fmt.Sprint(r.UID), fmt.Sprint(r.GID),
		fmt.Sprint(r.Nlink()), fmt.Sprint(r.Size), fmt.Sprint(r.MTime), fmt.Sprint(r.MTimeNsec), want[9], want[10], want[11], want[12]}
	switch kind {
	case "d":
		got[5], got[6] = "-", "-"
	case "l":
		got[10] = r.Symlink
	case "b", "c":
		got[9] = fmt.Sprintf("%d:%d", r.Rdev()>>8, r.Rdev()&0xff)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%q:\n got %q\nwant %q", path, got, want)
	}
	w.content(c, path, r)
	w.xattrs(c, path, r, want[12])
}

func (w *walker) content(c *Catalog, path string, r Row) {
	ctx := context.Background()
	chunks, err := c.Chunks(ctx, r)
	if err != nil || (len(chunks) > 0) != r.IsChunked() {
		w.t.Errorf("%q: %d chunks, %v", path, len(chunks), err)
	}
	if hashed := !r.Hash.IsZero(); r.IsRegular() && !hashed && !r.IsChunked() || !r.IsRegular() && hashed {
		w.t.Errorf("%q: hash %v", path, r.Hash)
	}
	fqrn := filepath.Base(w.web)
	if external := strings.HasPrefix(fqrn, "delta"); r.IsRegular() && r.IsExternal() != external {
		w.t.Errorf("%q: external %v", path, r.IsExternal())
	}
	plain := strings.HasPrefix(fqrn, "beta") || strings.HasPrefix(fqrn, "delta")
	if r.IsRegular() && (r.Compression == None) != plain {
		w.t.Errorf("%q: compression %d", path, r.Compression)
	}
	if r.IsRegular() && !r.IsExternal() && !r.IsChunked() {
		if _, err := os.Stat(filepath.Join(w.web, r.Hash.Path(hash.File))); err != nil {
			w.t.Errorf("%q: object: %v", path, err)
		}
	}
	if r.LinkGroup() == 0 {
		return
	}
	first, err := c.FirstOfGroup(ctx, r.LinkGroup())
	if err != nil || first > r.ID || r.Nlink() < 2 {
		w.t.Errorf("%q: group %d begins at %d, is %d; %v", path, r.LinkGroup(), first, r.ID, err)
	}
	head, err := c.ByID(ctx, first)
	if err != nil || head.Hardlinks != r.Hardlinks || head.Hash != r.Hash {
		w.t.Errorf("%q: first of its group is %v, %v", path, head, err)
	}
}

func (w *walker) xattrs(c *Catalog, path string, r Row, want string) {
	attrs, err := c.Xattrs(context.Background(), r.ID)
	if err != nil || (len(attrs) > 0) != r.HasXattr {
		w.t.Errorf("%q: attributes %v, %v", path, attrs, err)
	}
	if (want != "-") != r.HasXattr {
		w.t.Errorf("%q: attributes %q, want %q", path, attrs, want)
	}
	list := make([]string, len(attrs))
	for i, a := range attrs {
		list[i] = fmt.Sprintf("%s=%x", a.Name, a.Value)
	}
	slices.Sort(list)
	if got := strings.Join(list, ";"); len(attrs) > 0 && got != want {
		w.t.Errorf("%q: attributes\n got %q\nwant %q", path, got, want)
	}
}
