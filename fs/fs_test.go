package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// flat is a volume of one directory (entry 1) whose file i is entry i+1 and is
// named f<i>. Its err, if set, answers everything.
type flat struct {
	key   string
	files int
	valid time.Duration
	err   error
	calls atomic.Int64
}

func (v *flat) Key() string { return v.key }

func (v *flat) attr(entry uint64) volume.Attr {
	if entry == 1 {
		return volume.Attr{Mode: unix.S_IFDIR | 0o755, Nlink: 2, MTime: -5}
	}
	return volume.Attr{Mode: unix.S_IFREG | 0o4751, Nlink: 3, UID: 7, GID: 8, Size: 1024 * entry, MTime: 9, MTimeNsec: 10}
}

func (v *flat) child(i int) volume.Child {
	entry := uint64(i + 1)
	return volume.Child{Node: volume.Node{Volume: v, Entry: entry}, Name: fmt.Sprint("f", i), Cookie: uint64(i), Attr: v.attr(entry), Valid: v.valid}
}

func (v *flat) Lookup(_ context.Context, dir uint64, name string) (volume.Child, error) {
	v.calls.Add(1)
	if v.err != nil {
		return volume.Child{}, v.err
	}
	var i int
	if _, err := fmt.Sscanf(name, "f%d", &i); err != nil || i < 1 || i > v.files {
		return volume.Child{Valid: v.valid}, fmt.Errorf("%q: %w", name, iofs.ErrNotExist)
	}
	return v.child(i), nil
}

func (v *flat) ReadDir(_ context.Context, _, cookie uint64, fn func(volume.Child) bool) error {
	for i := int(cookie) + 1; i <= v.files; i++ {
		if !fn(v.child(i)) {
			break
		}
	}
	return v.err
}

func (v *flat) Readlink(context.Context, uint64) (string, error) { return "", volume.ErrNotLink }

func (v *flat) ReadAt(_ context.Context, _ uint64, p []byte, off int64) (int, error) {
	return copy(p, "content"[min(off, 7):]), v.err
}

func (v *flat) Stat(_ context.Context, entry uint64) (volume.Attr, error) {
	return v.attr(entry), v.err
}

func (v *flat) Xattr(_ context.Context, _ uint64, name string) ([]byte, error) {
	v.calls.Add(1)
	if name != "user.a" {
		return nil, volume.ErrNoXattr
	}
	return []byte("value"), v.err
}

func (v *flat) Xattrs(context.Context, uint64) ([]string, error) {
	return []string{"user.a", "user.b"}, v.err
}

// newFS makes a file system over root and a new table at path.
func newFS(t *testing.T, path string, root volume.Volume, open func(string) (volume.Volume, error)) *FS {
	t.Helper()
	return New(Options{Root: root, Table: openTable(t, path), Open: open, Logger: slog.New(slog.DiscardHandler)})
}

func TestErrnoOfErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{iofs.ErrNotExist, unix.ENOENT},
		{fmt.Errorf("x: %w", fmt.Errorf("y: %w", iofs.ErrNotExist)), unix.ENOENT},
		{volume.ErrStale, unix.ESTALE},
		{volume.ErrNotDir, unix.ENOTDIR},
		{volume.ErrNotLink, unix.EINVAL},
		{volume.ErrIsDir, unix.EISDIR},
		{volume.ErrNoXattr, unix.ENODATA},
		{context.Canceled, unix.EINTR},
		{context.DeadlineExceeded, unix.EIO},
		{errors.New("the bytes are wrong"), unix.EIO},
	} {
		v := &flat{key: "root", err: c.err}
		f := newFS(t, filepath.Join(t.TempDir(), "nodes"), v, nil)
		var attr fuse.AttrOut
		if got := f.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: 1}}, &attr); unix.Errno(got) != c.want {
			t.Errorf("%v: errno %d, want %d", c.err, got, c.want)
		}
		if got := f.IOErrors(); (got == 1) != (c.want == unix.EIO) {
			t.Errorf("%v: %d I/O errors were counted", c.err, got)
		}
	}
}

