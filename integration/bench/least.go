package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// least is the least that a FUSE file system can be: it shows a directory as it
// was at the start, the kernel may keep all of it for ever, and opening asks
// nobody. What is hot does not reach it, so that its figures are the kernel's own
// way through FUSE, which no daemon can shorten.
type least struct {
	fuse.RawFileSystem
	nodes []leastNode // by node id, from 1
}

type leastNode struct {
	path     string
	attr     fuse.Attr
	children []uint64
}

const leastKept = 24 * time.Hour

func (b *bench) leastFUSE(_ context.Context, local, dir string) error {
	l := &least{RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: make([]leastNode, 1)}
	ids := map[string]uint64{}
	if err := filepath.WalkDir(local, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		id := uint64(len(l.nodes))
		ids[path] = id
		n := leastNode{path: path}
		n.attr.FromStat(info.Sys().(*syscall.Stat_t))
		n.attr.Ino = id
		l.nodes = append(l.nodes, n)
		if parent := ids[filepath.Dir(path)]; parent != 0 {
			l.nodes[parent].children = append(l.nodes[parent].children, id)
		}
		return nil
	}); err != nil {
		return err
	}
	server, err := fuse.NewServer(l, dir, &fuse.MountOptions{
		FsName: "least", AllowOther: os.Geteuid() == 0, DirectMount: os.Geteuid() == 0, MaxWrite: 256 << 10, MaxReadAhead: 256 << 10,
		EnableSymlinkCaching: true, DisableXAttrs: true, Options: []string{"ro"},
	})
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() { server.Serve(); close(served) }()
	b.onExit(func() error { <-served; return nil }) // the mounts are taken away before
	return server.WaitMount()
}

func (l *least) entry(id uint64, out *fuse.EntryOut) {
	out.NodeId, out.Attr = id, l.nodes[id].attr
	out.SetEntryTimeout(leastKept)
	out.SetAttrTimeout(leastKept)
}

func (l *least) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	for _, id := range l.nodes[in.NodeId].children {
		if filepath.Base(l.nodes[id].path) == name {
			l.entry(id, out)
			return fuse.OK
		}
	}
	return fuse.ENOENT
}

func (l *least) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = l.nodes[in.NodeId].attr
	out.SetTimeout(leastKept)
	return fuse.OK
}

// ENOSYS: the kernel asks once and never again.

func (l *least) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (l *least) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (l *least) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (l *least) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, err := os.Open(l.nodes[in.NodeId].path)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	defer f.Close()
	n, _ := f.ReadAt(buf, int64(in.Offset))
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (l *least) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	children := l.nodes[in.NodeId].children
	for i := in.Offset; i < uint64(len(children)); i++ {
		id := children[i]
		e := out.AddDirLookupEntry(fuse.DirEntry{Name: filepath.Base(l.nodes[id].path), Mode: l.nodes[id].attr.Mode, Ino: id, Off: i + 1})
		if e == nil {
			break
		}
		l.entry(id, e)
	}
	return fuse.OK
}
