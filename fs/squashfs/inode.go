package squashfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// The types of inodes; those above are the extended forms of the same.
const (
	typeDirectory = iota + 1
	typeFile
	typeLink
	typeBlockDevice
	typeCharDevice
	typeFifo
	typeSocket
	extended // is added to a type
)

// formats are S_IFMT bits by basic type.
var formats = [...]uint32{
	typeDirectory:   0o040000,
	typeFile:        0o100000,
	typeLink:        0o120000,
	typeBlockDevice: 0o060000,
	typeCharDevice:  0o020000,
	typeFifo:        0o010000,
	typeSocket:      0o140000,
}

// bodySizes are the bytes behind the header, by type, less what varies: block
// lists, indices, targets.
var bodySizes = [...]int{0, 16, 16, 8, 8, 8, 4, 4, 24, 40, 8, 12, 12, 8, 8}

const (
	inodeHeader = 16
	maxTarget   = 65535 // bytes of a link's target, as in unsquashfs
)

// inode is an inode, decoded. rest stands behind its fixed part.
type inode struct {
	ref        uint64
	kind       int // a basic type
	mode       uint32
	uid, gid   uint16 // indices of the id table
	mtime      uint32
	number     uint32
	nlink      uint32
	size       uint64 // bytes; of a directory 3 more than its listing
	start      uint64 // of the data, or the directory's block
	fragment   uint32
	offset     uint32 // in the fragment, or in the directory's block
	indexed    int    // pieces of a directory's index
	rdev       uint32
	xattr      uint32
	large      bool // the extended form
	rest       cursor
	blockSize  uint32
	blockCount uint64
}

// inode reads the inode of an entry: volume.ErrStale if the entry means
// nothing, ErrCorrupt if what stands there is no inode.
func (f *FS) inode(ctx context.Context, entry uint64) (*inode, error) {
	ref, err := f.ref(ctx, entry)
	if err != nil {
		return nil, err
	}
	n, err := f.inodeAt(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("squashfs: inode %#x: %w", ref, err)
	}
	return n, nil
}

func (f *FS) inodeAt(ctx context.Context, ref uint64) (*inode, error) {
	if ref>>16 >= uint64(f.inodes.end) {
		return nil, corruptf("reference %#x", ref)
	}
	c, err := f.cursorAt(ctx, &f.inodes, f.inodes.start+int64(ref>>16), int(ref&0xffff))
	if err != nil {
		return nil, err
	}
	p, err := c.take(ctx, inodeHeader)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n := &inode{ref: ref, kind: int(le.Uint16(p)), mode: uint32(le.Uint16(p[2:])) & 0o7777,
		uid: le.Uint16(p[4:]), gid: le.Uint16(p[6:]), mtime: le.Uint32(p[8:]), number: le.Uint32(p[12:]),
		nlink: 1, xattr: noXattr, fragment: noFragment, blockSize: f.super.BlockSize}
	if n.kind < typeDirectory || n.kind >= len(bodySizes) {
		return nil, corruptf("type %d", n.kind)
	}
	if p, err = c.take(ctx, bodySizes[n.kind]); err != nil {
		return nil, err
	}
	if n.large = n.kind >= extended; n.large {
		n.kind -= extended - 1
		n.bodyLarge(p)
	} else {
		n.body(p)
	}
	n.mode |= formats[n.kind]
	n.rest = c
	return n, n.check(&c)
}

// body takes the fixed part of the basic form.
func (n *inode) body(p []byte) {
	le := binary.LittleEndian
	switch n.kind {
	case typeDirectory:
		n.start, n.nlink = uint64(le.Uint32(p)), le.Uint32(p[4:])
		n.size, n.offset = uint64(le.Uint16(p[8:])), uint32(le.Uint16(p[10:]))
	case typeFile:
		n.start, n.fragment = uint64(le.Uint32(p)), le.Uint32(p[4:])
		n.offset, n.size = le.Uint32(p[8:]), uint64(le.Uint32(p[12:]))
	case typeLink:
		n.nlink, n.size = le.Uint32(p), uint64(le.Uint32(p[4:]))
	case typeBlockDevice, typeCharDevice:
		n.nlink, n.rdev = le.Uint32(p), le.Uint32(p[4:])
	default:
		n.nlink = le.Uint32(p)
	}
}

