package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const (
	entryBits = 40
	entryMask = volume.MaxEntry
	maxVolume = 1<<24 - 1
	maxName   = 255 // bytes; what statfs(2) says
)

// Options make a file system.
type Options struct {
	// Root is volume 0; its entry 1 is the root directory.
	Root volume.Volume
	// Table numbers the other volumes.
	Table *Table
	// Open makes the volume of a key that an earlier daemon gave a number.
	Open func(key string) (volume.Volume, error)
	// Capacity answers statfs(2); nil shows an empty file system.
	Capacity func() Capacity
	// Crawlers are kept out of what volumes guard; nil: nobody is.
	Crawlers *Crawlers
	Logger   *slog.Logger
}

// Capacity is what statfs(2) shows.
type Capacity struct {
	TotalBytes, UsedBytes uint64
	Files                 uint64
}

// FS answers the kernel's requests. Safe for concurrent use.
type FS struct {
	fuse.RawFileSystem // ENOSYS for all that stands not here
	opts               Options
	log                *slog.Logger
	ioErrors           atomic.Uint64
	complaints         complaints

	mu      sync.RWMutex             // guards the two maps
	volumes map[uint64]volume.Volume // by number
	numbers map[string]uint64        // by key
}

// New makes the file system.
func New(o Options) *FS {
	return &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		opts:          o,
		log:           o.Logger,
		volumes:       map[uint64]volume.Volume{0: o.Root},
		numbers:       map[string]uint64{o.Root.Key(): 0},
	}
}

// IOErrors counts the requests that were answered EIO.
func (f *FS) IOErrors() uint64 { return f.ioErrors.Load() }

// String names the file system.
func (f *FS) String() string { return "neurodeskfs" }

// NodeID returns the number that the kernel knows n by.
func (f *FS) NodeID(n volume.Node) (uint64, error) {
	key := n.Volume.Key()
	f.mu.RLock()
	number, ok := f.numbers[key]
	f.mu.RUnlock()
	if !ok {
		var err error
		if number, err = f.opts.Table.number(spaceVolumes, key); err != nil {
			return 0, err
		}
		if number > maxVolume {
			return 0, errors.New("fs: more than 16 million volumes: remount")
		}
		f.mu.Lock()
		f.numbers[key] = number
		if f.volumes[number] == nil {
			f.volumes[number] = n.Volume
		}
		f.mu.Unlock()
	}
	if n.Entry > entryMask {
		return 0, fmt.Errorf("fs: entry %d of %q is out of range", n.Entry, key)
	}
	return number<<entryBits | n.Entry, nil
}

// node finds the volume that a node id lies in.
func (f *FS) node(id uint64) (volume.Volume, uint64, error) {
	number := id >> entryBits
	f.mu.RLock()
	v := f.volumes[number]
	f.mu.RUnlock()
	if v != nil {
		return v, id & entryMask, nil
	}
	key, err := f.opts.Table.record(spaceVolumes, number)
	if err != nil {
		return nil, 0, err
	}
	if v, err = f.opts.Open(key); err != nil {
		return nil, 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.volumes[number] == nil {
		f.volumes[number] = v
		f.numbers[key] = number
	}
	return f.volumes[number], id & entryMask, nil
}

// request is a kernel request's context: it ends when the kernel interrupts.
type request struct {
	context.Context
	cancel <-chan struct{}
}

func (r request) Done() <-chan struct{} { return r.cancel }

func (r request) Err() error {
	select {
	case <-r.cancel:
		return context.Canceled
	default:
		return nil
	}
}

func newRequest(cancel <-chan struct{}) context.Context {
	return request{context.Background(), cancel}
}

func fillAttr(out *fuse.Attr, id uint64, a volume.Attr) {
	*out = fuse.Attr{
		Ino:       inode(id),
		Size:      a.Size,
		Blocks:    1 + a.Size/512, // as the reference client counts
		Mtime:     uint64(a.MTime),
		Atime:     uint64(a.MTime),
		Ctime:     uint64(a.MTime),
		Mtimensec: a.MTimeNsec,
		Atimensec: a.MTimeNsec,
		Ctimensec: a.MTimeNsec,
		Mode:      a.Mode,
		Nlink:     a.Nlink,
		Owner:     fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:      a.Rdev,
		Blksize:   4096,
	}
	if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		// 1 says that subdirectories are not counted, as on btrfs. With a count
		// find(1) looks whether it can trust it, by a statfs(2) that no kernel
		// answers from its cache.
		out.Nlink = 1
	}
}

