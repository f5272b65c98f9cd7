package cvmfstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// sample has one of each kind, in three catalogs.
func sample() *Tree {
	t := NewTree()
	t.File("hello", []byte("hello\n"), 0o644)
	t.File("empty", nil, 0o600)
	t.File("big", noise(10_000), 0o755).Xattrs = map[string]string{"user.a": "1", "user.b": ""}
	t.File("exact", noise(8192), 0o444)
	t.File("odd \n\xff name", []byte("x"), 0o644)
	t.Symlink("link", "$(VAR:-hello)")
	t.Special("null", unix.S_IFCHR|0o666, 259)
	t.Special("fifo", unix.S_IFIFO|0o644, 0)
	n := t.File("dir/one", noise(5000), 0o640)
	n.UID, n.GID, n.MTime = 1000, 100, time.Unix(1_600_000_000, 123_456_789)
	t.HardLink("dir/two", "dir/one")
	t.Nested("sw")
	t.Nested("sw/v1/deep")
	t.File("sw/v1/deep/tool", noise(4097), 0o755)
	t.Dir("sw/empty", 0o1777)
	return t
}

func TestEveryKindOfRepositoryReadsBack(t *testing.T) {
	for _, o := range []Options{
		{},
		{Algorithm: hash.RMD160, ChunkSize: 4096},
		{Algorithm: hash.SHAKE128, Plain: true, ChunkSize: 4096, Bulk: true, TTL: time.Minute},
		{Level: 9, Collect: true, AltPath: true, Store: NewDirStore(t.TempDir())},
		{AllExternal: true, ChunkSize: 4096},
	} {
		o.FQRN = "r.example.org"
		t.Run(fmt.Sprintf("%d plain=%v chunk=%d external=%v", o.Algorithm, o.Plain, o.ChunkSize, o.AllExternal), func(t *testing.T) {
			s := startServer(t)
			tree := sample()
			repo, rev := mustPublish(t, o, tree, "first")
			s.Add(repo.FQRN, repo.Store)
			s.Add(repo.FQRN+".external", repo.External)
			m, r := readRepository(t, s, repo)
			if m.Revision != 1 || m.RootCatalog != rev.Root || m.Name != repo.FQRN || m.GarbageCollectable != o.Collect || m.AltPath != o.AltPath {
				t.Errorf("manifest %+v", m)
			}
			if o.AltPath {
				mustGet(t, r.base+"/.cvmfsalt-"+m.RootCatalog.String()+"C")
			}
			compare(t, r.text, describeTree(t, tree))
			if got := slices.Sorted(maps.Keys(r.catalogs)); !slices.Equal(got, []string{"", "/sw", "/sw/v1/deep"}) {
				t.Errorf("catalogs %q", got)
			}
			one, two := r.files["/dir/one"], r.files["/dir/two"]
			if one.Nlink() != 2 || one.LinkGroup() == 0 || one.Hardlinks != two.Hardlinks {
				t.Errorf("hard links %x, %x", one.Hardlinks, two.Hardlinks)
			}
			big := r.files["/big"]
			if big.IsChunked() != (o.ChunkSize > 0) || big.IsExternal() != o.AllExternal || !o.AllExternal && big.Hash.IsZero() != (o.ChunkSize > 0 && !o.Bulk) {
				t.Errorf("big file: %+v", big)
			}
			checkObjects(t, repo, rev, o)
		})
	}
}

// checkObjects asks for the names of a file's objects.
func checkObjects(t *testing.T, repo *Repository, rev *Revision, o Options) {
	t.Helper()
	got := rev.Objects("big")
	want := map[bool]int{true: 3, false: 1}[o.ChunkSize > 0]
	if o.AllExternal {
		want = 0
	}
	if len(got) != want {
		t.Errorf("objects of the big file: %v, want %d", got, want)
	}
	for _, name := range append(got, append(rev.Objects(""), rev.Objects("/sw/v1/deep")...)...) {
		mustOpen(t, repo.Store, name)
	}
	if rev.Objects("")[0] != rev.Root.Path(hash.Catalog) || rev.Objects("nobody") != nil {
		t.Error("wrong objects")
	}
}

