package tree

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const fqrn = "apps.example.org"

// testKeys are made once: it takes tenths of a second.
var testKeys = sync.OnceValues(cvmfstest.NewKeys)

// memMemo is a Memo in memory.
type memMemo struct{ sync.Map }

func (m *memMemo) Get(bucket, key string) ([]byte, bool) {
	v, ok := m.Load(bucket + "\x00" + key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (m *memMemo) Put(bucket, key string, value []byte) {
	if value == nil {
		m.Delete(bucket + "\x00" + key)
		return
	}
	m.Store(bucket+"\x00"+key, value)
}

func (m *memMemo) Each(bucket string, fn func(key string, value []byte)) {
	m.Range(func(k, v any) bool {
		if key, ok := strings.CutPrefix(k.(string), bucket+"\x00"); ok {
			fn(key, v.([]byte))
		}
		return true
	})
}

// openTable is the node table in a file, which it makes.
func openTable(t *testing.T, file string) *fs.Table {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	table, err := fs.OpenTable(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// site is a published repository, its server and what a daemon has.
type site struct {
	t       *testing.T
	server  *cvmfstest.Server
	repo    *cvmfstest.Repository
	content *cvmfstest.Tree
	rev     *cvmfstest.Revision
	memo    *memMemo
	table   string // the node table's file
	client  *cvmfs.Repository
	changes chan []volume.Node

	layout, path string    // of the source
	folders      []*Source // local ones, behind the repository
	pins         map[string]string
	begin        chan struct{} // of a tree that takes over
}

// addContainer adds an image with its commands.
func addContainer(tree *cvmfstest.Tree, name, commands string) {
	dir := "containers/" + name
	tree.Nested(dir)
	tree.File(dir+"/commands.txt", []byte(commands), 0o644)
	tree.File(dir+"/README.md", []byte("about "+name+"\n"), 0o644)
	tree.Nested(dir + "/" + name + ".simg")
	tree.File(dir+"/"+name+".simg/etc/name", []byte(name), 0o644)
}

func newSite(t *testing.T, fill func(*cvmfstest.Tree)) *site {
	t.Helper()
	s := &site{t: t, layout: LayoutNeurodesk, path: "/containers", memo: &memMemo{}, table: filepath.Join(t.TempDir(), "nodes"), content: cvmfstest.NewTree(), changes: make(chan []volume.Node, 100)}
	var err error
	if s.server, err = cvmfstest.NewServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.server.Close() })
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour)
	clock := func() time.Time { // no two revisions are of one second
		at = at.Add(time.Second)
		return at
	}
	if s.repo, err = cvmfstest.New(cvmfstest.Options{FQRN: fqrn, Keys: keys, Now: clock}); err != nil {
		t.Fatal(err)
	}
	fill(s.content)
	if s.rev, err = s.repo.Publish(t.Context(), s.content); err != nil {
		t.Fatal(err)
	}
	s.server.Add(fqrn, s.repo.Store)
	return s
}

// open starts a tree as a daemon does. The test closes it.
func (s *site) open() *Tree {
	s.t.Helper()
	net, err := fetch.New(fetch.Config{Servers: []string{s.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond, MaxInFlight: 64})
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
	s.client, err = cvmfs.Open(s.t.Context(), cvmfs.Options{
		FQRN: fqrn, Keys: keys, Net: net, Store: cache.NewMemory(64 << 20), Memo: s.memo, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.client.Close)
	table := openTable(s.t, s.table)
	images := image.New([]*cvmfs.Repository{s.client}, table, func() []string { return []string{"data", "etc"} })
	tree, err := New(Options{
		Sources: append([]*Source{{Repo: s.client, Layout: s.layout, Path: s.path}}, s.folders...),
		Images:  images, Table: table, Memo: s.memo, Pins: s.pins, Mountpoint: "/m", Launcher: NewLauncher([]byte("\x7fELF launcher")), Policy: []byte("{}\n"),
		Status: func() []byte { return []byte("{}\n") }, Version: "v1", Logger: slog.New(slog.DiscardHandler),
		Changed: func(n []volume.Node) { s.changes <- n }, Begin: s.begin,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(tree.Close)
	return tree
}

// publish makes the site's content a new revision, which the client shows.
func (s *site) publish() {
	s.t.Helper()
	if _, err := s.repo.Publish(s.t.Context(), s.content); err != nil {
		s.t.Fatal(err)
	}
	s.server.Add(fqrn, s.repo.Store)
	head, moved, err := s.client.Candidate(s.t.Context())
	if err != nil || !moved {
		s.t.Fatalf("no new revision: %v", err)
	}
	s.client.Show(head)
}

// complete waits until the index is complete.
func complete(t *testing.T, tree *Tree) {
	t.Helper()
	if err := wait(t.Context(), tree.index.Load().all); err != nil {
		t.Fatal(err)
	}
}

// walk follows a path from the tree's root, through links of the tree's own.
func walk(ctx context.Context, tree *Tree, path string) (volume.Child, error) {
	c := volume.Child{Node: volume.Node{Volume: tree, Entry: rootEntry}, Attr: tree.dirAttr()}
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if c, err = c.Volume.Lookup(ctx, c.Entry, name); err != nil {
			return c, err
		}
	}
	return c, nil
}

func find(t *testing.T, tree *Tree, path string) volume.Child {
	t.Helper()
	c, err := walk(t.Context(), tree, path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

func mustBeAbsent(t *testing.T, tree *Tree, path string) volume.Child {
	t.Helper()
	c, err := walk(t.Context(), tree, path)
	if !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("%s: %v, want none", path, err)
	}
	return c
}

// read returns the text of a file, or the target of a link.
func read(t *testing.T, tree *Tree, path string) string {
	t.Helper()
	c := find(t, tree, path)
	if c.Attr.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := c.Volume.Readlink(t.Context(), c.Entry)
		if err != nil || uint64(len(target)) != c.Attr.Size {
			t.Errorf("%s: target %q, %v; size %d", path, target, err, c.Attr.Size)
		}
		return target
	}
	b := make([]byte, c.Attr.Size+10)
	n, err := c.Volume.ReadAt(t.Context(), c.Entry, b, 0)
	if err != nil || uint64(n) != c.Attr.Size {
		t.Errorf("%s: %d bytes, %v; size %d", path, n, err, c.Attr.Size)
	}
	return string(b[:n])
}

// list reads a directory in steps of three entries, as a kernel with a small
// buffer does.
func list(t *testing.T, tree *Tree, path string) []string {
	t.Helper()
	c := volume.Child{Node: volume.Node{Volume: tree, Entry: rootEntry}}
	if path != "" {
		c = find(t, tree, path)
	}
	var names []string
	for cookie := uint64(0); ; {
		n := 0
		err := c.Volume.ReadDir(t.Context(), c.Entry, cookie, func(c volume.Child) bool {
			if c.Cookie <= cookie || c.Volume == nil || c.Entry == 0 {
				t.Errorf("%s: %q has cookie %d behind %d, node %d", path, c.Name, c.Cookie, cookie, c.Entry)
			}
			names, cookie = append(names, c.Name), c.Cookie
			n++
			return n < 3
		})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if n < 3 {
			slices.Sort(names)
			return names
		}
	}
}
