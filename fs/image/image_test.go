package image

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
	"github.com/neurodesk/neurodeskfs/fs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const fqrn = "images.example.org"

// noMemo remembers nothing.
type noMemo struct{}

func (noMemo) Get(string, string) ([]byte, bool) { return nil, false }
func (noMemo) Put(string, string, []byte)        {}

// site is a served repository and the node table of one mount.
type site struct {
	t      *testing.T
	server *cvmfstest.Server
	repo   *cvmfstest.Repository
	tree   *cvmfstest.Tree
	table  string
	points []string // the host's top-level directories
}

var testKeys = sync.OnceValues(cvmfstest.NewKeys)

func newSite(t *testing.T) *site {
	t.Helper()
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, tree: cvmfstest.NewTree(), table: filepath.Join(t.TempDir(), "nodes"), points: []string{"data", "etc", "scratch"}}
	if s.repo, err = cvmfstest.New(cvmfstest.Options{FQRN: fqrn, Keys: keys}); err != nil {
		t.Fatal(err)
	}
	if s.server, err = cvmfstest.NewServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.server.Close() })
	s.server.Add(fqrn, s.repo.Store)
	for _, img := range []string{"one", "two"} {
		s.tree.Nested("img/" + img)
		s.tree.File("img/"+img+"/etc/name", []byte(img), 0o644)
		s.tree.File("img/"+img+"/bin/tool", []byte("tool"), 0o755)
		s.tree.HardLink("img/"+img+"/bin/alias", "img/"+img+"/bin/tool")
		s.tree.Symlink("img/"+img+"/lib", "usr/lib")
		s.tree.Nested("img/" + img + "/usr")
		s.tree.File("img/"+img+"/usr/lib/x", []byte("x"), 0o644).Xattrs = map[string]string{"user.a": "b"}
	}
	s.tree.File("plain/etc/name", []byte("plain"), 0o644) // an image without a catalog of its own
	s.tree.File("data/file", []byte("old"), 0o644)
	s.tree.File("data/kept", []byte("kept"), 0o644)
	s.publish()
	return s
}

func (s *site) publish() {
	s.t.Helper()
	if _, err := s.repo.Publish(s.t.Context(), s.tree); err != nil {
		s.t.Fatal(err)
	}
}

