package squashfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"sort"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const (
	directoryHeader = 12
	directoryEntry  = 8
	maxRun          = 256 // entries behind one header
	maxName         = 256 // bytes, as in the kernel
	emptyListing    = 3   // a directory's size counts "." and ".." as three bytes
)

// Entry is a name in a directory.
type Entry struct {
	Name   string
	Entry  uint64 // the node's number
	Mode   uint32 // S_IFMT bits only
	Cookie uint64 // ReadDir: where to go on behind this entry
}

// listing walks a directory's entries. They stand in runs: a header with the
// inode block and number they have in common, then up to 256 entries.
type listing struct {
	c     cursor
	left  int64  // bytes of the listing not read yet
	at    int64  // offset of the header of this run, bytes
	pos   int64  // offset of the next byte
	count int    // entries of this run
	next  int    // the next of them
	start uint32 // of their inodes' block
	base  uint32 // their inode numbers are relative to this

	name   []byte // of the entry that step found, valid until the next step
	ref    uint64
	kind   int
	number uint32
}

// openDir returns the inode of a directory.
func (f *FS) openDir(ctx context.Context, dir uint64) (*inode, error) {
	n, err := f.inode(ctx, dir)
	if err != nil {
		return nil, err
	}
	if n.kind != typeDirectory {
		return nil, fmt.Errorf("squashfs: inode %#x: %w", n.ref, volume.ErrNotDir)
	}
	return n, nil
}

// list starts at offset bytes into the listing of n, the start of a run that
// stands in the metadata block at start, bytes into the directory table; or at
// the next piece of the index before it.
func (f *FS) list(ctx context.Context, n *inode, offset, start int64) (*listing, error) {
	if n.size <= emptyListing {
		return &listing{}, nil
	}
	c, err := f.cursorAt(ctx, &f.dirs, f.dirs.start+start, int((int64(n.offset)+offset)%metadataSize))
	if err != nil {
		return nil, err
	}
	return &listing{c: c, left: int64(n.size) - emptyListing - offset, pos: offset}, nil
}

// step finds the next entry; ok is false at the end.
func (l *listing) step(ctx context.Context) (ok bool, err error) {
	if l.next == l.count {
		if l.left <= 0 {
			return false, nil
		}
		if err := l.header(ctx); err != nil {
			return false, err
		}
	}
	p, err := l.take(ctx, directoryEntry)
	if err != nil {
		return false, err
	}
	le := binary.LittleEndian
	offset, delta, kind, size := le.Uint16(p), int16(le.Uint16(p[2:])), int(le.Uint16(p[4:])), int(le.Uint16(p[6:]))+1
	if kind < typeDirectory || kind >= extended || size > maxName {
		return false, corruptf("entry of type %d, name of %d bytes", kind, size)
	}
	if l.name, err = l.take(ctx, size); err != nil {
		return false, err
	}
	if !validName(l.name) {
		return false, corruptf("name %q", l.name)
	}
	l.ref, l.kind = uint64(l.start)<<16|uint64(offset), kind
	l.number = l.base + uint32(int32(delta))
	l.next++
	return true, nil
}

// header reads the header of the next run.
func (l *listing) header(ctx context.Context) error {
	l.at = l.pos
	p, err := l.take(ctx, directoryHeader)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count := le.Uint32(p)
	if count >= maxRun {
		return corruptf("run of %d entries", count)
	}
	l.count, l.next = int(count)+1, 0
	l.start, l.base = le.Uint32(p[4:]), le.Uint32(p[8:])
	return nil
}

func (l *listing) take(ctx context.Context, n int) ([]byte, error) {
	if int64(n) > l.left {
		return nil, corruptf("listing ends within an entry")
	}
	l.left -= int64(n)
	l.pos += int64(n)
	return l.c.take(ctx, n)
}

// cookie says where the entry ends that step found: the run's offset and the
// place in the run, so that going on needs no state.
func (l *listing) cookie() uint64 { return uint64(l.at)<<9 | uint64(l.next) }

