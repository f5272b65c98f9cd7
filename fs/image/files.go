package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Files reads the tree of one image by paths, which mean what they mean inside:
// absolute links and `..` never lead out of it. Errors that wrap fs.ErrNotExist
// say that a name, or what a link leads to, is not there. Safe for concurrent use.
type Files struct{ tree fileTree }

// fileTree is a tree whose names are clean absolute paths in it. Of their parts
// but the last none is a link.
type fileTree interface {
	lstat(ctx context.Context, name string) (f File, target string, err error)
	// readDir calls fn for each name, and what describes it, until it returns false.
	readDir(ctx context.Context, name string, fn func(name string, stat func() (File, error)) bool) error
	readAt(ctx context.Context, name string, p []byte, off int64) (int, error)
}

// File is one node of an image.
type File struct {
	Path  string // in the image
	Mode  uint32 // S_IFMT and permission bits
	Size  int64  // bytes
	Nlink uint32
	ID    any // the same for all names of a file; can be compared
}

// IsDir reports whether f is a directory.
func (f File) IsDir() bool { return f.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports whether f is a regular file.
func (f File) IsRegular() bool { return f.Mode&unix.S_IFMT == unix.S_IFREG }

// IsProgram reports whether f is a file that can be run.
func (f File) IsProgram() bool { return f.IsRegular() && f.Mode&0o111 != 0 }

// maxLinks is how many links are followed for one name, as in the kernel.
const maxLinks = 40

// Resolve follows the links of name, the last one too.
func (f Files) Resolve(ctx context.Context, name string) (File, error) {
	rest, links := strings.Split(name, "/"), 0
	at := File{Path: "/", Mode: unix.S_IFDIR}
	whole := false
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch {
		case part == "" || part == ".":
			continue
		case !at.IsDir():
			return File{}, fmt.Errorf("%s: %s is no directory: %w", name, at.Path, iofs.ErrNotExist)
		case part == "..":
			at, whole = File{Path: path.Dir(at.Path), Mode: unix.S_IFDIR}, false
			continue
		}
		next, target, err := f.Lstat(ctx, path.Join(at.Path, part))
		if err != nil {
			return File{}, err
		}
		if next.Mode&unix.S_IFMT != unix.S_IFLNK {
			at, whole = next, true
			continue
		}
		if links++; links > maxLinks {
			return File{}, fmt.Errorf("%s: more than %d links: %w", name, maxLinks, iofs.ErrNotExist)
		}
		if path.IsAbs(target) {
			at, whole = File{Path: "/", Mode: unix.S_IFDIR}, false
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	if !whole { // it ends in "..", or is the root
		full, _, err := f.Lstat(ctx, at.Path)
		return full, err
	}
	return at, nil
}

// Lstat describes name, a clean absolute path whose links are resolved but the
// last: if it is a link itself, target is where it leads.
func (f Files) Lstat(ctx context.Context, name string) (at File, target string, err error) {
	at, target, err = f.tree.lstat(ctx, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, volume.ErrNotDir) || errors.Is(err, unix.ENAMETOOLONG) {
		err = fmt.Errorf("%w: %w", iofs.ErrNotExist, err)
	}
	at.Path = name
	return at, target, err
}

// Absent reports whether err says that a name is not there, or that the host shows
// it to others only, which has the same consequences for who runs from it.
func Absent(err error) bool {
	return errors.Is(err, iofs.ErrNotExist) || errors.Is(err, iofs.ErrPermission)
}

// Program resolves name; ok is false where it is no file that can be run.
func (f Files) Program(ctx context.Context, name string) (at File, ok bool, err error) {
	at, err = f.Resolve(ctx, name)
	if Absent(err) {
		return at, false, nil
	}
	return at, err == nil && at.IsProgram(), err
}

// ReadDir lists at most n names of a directory that Resolve found, in no
// certain order.
func (f Files) ReadDir(ctx context.Context, name string, n int) (names []string, err error) {
	err = f.tree.readDir(ctx, name, func(name string, _ func() (File, error)) bool {
		names = append(names, name)
		return len(names) < n
	})
	return names, err
}

// ReadFile reads at most the first n bytes of a file that Resolve found.
func (f Files) ReadFile(ctx context.Context, name string, n int64) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f.reader(ctx, name), 0, n))
}

// reader reads a file that Resolve found. It lives as long as one call.
func (f Files) reader(ctx context.Context, name string) fileReader {
	return fileReader{ctx, f.tree, name}
}

type fileReader struct {
	ctx  context.Context
	tree fileTree
	name string
}

// ReadAt implements io.ReaderAt.
func (r fileReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.tree.readAt(r.ctx, r.name, p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// VolumeFiles reads the tree below root, a directory of a volume.
func VolumeFiles(root volume.Child) Files { return Files{volumeTree{root}} }

type volumeTree struct{ root volume.Child }

func (t volumeTree) find(ctx context.Context, name string) (volume.Child, error) {
	c := t.root
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		var err error
		if part == "" {
			continue
		}
		if c, err = c.Volume.Lookup(ctx, c.Entry, part); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (t volumeTree) lstat(ctx context.Context, name string) (f File, target string, err error) {
	c, err := t.find(ctx, name)
	if err != nil {
		return f, "", err
	}
	if f = described(c); f.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err = c.Volume.Readlink(ctx, c.Entry)
	}
	return f, target, err
}

func described(c volume.Child) File {
	return File{Mode: c.Attr.Mode, Size: int64(min(c.Attr.Size, 1<<63-1)), Nlink: c.Attr.Nlink, ID: c.Node}
}

func (t volumeTree) readDir(ctx context.Context, name string, fn func(string, func() (File, error)) bool) error {
	c, err := t.find(ctx, name)
	if err != nil {
		return err
	}
	return c.Volume.ReadDir(ctx, c.Entry, 0, func(c volume.Child) bool {
		return fn(c.Name, func() (File, error) { return described(c), nil })
	})
}

func (t volumeTree) readAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	c, err := t.find(ctx, name)
	if err != nil {
		return 0, err
	}
	return c.Volume.ReadAt(ctx, c.Entry, p, off)
}

// HostFiles reads the tree in the host's directory dir.
func HostFiles(dir string) Files { return Files{hostTree(dir)} }

type hostTree string

func (t hostTree) lstat(ctx context.Context, name string) (f File, target string, err error) {
	name = path.Join(string(t), name)
	if f, err = describedHost(ctx, name); err == nil && f.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err = os.Readlink(name)
	}
	return f, target, err
}

func describedHost(ctx context.Context, name string) (File, error) {
	var st unix.Stat_t
	err := ctx.Err()
	if err == nil {
		err = unix.Lstat(name, &st)
	}
	if err != nil {
		return File{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	return File{Mode: st.Mode, Size: st.Size, Nlink: uint32(st.Nlink), ID: [2]uint64{uint64(st.Dev), st.Ino}}, nil
}

func (t hostTree) readDir(ctx context.Context, name string, fn func(string, func() (File, error)) bool) error {
	d, err := os.Open(path.Join(string(t), name))
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			if !fn(name, func() (File, error) { return describedHost(ctx, path.Join(d.Name(), name)) }) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// readAt opens the file anew: whoever reads much of it asks for much at once.
// What is no regular file is not read, and never waited for.
func (t hostTree) readAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path.Join(string(t), name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return 0, errors.Join(err, fmt.Errorf("%s is no regular file", f.Name()))
	}
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
