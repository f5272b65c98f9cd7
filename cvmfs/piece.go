package cvmfs

import (
	"math/bits"
	"sync"
)

// pieces holds buffers for stored and for inflated objects, by size: each power
// of two has four sizes, so that a buffer is at most a quarter larger than what
// it is for. An object of 2 KiB must not take the buffer of a chunk away, nor a
// chunk find nothing but small ones.
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
		if p, ok := pieces[index].Get().(*[]byte); ok {
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
	if index, size := pieceSize(int64(cap(*p))); index < len(pieces) && size == int64(cap(*p)) {
		pieces[index].Put(p)
	}
}