// open is a daemon's start over the same node table.
func (s *site) open() (*Images, *cvmfs.Repository) {
	s.t.Helper()
	net, err := fetch.New(fetch.Config{Servers: []string{s.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond})
	if err != nil {
		s.t.Fatal(err)
	}
	pem, err := s.repo.Keys.MasterPEM()
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := trust.ParseKeys(pem)
	if err != nil {
		s.t.Fatal(err)
	}
	repo, err := cvmfs.Open(s.t.Context(), cvmfs.Options{FQRN: fqrn, Keys: keys, Net: net, Store: cache.NewMemory(16 << 20), Memo: noMemo{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(repo.Close)
	f, err := os.OpenFile(s.table, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	table, err := fs.OpenTable(f, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { table.Close() })
	return New([]*cvmfs.Repository{repo}, table, func() []string { return s.points }), repo
}

func (s *site) image(images *Images, repo *cvmfs.Repository, path string) (string, volume.Child) {
	s.t.Helper()
	e, err := repo.Resolve(s.t.Context(), repo.Head().Root, path)
	if err != nil {
		s.t.Fatal(err)
	}
	id, spec, err := images.Identify(s.t.Context(), repo, e)
	if err != nil {
		s.t.Fatal(err)
	}
	kept, err := ParseSpec(spec.Format())
	if err != nil || kept != spec {
		s.t.Errorf("spec %+v is kept as %+v, %v", spec, kept, err)
	}
	root, err := images.Root(s.t.Context(), id, kept)
	if err != nil {
		s.t.Fatal(err)
	}
	return id, root
}

func down(t *testing.T, c volume.Child, path string) volume.Child {
	t.Helper()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if c, err = c.Volume.Lookup(t.Context(), c.Entry, name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return c
}

func text(t *testing.T, c volume.Child) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := c.Volume.ReadAt(t.Context(), c.Entry, b, 0)
	if err != nil {
		t.Error(err)
	}
	return string(b[:n])
}

func names(t *testing.T, c volume.Child, step int) (list []string) {
	t.Helper()
	for cookie := uint64(0); ; {
		n := 0
		err := c.Volume.ReadDir(t.Context(), c.Entry, cookie, func(c volume.Child) bool {
			if c.Cookie <= cookie {
				t.Errorf("%s: cookie %d behind %d", c.Name, c.Cookie, cookie)
			}
			list, cookie = append(list, c.Name), c.Cookie
			n++
			return n < step
		})
		if err != nil {
			t.Fatal(err)
		}
		if n < step {
			slices.Sort(list)
			return list
		}
	}
}

// TestKeysOpenTheSameVolumes: after a restart each volume's key leads to the
// same nodes, without a look-up.
func TestKeysOpenTheSameVolumes(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	raw, err := images.Raw(fqrn).Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, root := s.image(images, repo, "/img/one")
	_, plain := s.image(images, repo, "/plain")
	before := map[string]volume.Child{
		"raw": raw, "raw dir": down(t, raw, "img/one/bin"), "raw file": down(t, raw, "img/one/bin/tool"), "root": root, "bind point": down(t, root, "scratch"),
		"image dir": down(t, root, "usr/lib"), "image file": down(t, root, "usr/lib/x"), "plain": plain, "plain file": down(t, plain, "etc/name"), "link": down(t, root, "lib"),
	}
	for name, c := range before {
		if n := len(c.Volume.Key()); n == 0 || n > 4096 {
			t.Errorf("%s: a key of %d bytes", name, n)
		}
	}
	again, _ := s.open()
	for name, c := range before {
		v, err := again.Open(c.Volume.Key())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := v.Stat(t.Context(), c.Entry)
		if err != nil || a != c.Attr || v.Key() != c.Volume.Key() {
			t.Errorf("%s: %+v, %v, was %+v", name, a, err, c.Attr)
		}
	}
	for _, key := range []string{"", "x", "tree", rawPrefix + "other.example.org", rootPrefix, rootPrefix + "x\x00" + rawPrefix + fqrn, rootPrefix + "5", catalogPrefix, catalogPrefix + "\x00" + fqrn + "\x00\x00zz\x000\x00", catalogPrefix + "\x00none\x00\x00" + strings.Repeat("0", 40) + "\x000\x00"} {
		if v, err := again.Open(key); err == nil {
			t.Errorf("the key %q opens %v", key, v)
		}
	}
}

// TestOnePlaceForEachDirectory: the raw view and the images have no directory
// node in common, since the kernel would move it.
func TestOnePlaceForEachDirectory(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	raw, err := images.Raw(fqrn).Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, one := s.image(images, repo, "/img/one")
	_, two := s.image(images, repo, "/img/two")
	seen := map[string]string{}
	for where, c := range map[string]volume.Child{
		"raw one": down(t, raw, "img/one"), "raw one bin": down(t, raw, "img/one/bin"), "raw one usr": down(t, raw, "img/one/usr"), "raw two usr": down(t, raw, "img/two/usr"),
		"one": one, "one bin": down(t, one, "bin"), "one usr": down(t, one, "usr"), "two": two, "two usr": down(t, two, "usr"), "one data": down(t, one, "data"), "two data": down(t, two, "data"),
	} {
		node := c.Volume.Key() + "\x00" + strconv.FormatUint(c.Entry, 10)
		if other, ok := seen[node]; ok {
			t.Errorf("%s and %s are one node", where, other)
		}
		seen[node] = where
	}
	tool, alias := down(t, one, "bin/tool"), down(t, one, "bin/alias")
	if tool.Node != alias.Node || tool.Attr.Nlink != 2 {
		t.Errorf("hard links are nodes %+v and %+v", tool.Node, alias.Node)
	}
}

func TestRootShowsBindPoints(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	if _, err := images.Raw(fqrn).Root(t.Context()); err != nil { // the table's first record
		t.Fatal(err)
	}
	_, root := s.image(images, repo, "/img/one")
	want := []string{".cvmfscatalog", "bin", "data", "etc", "lib", "scratch", "usr"}
	for step := 1; step < 9; step++ {
		if got := names(t, root, step); !slices.Equal(got, want) {
			t.Errorf("by %d: %q", step, got)
		}
	}
	if got := text(t, down(t, root, "etc/name")); got != "one" {
		t.Errorf("the image's own directory is hidden: %q", got)
	}
	point := down(t, root, "data")
	if point.Attr.Mode != unix.S_IFDIR|0o755 || len(names(t, point, 5)) != 0 {
		t.Errorf("a bind point: %+v", point.Attr)
	}
	if _, err := point.Volume.Lookup(t.Context(), point.Entry, "x"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("below a bind point: %v", err)
	}
	c, err := root.Volume.Lookup(t.Context(), root.Entry, "newdir")
	if !errors.Is(err, iofs.ErrNotExist) || c.Valid != absentAtRoot {
		t.Errorf("what the host may get: %v, believed for %s", err, c.Valid)
	}
	s.points = append(s.points, "newdir")
	if n := down(t, root, "newdir"); n.Node == point.Node {
		t.Error("two bind points are one node")
	}
	if c, err := root.Volume.Lookup(t.Context(), root.Entry, "usr"); err != nil || c.Volume == root.Volume {
		t.Errorf("usr is %+v, %v", c, err)
	}
	for _, entry := range []uint64{0, 2, 1 << 39} { // 2 stands for the first record, which is no bind point
		if _, err := root.Volume.Stat(t.Context(), entry); !errors.Is(err, volume.ErrStale) {
			t.Errorf("entry %d of the root: %v", entry, err)
		}
	}
}

// TestARevisionMovesNobody changes the repository under a raw view and an image.
func TestARevisionMovesNobody(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	raw := images.Raw(fqrn)
	top, err := raw.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"img", "img/one", "img/one/bin", "data", "img/two/usr/lib"}
	before := map[string]volume.Child{}
	for _, p := range paths {
		before[p] = down(t, top, p)
	}
	file, kept := down(t, top, "data/file"), down(t, top, "data/kept")
	id, root := s.image(images, repo, "/img/one")
	s.tree.File("data/file", []byte("new"), 0o644)
	s.tree.File("data/added", nil, 0o644)
	s.tree.File("img/one/etc/name", []byte("one, changed"), 0o644)
	s.publish()
	head, moved, err := repo.Candidate(t.Context())
	if err != nil || !moved {
		t.Fatalf("moved %v, %v", moved, err)
	}
	changes, err := raw.Move(t.Context(), head)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if now := down(t, top, p); now.Entry != before[p].Entry || now.Volume.Key() != before[p].Volume.Key() {
			t.Errorf("%s was node %d, is %d", p, before[p].Entry, now.Entry)
		}
	}
	if now := down(t, top, "data/file"); now.Node == file.Node || text(t, now) != "new" || text(t, file) != "old" {
		t.Errorf("the changed file: %q, and %q for who has it open", text(t, now), text(t, file))
	}
	if now := down(t, top, "data/kept"); now.Entry != kept.Entry || now.Volume.Key() != kept.Volume.Key() {
		t.Error("a file that did not change is another node")
	}
	if got := text(t, down(t, root, "etc/name")); got != "one" {
		t.Errorf("the image that runs shows %q", got)
	}
	if newID, now := s.image(images, repo, "/img/one"); newID == id || text(t, down(t, now, "etc/name")) != "one, changed" {
		t.Errorf("the changed image has the name %s, was %s", newID, id)
	}
	told := map[uint64][]string{}
	for _, c := range changes {
		slices.Sort(c.Names)
		told[c.Dir.Entry] = c.Names
	}
	if got := told[before["data"].Entry]; !slices.Equal(got, []string{"added", "file"}) {
		t.Errorf("told of %q in data", got)
	}
	if got, ok := told[before["img/two/usr/lib"].Entry]; ok {
		t.Errorf("told of %q where nothing changed", got)
	}
}

func TestRawViewOfWhatIsGone(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	raw := images.Raw(fqrn)
	top, err := raw.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, lib := down(t, top, "data"), down(t, top, "img/one/lib")
	s.tree.Remove("data")
	s.publish()
	head, _, err := repo.Candidate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Move(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if _, err := top.Volume.Lookup(t.Context(), top.Entry, "data"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("a directory that went has its name still: %v", err)
	}
	if got := names(t, dir, 2); !slices.Equal(got, []string{"file", "kept"}) || text(t, down(t, dir, "file")) != "old" {
		t.Errorf("who stands in a directory that went sees %q", got)
	}
	if target, err := lib.Volume.Readlink(t.Context(), lib.Entry); target != "usr/lib" || err != nil || lib.Attr.Size != 7 {
		t.Errorf("link %q, %v, size %d", target, err, lib.Attr.Size)
	}
	if _, err := lib.Volume.Lookup(t.Context(), lib.Entry, "x"); !errors.Is(err, volume.ErrNotDir) {
		t.Errorf("look-up below a link: %v", err)
	}
	x := down(t, top, "img/one/usr/lib/x")
	if v, err := x.Volume.Xattr(t.Context(), x.Entry, "user.a"); string(v) != "b" || err != nil {
		t.Errorf("xattr %q, %v", v, err)
	}
	if _, err := x.Volume.Xattr(t.Context(), x.Entry, "user.b"); !errors.Is(err, volume.ErrNoXattr) {
		t.Errorf("no xattr: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Volume.ReadAt(ctx, x.Entry, make([]byte, 9), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted read: %v", err)
	}
}
