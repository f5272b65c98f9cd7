//go:build !race

package inflate

import "testing"

// The race detector makes pools forget at random, hence the build tag.
func TestNoAllocation(t *testing.T) {
	for name, b := range map[string][]byte{"small": goSource(t)[:1000], "large": goSource(t)[:100_000]} {
		z := compress(t, b, 6, 0)
		dst := make([]byte, len(b))
		if n := testing.AllocsPerRun(50, func() {
			if _, err := Zlib(dst, z); err != nil {
				t.Fatal(err)
			}
		}); n >= 1 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}
