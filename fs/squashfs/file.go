package squashfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const (
	plainBlock = 1 << 24 // in a size word: the block is not compressed
	// mapFrom is the number of blocks from which on a file gets a blockMap; to
	// add up fewer sizes each time costs less than to look for one.
	mapFrom = 512
	// mapStep is the least distance of a blockMap's marks, maxMarks bounds them.
	mapStep  = 256
	maxMarks = 4096
	markSize = 32 // bytes in memory
)

// extent is a piece of a file: a block, a hole or the tail in a fragment.
type extent struct {
	pos  int64  // of the block, bytes from the start of the image
	word uint32 // size and plainBlock; 0 is a hole
	skip uint32 // where in the inflated block the piece starts, bytes
	want uint32 // the whole block's inflated size, 0 for a fragment block's, which is not known
	dst  []byte // what of the caller's buffer it fills
}

// ReadAt fills p from offset off of the file, bytes; fewer than len(p) without
// an error mean that the file ends there. Errors are volume.ErrIsDir,
// fs.ErrInvalid for what is no file either, volume.ErrStale for an entry that
// means nothing, ErrCorrupt, the source's or the context's; the bytes before
// the count returned are good. Blocks are inflated in parallel.
func (f *FS) ReadAt(ctx context.Context, entry uint64, p []byte, off int64) (int, error) {
	n, err := f.inode(ctx, entry)
	if err != nil {
		return 0, err
	}
	switch {
	case n.kind == typeDirectory:
		err = volume.ErrIsDir
	case n.kind != typeFile || off < 0:
		err = fs.ErrInvalid
	case off >= int64(n.size) || len(p) == 0:
		return 0, nil
	}
	read := 0
	if err == nil {
		p = p[:min(int64(len(p)), int64(n.size)-off)]
		read, err = f.readFile(ctx, n, p, off)
	}
	if err != nil {
		return read, fmt.Errorf("squashfs: read inode %#x at %d: %w", n.ref, off, err)
	}
	return read, nil
}

func (f *FS) readFile(ctx context.Context, n *inode, p []byte, off int64) (int, error) {
	var few [9]extent
	pieces, err := f.extents(ctx, n, few[:0], p, off)
	if err != nil {
		return 0, err
	}
	if min(f.parallel, len(pieces)) <= 1 {
		read := 0
		for i := range pieces {
			if err := f.readExtent(ctx, &pieces[i]); err != nil {
				return read, err
			}
			read += len(pieces[i].dst)
		}
		return read, nil
	}
	return f.readParallel(ctx, pieces)
}

// readParallel reads the pieces with as many goroutines as may be, this one
// included, and waits for all of them.
func (f *FS) readParallel(ctx context.Context, pieces []extent) (int, error) {
	// Heap copy, so that readFile's array may stay on the stack.
	pieces = append([]extent(nil), pieces...)
	errs := make([]error, len(pieces))
	var next atomic.Int64
	var failed atomic.Bool
	work := func() {
		// Whoever takes a piece reads it, so all before a failure are done.
		for !failed.Load() {
			i := int(next.Add(1)) - 1
			if i >= len(pieces) {
				return
			}
			if errs[i] = f.readExtent(ctx, &pieces[i]); errs[i] != nil {
				failed.Store(true)
			}
		}
	}
	var wg sync.WaitGroup
	for range min(f.parallel, len(pieces)) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	read := 0
	for i := range pieces {
		if errs[i] != nil {
			return read, errs[i]
		}
		read += len(pieces[i].dst)
	}
	return read, nil
}

