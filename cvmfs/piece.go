package cvmfs

import (
	"math/bits"
	"sync"
	"time"
)

// pieces holds buffers for stored and for inflated objects, by size, and large those
// from minLarge on. Each power of two has four sizes, so that a buffer is at most a
// quarter larger than what it is for. An object of 2 KiB must not take the buffer of
// a chunk away, nor a chunk find nothing but small ones.
var pieces [4 * 32]sync.Pool

// pieceSize returns the index and the size in bytes of the smallest buffers that
// hold n bytes.
func pieceSize(n int64) (index int, size int64) {
	n = max(n, 4<<10)
	power := bits.Len64(uint64(n-1)) - 1 // of the greatest power of two below n
	base := int64(1) << power
	quarter := (n - 1 - base) / (base / 4)
	return 4*power + int(quarter), base + (quarter+1)*(base/4)
}

// piece returns a buffer of n bytes; its content is undefined.
func piece(n int64) *[]byte {
	index, size := pieceSize(n)
	if index < len(pieces) {
		var p *[]byte
		if size >= minLarge {
			p = large.get(index)
		} else {
			p, _ = pieces[index].Get().(*[]byte)
		}
		if p != nil {
			*p = (*p)[:n]
			return p
		}
	}
	b := make([]byte, n, size)
	return &b
}

// recycle takes a buffer back that piece returned, and that nobody uses any
// more; nil is none.
func recycle(p *[]byte) {
	if p == nil {
		return
	}
	index, size := pieceSize(int64(cap(*p)))
	switch {
	case index >= len(pieces) || size != int64(cap(*p)):
	case size >= minLarge:
		large.put(index, p)
	default:
		pieces[index].Put(p)
	}
}

const (
	// minLarge is the size in bytes from which buffers lie on the shelf.
	minLarge = 1 << 20
	// shelfLife is how long they lie there when nobody wants one of their size.
	shelfLife = time.Second
)

// shelf holds large buffers as long as buffers of their size are wanted. A
// sync.Pool keeps some for each of Go's processors, which the others do not find:
// a trifle of small ones, but of the buffers of chunks some MB. A daemon that read
// 256 MiB in chunks of 8 MiB had 88 to 100 MiB resident with pools, and has 73 to 78
// (twelve runs each, in turn), at the same speed. Safe for concurrent use.
type shelf struct {
	mu    sync.Mutex // guards what follows
	piles map[int]*pile
	sweep *time.Timer // set while there is a pile
}

// pile is the buffers of one size.
type pile struct {
	free   []*[]byte
	wanted bool // since the last sweep
}

var large shelf

// get returns a buffer of the size with that index, nil if there is none.
func (s *shelf) get(index int) *[]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.piles[index]
	if p == nil {
		return nil
	}
	p.wanted = true
	last := len(p.free) - 1
	if last < 0 {
		return nil
	}
	b := p.free[last]
	p.free[last] = nil
	p.free = p.free[:last]
	return b
}

func (s *shelf) put(index int, b *[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweep == nil {
		s.piles = map[int]*pile{}
		s.sweep = time.AfterFunc(shelfLife, s.tidy)
	}
	if s.piles[index] == nil {
		s.piles[index] = new(pile)
	}
	s.piles[index].free = append(s.piles[index].free, b)
}

// tidy leaves the piles that nobody wanted of late to the collector.
func (s *shelf) tidy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for index, p := range s.piles {
		if !p.wanted {
			delete(s.piles, index)
		}
		p.wanted = false
	}
	if len(s.piles) == 0 {
		s.sweep = nil
		return
	}
	s.sweep.Reset(shelfLife)
}
