package image

import (
	"context"
	"errors"
	iofs "io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// rootPrefix begins the key of a root volume and its records in the table.
const rootPrefix = "root\x00"

// absentAtRoot is how long an absent top-level name is believed: the host may
// get a new top-level directory, and then a container needs to bind it.
const absentAtRoot = time.Minute

// root is an image's root directory as containers see it: the image's own
// entries and, as empty directories, the host's top-level directories that the
// image lacks, so that a runtime can bind them into a tree that is read-only.
// Nothing below the top differs from the image.
//
// Entry 1 is the root directory; the others are the empty directories.
type root struct {
	inner  volume.Node
	table  volume.Table
	points func() []string
	enter  func() // called when something is looked for in the tree; nil: nothing is
}

const rootEntry = 1

// bindCookie is where the empty directories' cookies begin.
const bindCookie = 1 << 60

// newRoot shows the directory inner as an image's root. points lists the names
// that the host's root directory has.
func newRoot(inner volume.Node, table volume.Table, points func() []string) *root {
	return &root{inner: inner, table: table, points: points}
}

// Key implements volume.Volume.
func (r *root) Key() string {
	return rootPrefix + strconv.FormatUint(r.inner.Entry, 10) + "\x00" + r.inner.Volume.Key()
}

// emptyDir describes a bind point.
var emptyDir = volume.Attr{Mode: unix.S_IFDIR | 0o755, Nlink: 2}

func (r *root) bindPoint(name string) (volume.Child, error) {
	n, err := r.table.Intern(r.Key() + "\x00" + name)
	// Table numbers begin at 1, which is the root here.
	return volume.Child{Node: volume.Node{Volume: r, Entry: n + rootEntry}, Name: name, Attr: emptyDir, Valid: volume.Forever}, err
}

// Lookup implements volume.Volume.
func (r *root) Lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	if dir != rootEntry {
		return volume.Child{Valid: volume.Forever}, iofs.ErrNotExist
	}
	if r.enter != nil {
		r.enter()
	}
	c, err := r.inner.Volume.Lookup(ctx, r.inner.Entry, name)
	if !errors.Is(err, iofs.ErrNotExist) {
		return c, err
	}
	for _, p := range r.points() {
		if p == name {
			return r.bindPoint(name)
		}
	}
	return volume.Child{Valid: absentAtRoot}, err
}

// ReadDir implements volume.Volume.
func (r *root) ReadDir(ctx context.Context, dir, cookie uint64, fn func(volume.Child) bool) error {
	if dir != rootEntry {
		return nil
	}
	if cookie < bindCookie {
		more := true
		err := r.inner.Volume.ReadDir(ctx, r.inner.Entry, cookie, func(c volume.Child) bool {
			more = fn(c)
			return more
		})
		if err != nil || !more {
			return err
		}
		cookie = bindCookie
	}
	for i, name := range r.points() {
		if uint64(i) < cookie-bindCookie {
			continue
		}
		_, err := r.inner.Volume.Lookup(ctx, r.inner.Entry, name)
		if err == nil {
			continue
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
		c, err := r.bindPoint(name)
		if err != nil {
			return err
		}
		c.Cookie = bindCookie + uint64(i) + 1
		if !fn(c) {
			return nil
		}
	}
	return nil
}

// Stat implements volume.Volume.
func (r *root) Stat(ctx context.Context, entry uint64) (volume.Attr, error) {
	if entry == rootEntry {
		return r.inner.Volume.Stat(ctx, r.inner.Entry)
	}
	record, err := r.table.Record(entry - rootEntry)
	if err == nil && !strings.HasPrefix(record, r.Key()+"\x00") {
		err = volume.ErrStale
	}
	return emptyDir, err
}

// Readlink implements volume.Volume; the entries are directories.
func (r *root) Readlink(context.Context, uint64) (string, error) { return "", volume.ErrNotLink }

// ReadAt implements volume.Volume; the entries are directories.
func (r *root) ReadAt(context.Context, uint64, []byte, int64) (int, error) {
	return 0, volume.ErrIsDir
}

// Xattr implements volume.Volume.
func (r *root) Xattr(ctx context.Context, entry uint64, name string) ([]byte, error) {
	if entry != rootEntry {
		return nil, volume.ErrNoXattr
	}
	return r.inner.Volume.Xattr(ctx, r.inner.Entry, name)
}

// Xattrs implements volume.Volume.
func (r *root) Xattrs(ctx context.Context, entry uint64) ([]string, error) {
	if entry != rootEntry {
		return nil, nil
	}
	return r.inner.Volume.Xattrs(ctx, r.inner.Entry)
}