// fillEntry answers a look-up with c.
func (f *FS) fillEntry(out *fuse.EntryOut, c volume.Child) error {
	id, err := f.NodeID(c.Node)
	if err != nil {
		return err
	}
	out.NodeId = id
	out.SetEntryTimeout(c.Valid)
	out.SetAttrTimeout(c.Valid)
	fillAttr(&out.Attr, id, c.Attr)
	return nil
}

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > maxName {
		return fuse.Status(syscall.ENAMETOOLONG) // the kernel itself allows 1,024
	}
	v, dir, err := f.node(header.NodeId)
	if err != nil {
		return f.status("LOOKUP", header.NodeId, err)
	}
	c, err := v.Lookup(newRequest(cancel), dir, name)
	if errors.Is(err, iofs.ErrNotExist) && c.Valid > 0 {
		out.NodeId = 0 // a negative entry, which the kernel keeps
		out.SetEntryTimeout(c.Valid)
		return fuse.OK
	}
	if err == nil {
		err = f.fillEntry(out, c)
	}
	return f.status("LOOKUP", header.NodeId, err)
}

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	v, entry, err := f.node(in.NodeId)
	if err != nil {
		return f.status("GETATTR", in.NodeId, err)
	}
	a, err := v.Stat(newRequest(cancel), entry)
	if err != nil {
		return f.status("GETATTR", in.NodeId, err)
	}
	out.SetTimeout(volume.Forever)
	fillAttr(&out.Attr, in.NodeId, a)
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	v, entry, err := f.node(header.NodeId)
	if err != nil {
		return nil, f.status("READLINK", header.NodeId, err)
	}
	target, err := v.Readlink(newRequest(cancel), entry)
	return []byte(target), f.status("READLINK", header.NodeId, err)
}

// Read implements fuse.RawFileSystem: it reads into the reply's own buffer,
// which session keeps resident.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	v, entry, err := f.node(in.NodeId)
	if err != nil {
		return nil, f.status("READ", in.NodeId, err)
	}
	if f.refused(v, entry, in.Pid) {
		return nil, fuse.EACCES
	}
	n, err := v.ReadAt(newRequest(cancel), entry, buf, int64(in.Offset))
	if err != nil {
		return nil, f.status("READ", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Open, OpenDir and Flush are refused once for the life of the mount; the
// kernel then opens, and caches, without asking (FUSE_NO_OPEN_SUPPORT,
// FUSE_NO_OPENDIR_SUPPORT). That is why there are no file handles.

// Open implements fuse.RawFileSystem.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	return fuse.ENOSYS
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush implements fuse.RawFileSystem.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Forget implements fuse.RawFileSystem. Nothing is held, so nothing is let go.
func (f *FS) Forget(uint64, uint64) {}

// StatFs implements fuse.RawFileSystem: the cache's quota and use.
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	*out = fuse.StatfsOut{Bsize: block, Frsize: block, NameLen: maxName}
	if f.opts.Capacity != nil {
		c := f.opts.Capacity()
		out.Blocks = c.TotalBytes / block
		out.Bfree = (c.TotalBytes - min(c.TotalBytes, c.UsedBytes)) / block
		out.Bavail = out.Bfree
		out.Files = c.Files
	}
	return fuse.OK
}

// cookies of "." and ".."; the volume's own come behind them.
const (
	cookieDot = iota + 1
	cookieDotDot
	cookieFirst = cookieDotDot
)

// readDir calls add for the entries behind offset until it returns false.
func (f *FS) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add func(volume.Child, uint64) (bool, error)) error {
	v, dir, err := f.node(in.NodeId)
	if err != nil {
		return err
	}
	var inner error
	var cookie uint64
	if in.Offset > cookieFirst {
		cookie = in.Offset - cookieFirst
	}
	err = v.ReadDir(newRequest(cancel), dir, cookie, func(c volume.Child) bool {
		more, err := add(c, c.Cookie+cookieFirst)
		inner = err
		return more && err == nil
	})
	return errors.Join(err, inner)
}

// dots adds "." and ".." when offset stands before them.
func dots(in *fuse.ReadIn, add func(fuse.DirEntry) bool) bool {
	for i, name := range []string{".", ".."} {
		if in.Offset <= uint64(i) && !add(fuse.DirEntry{Name: name, Mode: syscall.S_IFDIR, Ino: inode(in.NodeId), Off: uint64(i) + cookieDot}) {
			return false
		}
	}
	return true
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if f.refusedDir(in) {
		return fuse.ENOENT
	}
	if !dots(in, out.AddDirEntry) {
		return fuse.OK
	}
	err := f.readDir(cancel, in, func(c volume.Child, off uint64) (bool, error) {
		id, err := f.NodeID(c.Node)
		return err == nil && out.AddDirEntry(fuse.DirEntry{Name: c.Name, Mode: c.Attr.Mode, Ino: inode(id), Off: off}), err
	})
	return f.status("READDIR", in.NodeId, err)
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if f.refusedDir(in) {
		return fuse.ENOENT
	}
	if !dots(in, func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil }) {
		return fuse.OK
	}
	err := f.readDir(cancel, in, func(c volume.Child, off uint64) (bool, error) {
		id, err := f.NodeID(c.Node)
		if err != nil {
			return false, err
		}
		e := out.AddDirLookupEntry(fuse.DirEntry{Name: c.Name, Mode: c.Attr.Mode, Ino: inode(id), Off: off})
		if e == nil {
			return false, nil
		}
		if c.Valid == 0 {
			return true, nil // node id 0: the kernel looks the name up when it needs it
		}
		return true, f.fillEntry(e, c)
	})
	return f.status("READDIRPLUS", in.NodeId, err)
}