// describeTree is what a reader must find.
func describeTree(t *testing.T, tree *Tree) map[string]string {
	t.Helper()
	all := make(map[string]string)
	var walk func(path string, n *Node, nlink uint32)
	walk = func(path string, n *Node, nlink uint32) {
		var content []byte
		if n.isRegular() {
			r, err := n.content.open()
			if err != nil {
				t.Fatal(err)
			}
			if content, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			r.Close()
		}
		all[path] = describe(n.Mode, n.UID, n.GID, nlink, n.MTime, n.Target, n.Rdev, n.Xattrs, content)
		links := make(map[*Node]uint32)
		for _, c := range n.children {
			links[c]++
		}
		for name, c := range n.children {
			walk(path+"/"+name, c, links[c])
		}
	}
	walk("", tree.Root(), 1)
	return all
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for p := range want {
		if got[p] != want[p] {
			t.Errorf("%q:\n got %s\nwant %s", p, got[p], want[p])
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q should not be there", p)
		}
	}
}

func TestRevisions(t *testing.T) {
	s := startServer(t)
	tree := sample()
	repo, one := mustPublish(t, Options{FQRN: "r.example.org"}, tree, "v1")
	s.Add(repo.FQRN, repo.Store)
	first := describeTree(t, tree)
	_, before := readRepository(t, s, repo)

	tree.File("sw/v1/deep/tool", []byte("new"), 0o755)
	tree.Remove("dir")
	two, err := repo.Publish(t.Context(), tree, "v2")
	if err != nil {
		t.Fatal(err)
	}
	m, after := readRepository(t, s, repo)
	if m.Revision != 2 || two.Number != 2 {
		t.Errorf("revision %d", m.Revision)
	}
	compare(t, after.text, describeTree(t, tree))
	if before.catalogs["/sw/v1/deep"] == after.catalogs["/sw/v1/deep"] || before.catalogs["/sw"] == after.catalogs["/sw"] {
		t.Error("a changed catalog has the old hash")
	}

	tree.File("top", nil, 0o644)
	if _, err := repo.Publish(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	m, third := readRepository(t, s, repo)
	if third.catalogs["/sw"] != after.catalogs["/sw"] {
		t.Error("an unchanged nested catalog has a new hash")
	}
	checkTags(t, repo, m.History, map[string]uint64{"v1": 1, "v2": 2, "trunk-previous": 2, "trunk": 3})

	if err := repo.Serve(1); err != nil {
		t.Fatal(err)
	}
	m, again := readRepository(t, s, repo)
	if m.RootCatalog != one.Root {
		t.Error("not the first revision")
	}
	compare(t, again.text, first)
	if repo.Serve(0) == nil || repo.Serve(4) == nil {
		t.Error("a revision that does not exist is served")
	}
}

func checkTags(t *testing.T, repo *Repository, h hash.Hash, want map[string]uint64) {
	t.Helper()
	db, err := catalog.OpenHistoryBytes(mustInflate(t, mustOpen(t, repo.Store, h.Path(hash.History))))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tags, err := db.Tags(t.Context())
	if err != nil || db.FQRN() != repo.FQRN {
		t.Fatalf("%s, %v", db.FQRN(), err)
	}
	got := make(map[string]uint64)
	for _, tag := range tags {
		got[tag.Name] = tag.Revision
		if _, err := fs.Stat(repo.Store, tag.Hash.Path(hash.Catalog)); err != nil {
			t.Errorf("tag %s: %v", tag.Name, err)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("tags %v, want %v", got, want)
	}
}

func TestFromDir(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "a/b"), 0o750))
	must(os.WriteFile(filepath.Join(dir, "a/file"), noise(3000), 0o600))
	must(os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "a/link")))
	must(os.WriteFile(filepath.Join(dir, "a/b/.cvmfscatalog"), nil, 0o644))
	must(os.Symlink("../a/file", filepath.Join(dir, "a/b/sym")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o622))
	must(os.Chtimes(filepath.Join(dir, "a"), time.Time{}, time.Unix(1_500_000_000, 987_654_321)))
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, 259); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "a/file"), "user.test", []byte("v\x00w"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	tree, err := FromDir(dir)
	must(err)
	s := startServer(t)
	repo, _ := mustPublish(t, Options{FQRN: "r.example.org"}, tree)
	s.Add(repo.FQRN, repo.Store)
	_, r := readRepository(t, s, repo)
	want := describeDisk(t, dir)
	compare(t, r.text, want)
	if len(want) < 8 || len(r.catalogs) != 2 || r.files["/a/link"].Nlink() != 2 {
		t.Errorf("%d files, catalogs %v", len(want), r.catalogs)
	}
	if _, err := FromDir(filepath.Join(dir, "a/file")); err == nil {
		t.Error("a file was taken for a directory")
	}
	if _, err := FromDir(filepath.Join(dir, "nobody")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want ErrNotExist", err)
	}
}

