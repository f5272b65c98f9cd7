package fs

import (
	"math"
	"testing"
)

// TestInode: the number of every node is its own, and those of catalogs of usual
// size fit into 32 bits.
func TestInode(t *testing.T) {
	seen := map[uint64]uint64{}
	for _, number := range []uint64{0, 1, 2, 7, 1<<11 - 1, 1 << 11, 1<<11 + 1, maxVolume - 1} {
		for _, entry := range []uint64{0, 1, 2, 1<<21 - 1, 1 << 21, 1<<21 + 1, 1<<22 + 1, math.MaxUint32, entryMask} {
			id := number<<entryBits | entry
			ino := inode(id)
			if other, ok := seen[ino]; ok {
				t.Errorf("nodes %#x and %#x both have the number %#x", other, id, ino)
			}
			seen[ino] = id
			if small := number < 1<<11 && entry < 1<<21; small != (ino <= math.MaxUint32) {
				t.Errorf("node %#x has the number %#x", id, ino)
			}
		}
	}
}