// validName refuses what would lead out of the directory.
func validName(name []byte) bool {
	return bytes.IndexByte(name, '/') < 0 && bytes.IndexByte(name, 0) < 0 &&
		string(name) != "." && string(name) != ".."
}

func (l *listing) entry(f *FS) (Entry, error) {
	number, err := f.entry(l.ref, l.number)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Name: string(l.name), Entry: number, Mode: formats[l.kind], Cookie: l.cookie()}, nil
}

// ReadDir calls fn for the entries behind cookie (0: from the start), in the
// order of the image, which is that of the names' bytes, until fn returns
// false. "." and ".." are not among them. Cookies stay good for ever. Errors
// are volume.ErrNotDir, and as for ReadAt.
func (f *FS) ReadDir(ctx context.Context, dir, cookie uint64, fn func(Entry) bool) error {
	n, err := f.openDir(ctx, dir)
	if err != nil {
		return err
	}
	l, err := f.listFrom(ctx, n, cookie)
	for err == nil {
		var ok bool
		if ok, err = l.step(ctx); err != nil || !ok {
			break
		}
		var e Entry
		if e, err = l.entry(f); err == nil && !fn(e) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("squashfs: list directory %#x: %w", n.ref, err)
	}
	return nil
}

// listFrom returns the listing behind a cookie.
func (f *FS) listFrom(ctx context.Context, n *inode, cookie uint64) (*listing, error) {
	run, done := int64(cookie>>9), int(cookie&(1<<9-1))
	if run == 0 {
		l, err := f.list(ctx, n, 0, int64(n.start))
		return l, skipEntries(ctx, l, done, err)
	}
	if run >= int64(n.size)-emptyListing {
		return &listing{}, nil
	}
	index, err := f.index(ctx, n)
	if err != nil {
		return nil, err
	}
	p := index.before(func(p *indexPiece) bool { return int64(p.offset) > run })
	l, err := f.list(ctx, n, int64(p.offset), int64(p.start))
	if err != nil {
		return nil, err
	}
	l.left -= run - l.pos
	if err := l.c.skip(ctx, run-l.pos); err != nil {
		return nil, err
	}
	l.pos = run
	return l, skipEntries(ctx, l, done, nil)
}

func skipEntries(ctx context.Context, l *listing, n int, err error) error {
	for ok := true; n > 0 && ok && err == nil; n-- {
		ok, err = l.step(ctx)
	}
	return err
}

// Lookup finds name in the directory dir. Its Cookie is of no use. An error
// wraps fs.ErrNotExist if there is no such name, volume.ErrNotDir, or is as for
// ReadAt.
func (f *FS) Lookup(ctx context.Context, dir uint64, name string) (Entry, error) {
	n, err := f.openDir(ctx, dir)
	if err != nil {
		return Entry{}, err
	}
	e, err := f.find(ctx, n, name)
	if err != nil {
		return Entry{}, fmt.Errorf("squashfs: look up %q in %#x: %w", name, n.ref, err)
	}
	return e, nil
}

func (f *FS) find(ctx context.Context, n *inode, name string) (Entry, error) {
	first, end := indexPiece{start: uint32(n.start)}, int64(n.size)
	if n.indexed > 0 {
		index, err := f.index(ctx, n)
		if err != nil {
			return Entry{}, err
		}
		i := sort.Search(len(index.pieces), func(i int) bool { return index.name(i) > name })
		if first = index.first; i > 0 {
			first = index.pieces[i-1]
		}
		if i < len(index.pieces) {
			end = int64(index.pieces[i].offset)
		}
	}
	l, err := f.list(ctx, n, int64(first.offset), int64(first.start))
	if err != nil {
		return Entry{}, err
	}
	for l.next < l.count || l.pos < end {
		ok, err := l.step(ctx)
		if err != nil {
			return Entry{}, err
		}
		// As the kernel does, no more of the order is trusted than this.
		if !ok || name == "" || l.name[0] > name[0] {
			break
		}
		if string(l.name) == name {
			return l.entry(f)
		}
	}
	return Entry{}, fs.ErrNotExist
}
