package session

import (
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// memFS is a read-only tree in memory; a node's id is its index plus one. It
// answers OPEN, OPENDIR, FLUSH and ACCESS with ENOSYS, as fs does, so that the
// kernel stops asking.
type memFS struct {
	fuse.RawFileSystem
	nodes     []*memNode
	unmounted atomic.Int32
}

type memNode struct {
	id       uint64
	name     string
	mode     uint32
	mu       sync.Mutex // guards data
	data     []byte
	children []*memNode

	hang      chan struct{} // a READ waits for it, or for its cancel channel
	lookup    bool          // the LOOKUP waits, and not the READ
	deaf      bool          // the wait ignores the cancel channel
	entered   chan struct{} // gets one token for each request that begins to wait
	cancelled atomic.Int32
	panics    bool
	errno     fuse.Status // of READLINK
}

const day = 24 * 3600

func newMemFS() *memFS {
	fs := &memFS{RawFileSystem: fuse.NewDefaultRawFileSystem()}
	fs.nodes = []*memNode{{id: 1, mode: fuse.S_IFDIR | 0o755}}
	return fs
}

func (fs *memFS) root() *memNode { return fs.nodes[0] }

func (fs *memFS) add(parent *memNode, n *memNode) *memNode {
	n.id = uint64(len(fs.nodes) + 1)
	fs.nodes = append(fs.nodes, n)
	parent.children = append(parent.children, n)
	return n
}

func (fs *memFS) dir(parent *memNode, name string) *memNode {
	return fs.add(parent, &memNode{name: name, mode: fuse.S_IFDIR | 0o755})
}

func (fs *memFS) file(parent *memNode, name, data string) *memNode {
	return fs.add(parent, &memNode{name: name, mode: fuse.S_IFREG | 0o755, data: []byte(data)})
}

func (fs *memFS) hanging(parent *memNode, name string) *memNode {
	n := fs.file(parent, name, "late\n")
	n.hang, n.entered = make(chan struct{}), make(chan struct{}, 1000)
	return n
}

func (fs *memFS) node(id uint64) *memNode {
	if id == 0 || id > uint64(len(fs.nodes)) {
		return nil
	}
	return fs.nodes[id-1]
}

func (fs *memFS) attr(n *memNode, a *fuse.Attr) {
	*a = fuse.Attr{Ino: n.id, Mode: n.mode, Size: uint64(len(n.content())), Nlink: 1, Blksize: 4096}
}

func (fs *memFS) entry(n *memNode, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: n.id, EntryValid: day, AttrValid: day}
	fs.attr(n, &out.Attr)
}

func (n *memNode) content() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.data
}

// replace changes the content behind the kernel's back.
func (n *memNode) replace(data string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.data = []byte(data)
}

// wait returns false if the request was cancelled.
func (n *memNode) wait(cancel <-chan struct{}) bool {
	if n.deaf {
		cancel = nil
	}
	n.entered <- struct{}{}
	select {
	case <-n.hang:
		return true
	case <-cancel:
		n.cancelled.Add(1)
		return false
	}
}

func (fs *memFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	for _, c := range fs.node(h.NodeId).children {
		if c.name == name {
			if c.lookup && !c.wait(cancel) {
				return fuse.EINTR
			}
			fs.entry(c, out)
			return fuse.OK
		}
	}
	*out = fuse.EntryOut{EntryValid: day}
	return fuse.OK
}

func (fs *memFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = day
	fs.attr(fs.node(in.NodeId), &out.Attr)
	return fuse.OK
}

func (fs *memFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n := fs.node(h.NodeId)
	return n.content(), n.errno
}

func (fs *memFS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }
func (fs *memFS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}
func (fs *memFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status   { return fuse.ENOSYS }
func (fs *memFS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }
func (fs *memFS) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENODATA
}
func (fs *memFS) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status {
	return fuse.OK
}
func (fs *memFS) OnUnmount() { fs.unmounted.Add(1) }

func (fs *memFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := fs.node(in.NodeId)
	if n.panics {
		panic("a handler's mistake")
	}
	if n.hang != nil && !n.lookup && !n.wait(cancel) {
		return nil, fuse.EINTR
	}
	data := n.content()
	off := min(in.Offset, uint64(len(data)))
	return fuse.ReadResultData(buf[:copy(buf, data[off:])]), fuse.OK
}

func (fs *memFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	children := fs.node(in.NodeId).children
	for i := in.Offset; i < uint64(len(children)); i++ {
		c := children[i]
		e := out.AddDirLookupEntry(fuse.DirEntry{Name: c.name, Mode: c.mode, Ino: c.id, Off: i + 1})
		if e == nil {
			break
		}
		fs.entry(c, e)
	}
	return fuse.OK
}

func (fs *memFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	children := fs.node(in.NodeId).children
	for i := in.Offset; i < uint64(len(children)); i++ {
		if !out.AddDirEntry(fuse.DirEntry{Name: children[i].name, Mode: children[i].mode, Ino: children[i].id, Off: i + 1}) {
			break
		}
	}
	return fuse.OK
}

// pattern is n bytes that differ from file to file.
func pattern(name string, n int) string {
	h := fnv.New32a()
	fmt.Fprint(h, name)
	x, b := h.Sum32(), make([]byte, n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}