// extents says where the bytes of p, within the file from off on, come from.
func (f *FS) extents(ctx context.Context, n *inode, to []extent, p []byte, off int64) ([]extent, error) {
	size := int64(n.blockSize)
	block, skip := off/size, off%size
	if uint64(block) < n.blockCount {
		c, pos, err := f.findBlock(ctx, n, uint64(block))
		if err != nil {
			return nil, err
		}
		for len(p) > 0 && uint64(block) < n.blockCount {
			w, err := c.take(ctx, 4)
			if err != nil {
				return nil, err
			}
			e := extent{pos: pos, word: binary.LittleEndian.Uint32(w), skip: uint32(skip), want: uint32(min(size, int64(n.size)-block*size))}
			if pos, err = f.behind(pos, e.word); err != nil {
				return nil, err
			}
			e.dst = p[:min(int64(len(p)), int64(e.want)-skip)]
			p = p[len(e.dst):]
			to = append(to, e)
			block, skip = block+1, 0
		}
	}
	if len(p) == 0 {
		return to, nil
	}
	// What is left is the tail, in a fragment.
	e, err := f.fragment(ctx, n.fragment)
	if err != nil {
		return nil, err
	}
	e.skip, e.dst = n.offset+uint32(skip), p
	return append(to, e), nil
}

// behind checks a block's place and size and returns the position behind it.
func (f *FS) behind(pos int64, word uint32) (int64, error) {
	size := word &^ plainBlock
	if size > f.super.BlockSize {
		return 0, corruptf("block of %d bytes", size)
	}
	if word == 0 {
		return pos, nil
	}
	// Data stand in front of the inode table.
	if end := int64(f.super.InodeTable); pos < superblockSize || pos > end || int64(size) > end-pos {
		return 0, corruptf("%d bytes of data at %d, behind %d", size, pos, end)
	}
	return pos + int64(size), nil
}

// mark is where a file's block stands: its data, and its size word, which is
// off bytes into the metadata block at meta.
type mark struct {
	block     uint64
	pos, meta int64
	off       int
}

func (c *cursor) mark(block uint64, pos int64) mark { return mark{block, pos, c.pos, c.off} }

// blockMap holds marks within a large file's list of block sizes, so that a
// random read need not add up all sizes before it. It grows as it is read.
type blockMap struct {
	step  uint64
	mu    sync.Mutex // guards marks; held without waiting for anything
	marks []mark     // of blocks 0, step, 2*step ...
}

// findBlock returns a cursor at a block's size word and the block's position.
func (f *FS) findBlock(ctx context.Context, n *inode, number uint64) (cursor, int64, error) {
	if n.start > f.super.BytesUsed {
		return cursor{}, 0, corruptf("data at %d of %d", n.start, f.super.BytesUsed)
	}
	at := n.rest.mark(0, int64(n.start))
	if n.blockCount < mapFrom {
		return f.advance(ctx, at, number)
	}
	k := key{image: f.image, pos: int64(n.ref), kind: kindBlockMap}
	b, err := f.cache.meta.get(ctx, k, func(_ context.Context, b *block) error {
		m := &blockMap{step: max(mapStep, n.blockCount/maxMarks+1), marks: []mark{at}}
		b.object = m
		b.cost = blockOverhead + int64(n.blockCount/m.step+1)*markSize
		return nil
	})
	if err != nil {
		return cursor{}, 0, err
	}
	m := b.object.(*blockMap)
	for {
		m.mu.Lock()
		known := len(m.marks)
		at = m.marks[min(number/m.step, uint64(known-1))]
		m.mu.Unlock()
		if number-at.block <= m.step {
			return f.advance(ctx, at, number)
		}
		to := at.block + m.step
		c, pos, err := f.advance(ctx, at, to)
		if err != nil {
			return cursor{}, 0, err
		}
		m.mu.Lock()
		if len(m.marks) == known {
			m.marks = append(m.marks, c.mark(to, pos))
		}
		m.mu.Unlock()
	}
}

// advance moves from a mark to block, adding up sizes.
func (f *FS) advance(ctx context.Context, at mark, block uint64) (cursor, int64, error) {
	pos := at.pos
	c, err := f.cursorAt(ctx, &f.inodes, at.meta, at.off)
	if err != nil {
		return c, 0, err
	}
	for left := block - at.block; left > 0; {
		count := min(left, 1024)
		words, err := c.take(ctx, int(count)*4)
		if err != nil {
			return c, 0, err
		}
		for i := 0; i < len(words); i += 4 {
			if pos, err = f.behind(pos, binary.LittleEndian.Uint32(words[i:])); err != nil {
				return c, 0, err
			}
		}
		left -= count
	}
	return c, pos, nil
}
