package squashfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// fragment returns the extent of fragment block i; the caller sets what of it
// is wanted.
func (f *FS) fragment(ctx context.Context, i uint32) (extent, error) {
	if f.super.Fragments == 0 {
		return extent{}, corruptf("fragment %d of none", i)
	}
	p, err := f.tableEntry(ctx, "fragment", int64(f.super.FragmentTable), fragmentSize, uint64(i), uint64(f.super.Fragments))
	if err != nil {
		return extent{}, err
	}
	start, word := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])
	if start > f.super.BytesUsed || word&^plainBlock == 0 {
		return extent{}, corruptf("fragment %d at %d, size %#x", i, start, word)
	}
	e := extent{pos: int64(start), word: word}
	_, err = f.behind(e.pos, word)
	return e, err
}

// readExtent fills e.dst.
func (f *FS) readExtent(ctx context.Context, e *extent) error {
	switch {
	case e.word == 0:
		clear(e.dst)
		return ctx.Err()
	case e.word&plainBlock != 0:
		return f.readPlain(ctx, e)
	}
	k := key{image: f.image, pos: e.pos, word: e.word, want: e.want, kind: kindData}
	load := f.dataLoader
	if e.want == 0 {
		k.kind, load = kindFragments, f.fragmentLoader
	}
	b, err := f.cache.data.get(ctx, k, load)
	if err != nil {
		return err
	}
	defer f.cache.data.release(b)
	if int(e.skip)+len(e.dst) > len(b.data) {
		return corruptf("%d bytes at %d of a fragment block of %d", len(e.dst), e.skip, len(b.data))
	}
	copy(e.dst, b.data[e.skip:])
	return nil
}

// readPlain reads from a block that is not compressed, past the cache: the
// source has these very bytes.
func (f *FS) readPlain(ctx context.Context, e *extent) error {
	size := e.word &^ plainBlock
	if e.want != 0 && size != e.want {
		return corruptf("block of %d bytes at %d, %d expected", size, e.pos, e.want)
	}
	if uint64(e.skip)+uint64(len(e.dst)) > uint64(size) {
		return corruptf("%d bytes at %d of a fragment block of %d", len(e.dst), e.skip, size)
	}
	return f.readFull(ctx, e.dst, e.pos+int64(e.skip))
}

// loadData reads and inflates the block of a file, whose size is known.
func (f *FS) loadData(ctx context.Context, b *block) error {
	if b.key.want < f.super.BlockSize {
		b.data = make([]byte, b.key.want)
	} else {
		b.data, b.pooled = f.cache.buffer(int(f.super.BlockSize)), true
	}
	n, err := f.inflate(ctx, b)
	if err == nil && n != len(b.data) {
		err = corruptf("block at %d has %d bytes, %d expected", b.key.pos, n, len(b.data))
	}
	return f.keep(b, len(b.data), err)
}

// loadFragment reads and inflates a fragment block.
func (f *FS) loadFragment(ctx context.Context, b *block) error {
	b.data, b.pooled = f.cache.buffer(int(f.super.BlockSize)), true
	n, err := f.inflate(ctx, b)
	if err == nil && n < int(f.super.BlockSize)/2 {
		small := append([]byte(nil), b.data[:n]...)
		f.cache.recycle(b.data)
		b.data, b.pooled = small, false
	}
	return f.keep(b, n, err)
}

// keep sets what b costs, or gives its buffer back after an error.
func (f *FS) keep(b *block, n int, err error) error {
	if err != nil {
		if b.pooled {
			f.cache.recycle(b.data)
		}
		b.data, b.pooled = nil, false
		return err
	}
	b.data = b.data[:n]
	b.cost = int64(cap(b.data)) + blockOverhead
	return nil
}

// inflate fills b.data from the block that b.key names.
func (f *FS) inflate(ctx context.Context, b *block) (int, error) {
	raw := f.cache.buffer(int(f.super.BlockSize))
	defer f.cache.recycle(raw)
	raw = raw[:b.key.word]
	if err := f.readFull(ctx, raw, b.key.pos); err != nil {
		return 0, err
	}
	n, err := f.decode(b.data, raw)
	if err != nil {
		return 0, f.undecodable(b, len(raw), err)
	}
	f.count.Data.Add(1)
	return n, nil
}

// undecodable says which block it was whose size bytes a decoder refused.
func (f *FS) undecodable(b *block, size int, err error) error {
	if errors.Is(err, ErrUnsupported) {
		return fmt.Errorf("%s block of %d bytes at %d: %w", f.super.Compression, size, b.key.pos, err)
	}
	return corruptf("%s block of %d bytes at %d: %w", f.super.Compression, size, b.key.pos, err)
}