func TestLookup(t *testing.T) {
	v := &flat{key: "root", files: 3, valid: time.Hour}
	f := newFS(t, filepath.Join(t.TempDir(), "nodes"), v, nil)
	dir := &fuse.InHeader{NodeId: 1}
	var out fuse.EntryOut
	if s := f.Lookup(nil, dir, "f2", &out); s != fuse.OK || out.NodeId != 3 || out.EntryValid != 3600 || out.AttrValid != 3600 {
		t.Errorf("f2: %v, %+v", s, out)
	}
	if a := out.Attr; a.Ino != 3 || a.Mode != unix.S_IFREG|0o4751 || a.Nlink != 3 || a.Uid != 7 || a.Gid != 8 || a.Size != 3072 || a.Blocks != 7 || a.Mtime != 9 || a.Mtimensec != 10 {
		t.Errorf("f2: %+v", a)
	}
	out = fuse.EntryOut{}
	if s := f.Lookup(nil, dir, "none", &out); s != fuse.OK || out.NodeId != 0 || out.EntryValid != 3600 {
		t.Errorf("an absence that may be believed: %v, %+v", s, out)
	}
	v.valid = 0
	if s := f.Lookup(nil, dir, "none", &out); s != fuse.ENOENT {
		t.Errorf("an absence that may not be believed: %v", s)
	}
	before := v.calls.Load()
	if s := f.Lookup(nil, dir, strings.Repeat("n", 256), &out); unix.Errno(s) != unix.ENAMETOOLONG || v.calls.Load() != before {
		t.Errorf("a name of 256 bytes: %v", s)
	}
}

func TestReadDirPagesAreWhole(t *testing.T) {
	for _, size := range []int{64, 256, 300, 4096, 1 << 20} {
		v := &flat{key: "root", files: 100, valid: time.Hour}
		f := newFS(t, filepath.Join(t.TempDir(), "nodes"), v, nil)
		for _, plus := range []bool{false, true} {
			if plus && size < 256 {
				continue // an entry with its attributes does not fit
			}
			var names []string
			for off := uint64(0); ; {
				page, next := readPage(t, f, off, size, plus)
				if len(page) == 0 {
					break
				}
				names, off = append(names, page...), next
			}
			if len(names) != 102 || names[0] != "." || names[1] != ".." || names[2] != "f1" || names[101] != "f100" {
				t.Errorf("pages of %d bytes, plus %v: %d names: %.40q", size, plus, len(names), names)
			}
		}
	}
}

// readPage asks for one buffer of a listing and takes it apart as the kernel does.
func readPage(t *testing.T, f *FS, off uint64, size int, plus bool) (names []string, next uint64) {
	t.Helper()
	buf := make([]byte, size)
	list := fuse.NewDirEntryList(buf, off)
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: 1}, Offset: off, Size: uint32(size)}
	read := f.ReadDir
	if plus {
		read = f.ReadDirPlus
	}
	if s := read(nil, in, list); s != fuse.OK {
		t.Fatalf("listing from %d: %v", off, s)
	}
	return parseDirents(buf, plus)
}

func TestVolumesOpenAgainByTheirKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	inner := &flat{key: "inner", files: 1}
	first := newFS(t, path, &flat{key: "root"}, nil)
	id, err := first.NodeID(volume.Node{Volume: inner, Entry: 2})
	if err != nil || id != 1<<entryBits|2 {
		t.Fatalf("node id %x, %v", id, err)
	}
	opened := 0
	second := newFS(t, path, &flat{key: "root"}, func(key string) (volume.Volume, error) {
		opened++
		if key != "inner" {
			return nil, volume.ErrStale
		}
		return inner, nil
	})
	for range 2 {
		v, entry, err := second.node(id)
		if v != volume.Volume(inner) || entry != 2 || err != nil {
			t.Errorf("after a restart: %v, %d, %v", v, entry, err)
		}
	}
	if opened != 1 {
		t.Errorf("the volume was opened %d times", opened)
	}
	if again, err := second.NodeID(volume.Node{Volume: inner, Entry: 2}); again != id || err != nil {
		t.Errorf("node id %x, then %x, %v", id, again, err)
	}
	if _, _, err := second.node(2<<entryBits | 1); !errors.Is(err, volume.ErrStale) {
		t.Errorf("a volume that was never numbered: %v", err)
	}
	if _, err := second.NodeID(volume.Node{Volume: inner, Entry: volume.MaxEntry + 1}); err == nil {
		t.Error("an entry of 41 bits has a node id")
	}
}

