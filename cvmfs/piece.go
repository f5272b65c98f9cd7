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

// size returns the index and the size in bytes of the smallest buffers that
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
	// shelfLife is how long they lie there.
	shelfLife = time.Second
)

// shelf holds large buffers until somebody needs them, or for shelfLife. A
// sync.Pool keeps some for each of Go's processors, which the others do not find:
// a trifle of small ones, but of the buffers of chunks some MB. A daemon that read
// 512 MiB in chunks of 8 MiB had 92 to 101 MB resident with pools, and 77 to 92 so
// (four runs each, in turn). Safe for concurrent use.
type shelf struct {
	mu    sync.Mutex // guards what follows
	free  map[int][]*[]byte
	empty *time.Timer // set while something lies here
}

var large = shelf{free: map[int][]*[]byte{}}

// get returns a buffer of the size with that index, nil if there is none.
func (s *shelf) get(index int) *[]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.free[index]
	if len(list) == 0 {
		return nil
	}
	p := list[len(list)-1]
	list[len(list)-1] = nil
	s.free[index] = list[:len(list)-1]
	return p
}

func (s *shelf) put(index int, p *[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free[index] = append(s.free[index], p)
	if s.empty == nil {
		s.empty = time.AfterFunc(shelfLife, s.clear)
	}
}

// clear leaves what lies here to the collector.
func (s *shelf) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.free)
	s.empty = nil
}
