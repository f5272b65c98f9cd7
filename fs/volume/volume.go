// Package volume says what fs can mount: read-only trees whose nodes have
// numbers.
//
// A Volume is the synthetic tree, one CVMFS catalog at one place of one view, a
// squashfs image in one view, or a host directory. Its key names it for ever:
// whoever opens that key again, after a restart too, gets the same tree with
// the same numbers. What a number stands for never changes while its volume is
// immutable, so the kernel may keep what it was told.
//
// All methods are safe for concurrent use. They return errors that wrap
// io/fs.ErrNotExist (no such name), ErrStale (a number that means nothing any
// more), ErrNotDir, ErrNoXattr or a context's error; everything else is an
// input/output error to the caller.
package volume

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrStale is returned for an entry number that names nothing (any more).
	ErrStale = errors.New("stale entry")
	// ErrNotDir is returned when something is looked up below what is no directory.
	ErrNotDir = errors.New("not a directory")
	// ErrNotLink is returned by Readlink of what is no symbolic link.
	ErrNotLink = errors.New("not a symbolic link")
	// ErrIsDir is returned by ReadAt of a directory.
	ErrIsDir = errors.New("is a directory")
	// ErrNoXattr is returned for an extended attribute that is not there.
	ErrNoXattr = errors.New("no such attribute")
)

// MaxEntry bounds entry numbers: they have 40 bits.
const MaxEntry = 1<<40 - 1

// Forever is how long the kernel may believe what cannot change by itself;
// what does change is invalidated explicitly.
const Forever = time.Hour

// Attr is what stat(2) shows of a node.
type Attr struct {
	Mode      uint32 // S_IFMT and permission bits
	Nlink     uint32
	UID, GID  uint32
	Rdev      uint32 // encoded as Linux's dev_t
	Size      uint64 // bytes
	MTime     int64  // seconds since 1970
	MTimeNsec uint32
}

// Node is a place in a volume.
type Node struct {
	Volume Volume
	Entry  uint64
}

// Child is one name in a directory.
type Child struct {
	Node
	Name   string
	Cookie uint64 // ReadDir: where to go on behind this child
	Attr   Attr
	Valid  time.Duration // how long the name may be believed; of an absent one too
}

// Directory is the part of a volume that names things.
type Directory interface {
	// Lookup finds name in the directory dir. With an error that wraps
	// fs.ErrNotExist, Child.Valid says how long the absence may be believed.
	Lookup(ctx context.Context, dir uint64, name string) (Child, error)
	// ReadDir calls fn for the children behind cookie (0: from the start), in
	// an order that does not change, until fn returns false. "." and ".." are
	// not among them.
	ReadDir(ctx context.Context, dir, cookie uint64, fn func(Child) bool) error
}

// Contents is the part of a volume that holds bytes.
type Contents interface {
	// Readlink returns a symbolic link's target.
	Readlink(ctx context.Context, entry uint64) (string, error)
	// ReadAt fills p from offset off, bytes. Fewer than len(p) bytes without
	// an error mean that the file ends there.
	ReadAt(ctx context.Context, entry uint64, p []byte, off int64) (int, error)
}

// Attributes is the part of a volume that describes nodes.
type Attributes interface {
	Stat(ctx context.Context, entry uint64) (Attr, error)
	// Xattr returns one extended attribute, or ErrNoXattr.
	Xattr(ctx context.Context, entry uint64, name string) ([]byte, error)
	// Xattrs lists the names of the extended attributes.
	Xattrs(ctx context.Context, entry uint64) ([]string, error)
}

// Volume is a read-only tree.
type Volume interface {
	// Key names the volume, at most 4 KiB of any bytes.
	Key() string
	Directory
	Contents
	Attributes
}

// Guarded is implemented by volumes that hold what crawlers (backup, virus
// scanners, locate) must not read. It looks at names only.
type Guarded interface {
	// Guarded reports whether entry, a directory, is not to be listed by them,
	// or, a file, not to be read.
	Guarded(entry uint64) bool
}

// Table numbers what has no number by itself: directories named by their path
// and generated files. Numbers are given once and kept as long as the mount
// lives, whatever becomes of the daemon. Safe for concurrent use.
type Table interface {
	// Intern returns the number of record, giving it one if it has none.
	Intern(record string) (uint64, error)
	// Record returns what Intern numbered, or ErrStale.
	Record(entry uint64) (string, error)
	// Each calls fn for the records that begin with prefix, until it returns
	// false. Records that come meanwhile may be missed.
	Each(prefix string, fn func(entry uint64, record string) bool) error
}

// Change is a directory whose listing is not what it was.
type Change struct {
	Dir   Node
	Names []string // entries that changed, came or went; those that stayed what they were are not among them
}
