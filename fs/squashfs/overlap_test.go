package squashfs

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestOverlappingTables lets each table of a real image begin where another
// does, and in the middle of it: whatever comes of it is a tree or an error of
// ours, soon, in bounded memory.
func TestOverlappingTables(t *testing.T) {
	places := []int{40, 48, 56, 64, 72, 80, 88} // of bytes used and the six tables in the superblock
	for _, args := range [][]string{{"-comp", "gzip"}, {"-noI", "-noD", "-noF", "-noX", "-noId"}} {
		image := smallImage(t, args...)
		wrong, whole := 0, 0
		for _, to := range places {
			for _, from := range places {
				for _, shift := range []uint64{0, 1, 8, 1 << 62, 1 << 63} {
					m := bytes.Clone(image)
					binary.LittleEndian.PutUint64(m[to:], binary.LittleEndian.Uint64(image[from:])+shift)
					_, err := walk(t, m)
					if !expected(err) {
						t.Fatalf("%d becomes that of %d + %#x: %v", to, from, shift, err)
					}
					if err != nil {
						wrong++
					} else {
						whole++
					}
				}
			}
		}
		if wrong < 100 || whole < len(places) {
			t.Errorf("%v: %d images are corrupt, %d are not", args, wrong, whole)
		}
	}
}
