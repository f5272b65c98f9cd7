package squashfs

import (
	"context"
	"encoding/binary"
)

// region is a part of the image in which metadata blocks stand.
type region struct {
	name       string
	start, end int64 // bytes from the start of the image
}

// metaBlock returns the metadata block at pos, which must lie in the region
// with all its bytes.
func (f *FS) metaBlock(ctx context.Context, r *region, pos int64) (*block, error) {
	if pos < r.start || pos >= r.end {
		return nil, corruptf("%s block at %d, outside %d..%d", r.name, pos, r.start, r.end)
	}
	b, err := f.cache.meta.get(ctx, key{image: f.image, pos: pos, kind: kindMetadata}, f.metaLoader)
	if err != nil {
		return nil, err
	}
	if b.next > r.end {
		return nil, corruptf("%s block at %d ends at %d, behind %d", r.name, pos, b.next, r.end)
	}
	return b, nil
}

// loadMeta reads and inflates a metadata block. Header and content are read at
// once, as if the block were stored in full: a second request would cost more
// than the bytes, which are mostly those of the next block.
func (f *FS) loadMeta(ctx context.Context, b *block) error {
	raw := f.cache.buffer(2 * metadataSize)
	defer f.cache.recycle(raw)
	p := raw[:min(2+metadataSize, int64(f.super.BytesUsed)-b.key.pos)]
	if err := f.readFull(ctx, p, b.key.pos); err != nil {
		return err
	}
	if len(p) < 2 {
		return corruptf("metadata block at %d is cut off", b.key.pos)
	}
	header := binary.LittleEndian.Uint16(p)
	size := int(header & 0x7fff)
	p = p[2:]
	if size == 0 || size > metadataSize || size > len(p) {
		return corruptf("metadata block at %d has %d bytes", b.key.pos, size)
	}
	b.next = b.key.pos + 2 + int64(size)
	if header&0x8000 != 0 {
		b.data = append([]byte(nil), p[:size]...)
	} else {
		full := make([]byte, metadataSize)
		n, err := f.decode(full, p[:size])
		if err != nil {
			return f.undecodable(b, size, err)
		}
		f.count.Metadata.Add(1)
		if b.data = full[:n]; n < metadataSize/2 {
			b.data = append([]byte(nil), b.data...)
		}
	}
	if len(b.data) == 0 {
		return corruptf("metadata block at %d is empty", b.key.pos)
	}
	b.cost = int64(cap(b.data)) + blockOverhead
	return nil
}

// blockOverhead is about what the cache itself needs for a block, in bytes.
const blockOverhead = 200

// cursor reads a region's metadata blocks as one stream. It only ever moves
// forward through the image, so every walk ends.
type cursor struct {
	f       *FS
	r       *region
	pos     int64  // of the block
	next    int64  // position behind the block
	data    []byte // the block
	off     int    // in data
	scratch []byte
}

// cursorAt returns a cursor at offset bytes into the inflated block at pos.
func (f *FS) cursorAt(ctx context.Context, r *region, pos int64, offset int) (cursor, error) {
	c := cursor{f: f, r: r, next: pos}
	if err := c.load(ctx); err != nil {
		return c, err
	}
	if offset > len(c.data) {
		return c, corruptf("%s block at %d has %d bytes, %d wanted", r.name, pos, len(c.data), offset)
	}
	c.off = offset
	return c, nil
}

func (c *cursor) load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := c.f.metaBlock(ctx, c.r, c.next)
	if err != nil {
		return err
	}
	c.pos, c.data, c.off, c.next = b.key.pos, b.data, 0, b.next
	return nil
}

// take returns the next n bytes, valid until the next call. They lie in the
// cache unless they cross a block's end.
func (c *cursor) take(ctx context.Context, n int) ([]byte, error) {
	if n <= len(c.data)-c.off {
		p := c.data[c.off : c.off+n : c.off+n]
		c.off += n
		return p, nil
	}
	p := c.scratch[:0]
	for {
		part := min(n-len(p), len(c.data)-c.off)
		p = append(p, c.data[c.off:c.off+part]...)
		c.off += part
		if len(p) == n {
			c.scratch = p
			return p, nil
		}
		if err := c.load(ctx); err != nil {
			return nil, err
		}
	}
}

// skip moves on by n bytes.
func (c *cursor) skip(ctx context.Context, n int64) error {
	for {
		part := min(n, int64(len(c.data)-c.off))
		c.off += int(part)
		if n -= part; n == 0 {
			return nil
		}
		if err := c.load(ctx); err != nil {
			return err
		}
	}
}

// room is the most bytes that can follow in the region, whatever they hold: a
// metadata block has three bytes at least.
func (c *cursor) room() uint64 {
	return uint64(len(c.data)-c.off) + (uint64(max(c.r.end-c.next, 0))/3+1)*metadataSize
}

// The entries of the tables that are found through a list of positions, in
// bytes. Each divides a metadata block.
const (
	idSize       = 4
	fragmentSize = 16
	exportSize   = 8
	xattrIDSize  = 16
	xattrHeader  = 16
)

// tableEntry returns entry i, of size bytes, of a table whose list of positions
// starts at list and has room for count entries.
func (f *FS) tableEntry(ctx context.Context, name string, list int64, size, i, count uint64) ([]byte, error) {
	if i >= count {
		return nil, corruptf("%s %d of %d", name, i, count)
	}
	at := i * size
	pos, err := f.listed(ctx, list, at/metadataSize, listBytes(count*size)/8)
	if err != nil {
		return nil, err
	}
	// The table's blocks stand before their list.
	r := region{name: name, start: int64(f.super.InodeTable), end: list}
	if pos > uint64(list) {
		return nil, corruptf("%s table block at %d, behind its list at %d", name, pos, list)
	}
	c, err := f.cursorAt(ctx, &r, int64(pos), int(at%metadataSize))
	if err != nil {
		return nil, err
	}
	if len(c.data)-c.off < int(size) {
		return nil, corruptf("%s table block at %d has %d bytes", name, pos, len(c.data))
	}
	return c.take(ctx, int(size))
}

// listed returns position i of count of the list at start. Lists are read in
// pieces when needed: their length is the image's word only.
func (f *FS) listed(ctx context.Context, start int64, i, count uint64) (uint64, error) {
	const piece = 512
	first := i / piece * piece
	k := key{image: f.image, pos: start + int64(first*8), kind: kindList}
	b, err := f.cache.meta.get(ctx, k, func(ctx context.Context, b *block) error {
		b.data = make([]byte, min(count-first, piece)*8)
		b.cost = int64(len(b.data)) + blockOverhead
		return f.readFull(ctx, b.data, k.pos)
	})
	if err != nil {
		return 0, err
	}
	if at := int(i-first) * 8; at+8 <= len(b.data) {
		return binary.LittleEndian.Uint64(b.data[at:]), nil
	}
	return 0, corruptf("two tables share a list at %d", start)
}