func TestExtendedAttributes(t *testing.T) {
	v := &flat{key: "root"}
	f := newFS(t, filepath.Join(t.TempDir(), "nodes"), v, nil)
	node := &fuse.InHeader{NodeId: 1}
	for _, c := range []struct {
		name string
		room int
		n    uint32
		want unix.Errno
	}{
		{"user.a", 100, 5, 0},
		{"user.a", 5, 5, 0},
		{"user.a", 4, 5, unix.ERANGE},
		{"user.a", 0, 5, unix.ERANGE}, // go-fuse makes the size query's answer of it
		{"user.none", 100, 0, unix.ENODATA},
		{"system.posix_acl_access", 100, 0, unix.ENODATA},
	} {
		n, s := f.GetXAttr(nil, node, c.name, make([]byte, c.room))
		if n != c.n || unix.Errno(s) != c.want {
			t.Errorf("getxattr %s into %d bytes: %d, %v", c.name, c.room, n, s)
		}
	}
	if got := v.calls.Load(); got != 5 {
		t.Errorf("the volume was asked %d times: an ACL needs no look", got)
	}
	dest := make([]byte, 100)
	if n, s := f.ListXAttr(nil, node, dest); s != fuse.OK || string(dest[:n]) != "user.a\x00user.b\x00" {
		t.Errorf("listxattr: %q, %v", dest[:n], s)
	}
	if n, s := f.ListXAttr(nil, node, dest[:13]); n != 14 || s != fuse.ERANGE {
		t.Errorf("listxattr into too little: %d, %v", n, s)
	}
}

func TestInterruptEndsARequest(t *testing.T) {
	cancel := make(chan struct{})
	ctx := newRequest(cancel)
	if ctx.Err() != nil {
		t.Error("a request is cancelled from the start")
	}
	derived, stop := context.WithCancel(ctx)
	defer stop()
	close(cancel)
	<-derived.Done()
	if !errors.Is(ctx.Err(), context.Canceled) || !errors.Is(derived.Err(), context.Canceled) {
		t.Errorf("after INTERRUPT: %v, %v", ctx.Err(), derived.Err())
	}
}

func TestEveryChangeIsRefused(t *testing.T) {
	f := newFS(t, filepath.Join(t.TempDir(), "nodes"), &flat{key: "root"}, nil)
	_, written := f.Write(nil, nil, nil)
	_, writtenV := f.Writev(nil, nil, nil)
	for name, s := range map[string]fuse.Status{
		"setattr": f.SetAttr(nil, nil, nil), "mknod": f.Mknod(nil, nil, "", nil), "mkdir": f.Mkdir(nil, nil, "", nil),
		"unlink": f.Unlink(nil, nil, ""), "rmdir": f.Rmdir(nil, nil, ""), "rename": f.Rename(nil, nil, "", ""),
		"link": f.Link(nil, nil, "", nil), "symlink": f.Symlink(nil, nil, "", "", nil), "create": f.Create(nil, nil, "", nil),
		"setxattr": f.SetXAttr(nil, nil, "", nil), "removexattr": f.RemoveXAttr(nil, nil, ""), "tmpfile": f.Tmpfile(nil, nil, nil),
		"fallocate": f.Fallocate(nil, nil), "write": written, "writev": writtenV,
		"open for writing": f.Open(nil, &fuse.OpenIn{Flags: unix.O_RDWR}, nil),
	} {
		if s != fuse.EROFS {
			t.Errorf("%s: %v", name, s)
		}
	}
	for name, s := range map[string]fuse.Status{
		"open": f.Open(nil, &fuse.OpenIn{}, nil), "opendir": f.OpenDir(nil, nil, nil), "flush": f.Flush(nil, nil),
	} {
		if s != fuse.ENOSYS {
			t.Errorf("%s: %v: the kernel would ask at each call", name, s)
		}
	}
}

func TestStatFs(t *testing.T) {
	f := newFS(t, filepath.Join(t.TempDir(), "nodes"), &flat{key: "root"}, nil)
	var out fuse.StatfsOut
	for _, c := range []struct {
		capacity Capacity
		blocks   uint64
		free     uint64
	}{
		{Capacity{1 << 20, 1 << 19, 42}, 256, 128},
		{Capacity{1 << 20, 1 << 30, 42}, 256, 0}, // over the quota
		{Capacity{}, 0, 0},
	} {
		f.opts.Capacity = func() Capacity { return c.capacity }
		if s := f.StatFs(nil, nil, &out); s != fuse.OK || out.Blocks != c.blocks || out.Bfree != c.free || out.Bavail != c.free || out.Files != c.capacity.Files || out.NameLen != 255 || out.Bsize != 4096 {
			t.Errorf("%+v: %v, %+v", c.capacity, s, out)
		}
	}
}
