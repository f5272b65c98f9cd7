package squashfs

import (
	"context"
	"math/bits"
	"sync"
)

// Defaults of Limits.
const (
	DefaultMetadata = 16 << 20
	DefaultData     = 32 << 20
)

// Limits bounds a Cache in bytes of inflated data; 0 is the default, a
// negative number keeps nothing. What is being read at the moment comes on top.
type Limits struct {
	Metadata int64 // inodes, directories, tables; 0: DefaultMetadata
	Data     int64 // blocks of files and fragments; 0: DefaultData
}

// Cache keeps inflated blocks of any number of images, the least recently used
// goes first. Safe for concurrent use.
type Cache struct {
	meta, data lru
	buffers    [21]sync.Pool // of *[]byte of 1<<index bytes: full data blocks
	zstd       func() (decoder, error)
	mu         sync.Mutex // guards images
	images     uint64     // counted, so that each image has its own keys
}

// NewCache returns an empty cache.
func NewCache(l Limits) *Cache {
	if l.Metadata == 0 {
		l.Metadata = DefaultMetadata
	}
	if l.Data == 0 {
		l.Data = DefaultData
	}
	c := &Cache{zstd: sync.OnceValues(newZstd)}
	c.meta.init(l.Metadata, c)
	c.data.init(l.Data, c)
	return c
}

// Bytes returns how much is kept now, in bytes of inflated data.
func (c *Cache) Bytes() (metadata, data int64) { return c.meta.bytes(), c.data.bytes() }

// newImage returns the number under which an image's blocks are kept.
func (c *Cache) newImage() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.images++
	return c.images
}

// buffer returns a pooled buffer of size bytes, a power of two.
func (c *Cache) buffer(size int) []byte {
	if b, ok := c.buffers[bits.TrailingZeros32(uint32(size))].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, size)
}

func (c *Cache) recycle(b []byte) {
	b = b[:cap(b)]
	c.buffers[bits.TrailingZeros32(uint32(len(b)))].Put(&b)
}

// key names what is kept. Word and want are part of it for data blocks, so
// that a hostile image cannot have one block read in two ways.
type key struct {
	image uint64
	pos   int64
	word  uint32 // a data block's size word
	want  uint32 // a data block's inflated size
	kind  kind
}

type kind uint8

const (
	kindMetadata  kind = iota // a metadata block, by its position
	kindList                  // a piece of a list of positions, by its position
	kindIndex                 // a directory's index, by the inode's reference
	kindBlockMap              // a large file's blockMap, by the inode's reference
	kindData                  // a data block, by its position
	kindFragments             // a fragment block, by its position
)

// block is something kept. Its content is set by the loader and never changes.
type block struct {
	data   []byte
	next   int64 // of a metadata block: the position behind it
	object any   // of kindIndex and kindBlockMap
	cost   int64 // bytes
	pooled bool  // data comes from Cache.buffer

	key        key
	ready      chan struct{} // closed when loaded or failed
	err        error         // set before ready is closed
	gaveUp     bool          // err is the loader's own context's; set before ready is closed
	loaded     bool          // guarded by lru.mu, as are those below
	dropped    bool
	refs       int
	prev, succ *block
}

// lru is one half of a Cache.
type lru struct {
	cache *Cache
	max   int64
	mu    sync.Mutex // guards all below, and the marked fields of blocks
	used  int64
	known map[key]*block // loaded ones and those being loaded
	ring  block          // loaded ones, most recently used first
}

func (l *lru) init(limit int64, c *Cache) {
	l.max, l.cache = max(limit, 0), c
	l.known = make(map[key]*block)
	l.ring.prev, l.ring.succ = &l.ring, &l.ring
}

func (l *lru) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

// get returns the block k, loading it if nobody has or does. However many ask,
// it is loaded once; who waits for another's load leaves when ctx ends, and
// takes over when the loader's own context ended. Errors are not kept. A block
// that is never released is simply left to the garbage collector.
func (l *lru) get(ctx context.Context, k key, load func(context.Context, *block) error) (*block, error) {
	for {
		l.mu.Lock()
		b := l.known[k]
		if b == nil {
			b = &block{key: k, refs: 1, ready: make(chan struct{})}
			l.known[k] = b
			l.mu.Unlock()
			return l.load(ctx, b, load)
		}
		b.refs++
		if b.loaded {
			l.unlink(b)
			l.link(b)
			l.mu.Unlock()
			return b, nil
		}
		l.mu.Unlock()
		select {
		case <-b.ready:
		case <-ctx.Done():
			l.release(b)
			return nil, ctx.Err()
		}
		if b.err == nil {
			return b, nil
		}
		if err := b.err; !b.gaveUp {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

func (l *lru) load(ctx context.Context, b *block, load func(context.Context, *block) error) (*block, error) {
	err := load(ctx, b)
	l.mu.Lock()
	if err != nil {
		b.err, b.gaveUp = err, ctx.Err() != nil
		delete(l.known, b.key)
	} else {
		b.loaded = true
		l.used += b.cost
		l.link(b)
		for l.used > l.max {
			l.drop(l.ring.prev)
		}
	}
	l.mu.Unlock()
	close(b.ready)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// release says that the caller looks at b.data no more.
func (l *lru) release(b *block) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.refs--
	l.reuse(b)
}

// drop forgets a loaded block. Called with mu held.
func (l *lru) drop(b *block) {
	l.unlink(b)
	delete(l.known, b.key)
	l.used -= b.cost
	b.dropped = true
	l.reuse(b)
}

func (l *lru) reuse(b *block) {
	if b.refs == 0 && b.dropped && b.pooled {
		b.pooled = false
		l.cache.recycle(b.data)
		b.data = nil
	}
}

// forget drops what is kept of an image.
func (l *lru) forget(image uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for b := l.ring.succ; b != &l.ring; {
		next := b.succ
		if b.key.image == image {
			l.drop(b)
		}
		b = next
	}
}

func (l *lru) link(b *block) {
	b.prev, b.succ = &l.ring, l.ring.succ
	b.prev.succ, b.succ.prev = b, b
}

func (l *lru) unlink(b *block) {
	b.prev.succ, b.succ.prev = b.succ, b.prev
	b.prev, b.succ = nil, nil
}
