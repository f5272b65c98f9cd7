package cvmfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaultTime is the mtime of nodes for which none is set.
var defaultTime = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// catalogMarker is the file that makes its directory a nested catalog.
const catalogMarker = ".cvmfscatalog"

// A Node is one file, directory, link or special file. Its fields may be set
// until it is published, and in between revisions.
type Node struct {
	Mode     uint32 // type (S_IFMT) and permission bits
	UID, GID uint32
	MTime    time.Time // nanoseconds are kept
	Target   string    // of a symlink
	Rdev     uint64    // of a device, as in stat(2)
	Xattrs   map[string]string
	Hidden   bool // not listed, but reachable by name
	External bool // a regular file whose bytes lie outside of the repository

	content  source
	children map[string]*Node
	bind     *Revision // of a bind mountpoint
}

// A source is where the bytes of a regular file come from.
type source struct {
	size int64
	open func() (io.ReadCloser, error)
}

func (n *Node) isDir() bool     { return n.Mode&unix.S_IFMT == unix.S_IFDIR }
func (n *Node) isRegular() bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }

// names are the entries of a directory in order.
func (n *Node) names() []string { return slices.Sorted(maps.Keys(n.children)) }

// A Tree is the content of a revision. Paths are relative to its root and parted
// by slashes; names may have any other bytes. Missing parents are made (0755).
// A mistake, such as a file below a file, is kept and returned by Err and by
// Publish. Not safe for concurrent use.
type Tree struct {
	root *Node
	err  error
}

// NewTree returns an empty tree.
func NewTree() *Tree { return &Tree{root: newNode(unix.S_IFDIR | 0o755)} }

func newNode(mode uint32) *Node {
	n := &Node{Mode: mode, MTime: defaultTime}
	if n.isDir() {
		n.children = make(map[string]*Node)
	}
	return n
}

// Root is the root directory's node.
func (t *Tree) Root() *Node { return t.root }

// Err is what went wrong so far, or nil.
func (t *Tree) Err() error { return t.err }

func (t *Tree) fail(format string, args ...any) {
	t.err = errors.Join(t.err, fmt.Errorf("cvmfstest: tree: "+format, args...))
}

// split takes a path apart; "" and "." are the root.
func split(p string) []string {
	p = strings.Trim(p, "/")
	if p == "" || p == "." {
		return nil
	}
	return strings.Split(p, "/")
}

// Get is the node at p, or nil.
func (t *Tree) Get(p string) *Node {
	n := t.root
	for _, name := range split(p) {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n
}

// Put places n at p, in place of what was there, and returns it. The same node
// at several places is a hard link.
func (t *Tree) Put(p string, n *Node) *Node {
	parts := split(p)
	if len(parts) == 0 {
		t.fail("%q cannot be replaced", p)
		return n
	}
	last := len(parts) - 1
	dir := t.dir(parts[:last])
	if dir != nil && t.valid(parts[last]) {
		dir.children[parts[last]] = n
	}
	return n
}

// valid notes a name that no directory can have.
func (t *Tree) valid(name string) bool {
	ok := name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.Contains(name, "\x00")
	if !ok {
		t.fail("%q is no name", name)
	}
	return ok
}

// dir finds or makes a directory.
func (t *Tree) dir(parts []string) *Node {
	n := t.root
	for i, name := range parts {
		c := n.children[name]
		if c == nil {
			if !t.valid(name) {
				return nil
			}
			c = newNode(unix.S_IFDIR | 0o755)
			n.children[name] = c
		}
		if !c.isDir() {
			t.fail("%q is no directory", path.Join(parts[:i+1]...))
			return nil
		}
		n = c
	}
	return n
}

// Dir makes a directory, or sets the permission bits of the one that is there.
func (t *Tree) Dir(p string, perm uint32) *Node {
	n := t.dir(split(p))
	if n == nil {
		return newNode(unix.S_IFDIR | perm)
	}
	n.Mode = unix.S_IFDIR | perm
	return n
}

// File makes a regular file. The tree keeps content.
func (t *Tree) File(p string, content []byte, perm uint32) *Node {
	return t.FileFrom(p, int64(len(content)), perm, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
}

// FileFrom makes a regular file of size bytes that open gives; it is called at
// each publication that has not stored this node before.
func (t *Tree) FileFrom(p string, size int64, perm uint32, open func() (io.ReadCloser, error)) *Node {
	n := newNode(unix.S_IFREG | perm)
	n.content = source{size, open}
	return t.Put(p, n)
}

// Symlink makes a symbolic link, whose text is target as it is.
func (t *Tree) Symlink(p, target string) *Node {
	n := newNode(unix.S_IFLNK | 0o777)
	n.Target = target
	return t.Put(p, n)
}

// HardLink gives the file at old a second name. Links count within a directory
// only.
func (t *Tree) HardLink(p, old string) *Node {
	n := t.Get(old)
	if n == nil || n.isDir() {
		t.fail("hard link %q: no file %q", p, old)
		return newNode(unix.S_IFREG)
	}
	return t.Put(p, n)
}

// Special makes a device, a fifo or a socket; mode has the type.
func (t *Tree) Special(p string, mode uint32, rdev uint64) *Node {
	n := newNode(mode)
	n.Rdev = rdev
	return t.Put(p, n)
}

// Nested makes the directory p a nested catalog.
func (t *Tree) Nested(p string) { t.File(path.Join(p, catalogMarker), nil, 0o644) }

// Bind makes an empty directory at p a bind mountpoint, which shows the root of
// an earlier revision of the same repository.
func (t *Tree) Bind(p string, r *Revision) { t.Dir(p, 0o755).bind = r }

// Remove takes away what is at p, with all below.
func (t *Tree) Remove(p string) {
	parts := split(p)
	if len(parts) == 0 || t.Get(p) == nil {
		t.fail("remove %q: there is nothing", p)
		return
	}
	last := len(parts) - 1
	delete(t.Get(strings.Join(parts[:last], "/")).children, parts[last])
}