// describeDisk looks with other eyes than FromDir.
func describeDisk(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		target, _ := os.Readlink(p)
		var content []byte
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			content, err = os.ReadFile(p)
		}
		x := make(map[string]string)
		v := make([]byte, 100)
		if n, err := unix.Lgetxattr(p, "user.test", v); err == nil {
			x["user.test"] = string(v[:n])
		}
		all[strings.TrimPrefix(p, dir)] = describe(st.Mode, st.Uid, st.Gid, uint32(st.Nlink), time.Unix(st.Mtim.Unix()), target, st.Rdev, x, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMistakesAreErrors(t *testing.T) {
	for name, build := range map[string]func(*Tree){
		"file below file":   func(t *Tree) { t.File("a", nil, 0o644); t.File("a/b", nil, 0o644) },
		"dir over file":     func(t *Tree) { t.File("a", nil, 0o644); t.Dir("a", 0o755) },
		"root as file":      func(t *Tree) { t.File("/", nil, 0o644) },
		"dot dot":           func(t *Tree) { t.File("a/..", nil, 0o644) },
		"empty name":        func(t *Tree) { t.File("a//b", nil, 0o644) },
		"empty parent":      func(t *Tree) { t.Dir("a//b", 0o755) },
		"long name":         func(t *Tree) { t.File(strings.Repeat("x", 256), nil, 0o644) },
		"link to nothing":   func(t *Tree) { t.HardLink("a", "b") },
		"remove nothing":    func(t *Tree) { t.Remove("a") },
		"too short":         func(t *Tree) { t.FileFrom("a", 2, 0o644, reads("x", nil)) },
		"too long":          func(t *Tree) { t.FileFrom("a", 2, 0o644, reads("xyz", nil)) },
		"does not open":     func(t *Tree) { t.FileFrom("a", 2, 0o644, reads("", os.ErrPermission)) },
		"without content":   func(t *Tree) { t.Special("a", unix.S_IFREG|0o644, 0) },
		"mode without type": func(t *Tree) { t.Special("a", 0o644, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			repo, err := New(Options{FQRN: "r.example.org", Keys: sharedKeys})
			if err != nil {
				t.Fatal(err)
			}
			tree := NewTree()
			build(tree)
			if _, err := repo.Publish(t.Context(), tree); err == nil {
				t.Fatal("it was published")
			}
			if _, err := repo.Store.Open(".cvmfspublished"); err == nil {
				t.Error("a manifest was written")
			}
			if _, err := repo.Publish(t.Context(), sample()); err != nil {
				t.Errorf("after the mistake: %v", err)
			}
		})
	}
	for _, fqrn := range []string{"", "a/b", "a\nb"} {
		if _, err := New(Options{FQRN: fqrn, Keys: sharedKeys}); err == nil {
			t.Errorf("%q was taken for a name", fqrn)
		}
	}
}

func reads(s string, err error) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte(s))), err }
}

func TestPublishStopsWithItsContext(t *testing.T) {
	repo, err := New(Options{FQRN: "r.example.org", Keys: sharedKeys})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := repo.Publish(ctx, sample()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}
