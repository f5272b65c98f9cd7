package squashfs

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// xattrPrefixes are the namespaces, as numbered in an image.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

const (
	xattrElsewhere = 0x100   // the value is a reference to where it stands
	maxXattrValue  = 1 << 16 // bytes, XATTR_SIZE_MAX
	maxXattrNames  = 1 << 16 // bytes of a list of names, XATTR_LIST_MAX
	minXattr       = 8       // bytes of the shortest attribute in the table
)

// xattrTable says where extended attributes stand.
type xattrTable struct {
	values region
	list   int64  // of positions of the table of ids
	ids    uint32 // sets of attributes
}

// xattrEntry is one attribute on the way through a set.
type xattrEntry struct {
	name  string
	where uint16
	size  int
}

// Xattr returns one extended attribute, 64 KiB at most, or an error that wraps
// volume.ErrNoXattr. All namespaces are answered; who may see trusted ones is
// the caller's business.
func (f *FS) Xattr(ctx context.Context, entry uint64, name string) ([]byte, error) {
	var value []byte
	err := f.eachXattr(ctx, entry, func(c *cursor, e xattrEntry) (bool, error) {
		if e.name != name {
			return true, nil
		}
		var err error
		value, err = f.xattrValue(ctx, c, e)
		return false, err
	})
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, fmt.Errorf("squashfs: entry %d: %q: %w", entry, name, volume.ErrNoXattr)
	}
	return value, nil
}

// Xattrs lists the names of the extended attributes, 64 KiB of them at most.
func (f *FS) Xattrs(ctx context.Context, entry uint64) ([]string, error) {
	var names []string
	total := 0
	err := f.eachXattr(ctx, entry, func(_ *cursor, e xattrEntry) (bool, error) {
		if total += len(e.name) + 1; total > maxXattrNames {
			return false, corruptf("more than %d bytes of attribute names", maxXattrNames)
		}
		names = append(names, e.name)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// eachXattr calls fn for the attributes of an inode, with a cursor at the
// value, until it returns false. What is of an unknown namespace is left out,
// as in the kernel.
func (f *FS) eachXattr(ctx context.Context, entry uint64, fn func(*cursor, xattrEntry) (bool, error)) error {
	n, err := f.inode(ctx, entry)
	if err != nil {
		return err
	}
	c, count, err := f.xattrSet(ctx, n)
	for more := true; err == nil && more && count > 0; count-- {
		var e xattrEntry
		if e, err = nextXattr(ctx, c); err != nil {
			break
		}
		if e.name != "" {
			at := *c
			at.scratch = nil
			if more, err = fn(&at, e); err != nil {
				break
			}
		}
		err = c.skip(ctx, int64(e.size))
	}
	if err != nil {
		return fmt.Errorf("squashfs: attributes of inode %#x: %w", n.ref, err)
	}
	return nil
}

// nextXattr reads an attribute up to its value.
func nextXattr(ctx context.Context, c *cursor) (xattrEntry, error) {
	p, err := c.take(ctx, 4)
	if err != nil {
		return xattrEntry{}, err
	}
	le := binary.LittleEndian
	e := xattrEntry{where: le.Uint16(p) & xattrElsewhere}
	space := int(le.Uint16(p) & 0xff)
	name, err := c.take(ctx, int(le.Uint16(p[2:])))
	if err != nil {
		return e, err
	}
	if space < len(xattrPrefixes) {
		e.name = xattrPrefixes[space] + string(name)
	}
	if p, err = c.take(ctx, 4); err != nil {
		return e, err
	}
	size := le.Uint32(p)
	if size > maxXattrValue || e.where != 0 && size != 8 {
		return e, corruptf("attribute of %d bytes", size)
	}
	e.size = int(size)
	return e, nil
}

// xattrValue reads the value at the cursor, or the one it refers to.
func (f *FS) xattrValue(ctx context.Context, c *cursor, e xattrEntry) ([]byte, error) {
	p, err := c.take(ctx, e.size)
	if err != nil || e.where == 0 {
		return append(make([]byte, 0, len(p)), p...), err
	}
	ref := binary.LittleEndian.Uint64(p)
	if c, err = f.xattrCursor(ctx, c.r, ref); err != nil {
		return nil, err
	}
	if p, err = c.take(ctx, 4); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(p)
	if size > maxXattrValue {
		return nil, corruptf("attribute of %d bytes", size)
	}
	p, err = c.take(ctx, int(size))
	return append(make([]byte, 0, len(p)), p...), err
}

func (f *FS) xattrCursor(ctx context.Context, r *region, ref uint64) (*cursor, error) {
	if ref>>16 >= uint64(r.end-r.start) || ref&0xffff >= metadataSize {
		return nil, corruptf("attribute reference %#x", ref)
	}
	c, err := f.cursorAt(ctx, r, r.start+int64(ref>>16), int(ref&0xffff))
	return &c, err
}

// xattrSet returns a cursor at the attributes of n, and their count.
func (f *FS) xattrSet(ctx context.Context, n *inode) (*cursor, uint32, error) {
	number := n.xattr
	if n.kind == typeLink && n.large {
		// It stands behind the target.
		if err := n.rest.skip(ctx, int64(n.size)); err != nil {
			return nil, 0, err
		}
		p, err := n.rest.take(ctx, 4)
		if err != nil {
			return nil, 0, err
		}
		number = binary.LittleEndian.Uint32(p)
	}
	if number == noXattr || f.super.XattrTable == absent {
		return nil, 0, nil
	}
	t, err := f.xattrIDs(ctx)
	if err != nil {
		return nil, 0, err
	}
	p, err := f.tableEntry(ctx, "attribute", t.list, xattrIDSize, uint64(number), uint64(t.ids))
	if err != nil {
		return nil, 0, err
	}
	ref, count := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])
	if count == 0 {
		return nil, 0, nil
	}
	c, err := f.xattrCursor(ctx, &t.values, ref)
	if err == nil && uint64(count) > c.room()/minXattr {
		err = corruptf("%d attributes, more than the table has room for", count)
	}
	return c, count, err
}

// xattrIDs reads the header of the table of ids, once.
func (f *FS) xattrIDs(ctx context.Context) (*xattrTable, error) {
	if t := f.xattrs.Load(); t != nil {
		return t, nil
	}
	var p [xattrHeader]byte
	at := int64(f.super.XattrTable)
	if err := f.readFull(ctx, p[:], at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	values, ids := le.Uint64(p[:]), le.Uint32(p[8:])
	room := f.super.BytesUsed - f.super.XattrTable - xattrHeader
	if values < f.super.DirectoryTable || values > uint64(at) || listBytes(uint64(ids)*xattrIDSize) > room {
		return nil, corruptf("%d sets of attributes, values at %d", ids, values)
	}
	t := &xattrTable{values: region{"attribute", int64(values), at}, list: at + xattrHeader, ids: ids}
	f.xattrs.Store(t)
	return t, nil
}