// bodyLarge takes the fixed part of the extended form. A link's xattr number
// stands behind its target; see xattrSet.
func (n *inode) bodyLarge(p []byte) {
	le := binary.LittleEndian
	switch n.kind {
	case typeDirectory:
		n.nlink, n.size, n.start = le.Uint32(p), uint64(le.Uint32(p[4:])), uint64(le.Uint32(p[8:]))
		n.indexed, n.offset, n.xattr = int(le.Uint16(p[16:])), uint32(le.Uint16(p[18:])), le.Uint32(p[20:])
	case typeFile:
		n.start, n.size = le.Uint64(p), le.Uint64(p[8:])
		n.nlink, n.fragment = le.Uint32(p[24:]), le.Uint32(p[28:])
		n.offset, n.xattr = le.Uint32(p[32:]), le.Uint32(p[36:])
	case typeLink:
		n.nlink, n.size = le.Uint32(p), uint64(le.Uint32(p[4:]))
	case typeBlockDevice, typeCharDevice:
		n.nlink, n.rdev, n.xattr = le.Uint32(p), le.Uint32(p[4:]), le.Uint32(p[8:])
	default:
		n.nlink, n.xattr = le.Uint32(p), le.Uint32(p[4:])
	}
}

// check bounds what the inode promises by what can stand behind it.
func (n *inode) check(c *cursor) error {
	switch n.kind {
	case typeDirectory:
		if n.offset >= metadataSize {
			return corruptf("directory at offset %d of a block", n.offset)
		}
	case typeLink:
		if n.size > maxTarget {
			return corruptf("link target of %d bytes", n.size)
		}
	case typeFile:
		if n.size > math.MaxInt64-maxBlockSize {
			return corruptf("file of %d bytes", n.size)
		}
		n.blockCount = n.size / uint64(n.blockSize)
		if tail := n.size % uint64(n.blockSize); tail > 0 && n.fragment == noFragment {
			n.blockCount++
		} else if n.fragment != noFragment && uint64(n.offset)+tail > uint64(n.blockSize) {
			return corruptf("%d bytes at %d of a fragment", tail, n.offset)
		}
		if n.blockCount > c.room()/4 {
			return corruptf("file of %d bytes, more than the inode table has blocks for", n.size)
		}
	}
	return nil
}

// Stat returns what stat(2) shows. A directory's size is the one in its inode,
// as the kernel shows it. Errors are as for ReadAt.
func (f *FS) Stat(ctx context.Context, entry uint64) (volume.Attr, error) {
	n, err := f.inode(ctx, entry)
	if err != nil {
		return volume.Attr{}, err
	}
	ids, err := f.idTable(ctx)
	if err != nil {
		return volume.Attr{}, err
	}
	if int(n.uid) >= len(ids) || int(n.gid) >= len(ids) {
		return volume.Attr{}, corruptf("inode %#x: owner %d:%d of %d ids", n.ref, n.uid, n.gid, len(ids))
	}
	return volume.Attr{Mode: n.mode, Nlink: n.nlink, UID: ids[n.uid], GID: ids[n.gid], Rdev: n.rdev,
		Size: n.size, MTime: int64(n.mtime)}, nil
}

// idTable returns all ids of the image, 256 KiB at most, read once.
func (f *FS) idTable(ctx context.Context) ([]uint32, error) {
	if ids := f.ids.Load(); ids != nil {
		return *ids, nil
	}
	ids := make([]uint32, f.super.IDs)
	for i := range ids {
		p, err := f.tableEntry(ctx, "id", int64(f.super.IDTable), idSize, uint64(i), uint64(len(ids)))
		if err != nil {
			return nil, err
		}
		ids[i] = binary.LittleEndian.Uint32(p)
	}
	f.ids.Store(&ids)
	return ids, nil
}

// Readlink returns a symbolic link's target, or volume.ErrNotLink.
func (f *FS) Readlink(ctx context.Context, entry uint64) (string, error) {
	n, err := f.inode(ctx, entry)
	if err != nil {
		return "", err
	}
	if n.kind != typeLink {
		return "", fmt.Errorf("squashfs: read link %#x: %w", n.ref, volume.ErrNotLink)
	}
	p, err := n.rest.take(ctx, int(n.size))
	if err != nil {
		return "", fmt.Errorf("squashfs: read link %#x: %w", n.ref, err)
	}
	return string(p), nil
}
