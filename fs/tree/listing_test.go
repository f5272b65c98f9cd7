package tree

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// TestLargeListingIsReadOnce: the kernel asks for a directory of thousands piece by
// piece. A piece costs what it has, not what the directory has; what comes
// meanwhile is there when the listing begins anew.
func TestLargeListingIsReadOnce(t *testing.T) {
	const images = 3000
	dir := t.TempDir()
	for i := range images {
		put(t, filepath.Join(dir, fmt.Sprintf("tool%04d_1.0.sif", i)), "", 0o644)
	}
	tree := openFolder(t, dir, false, &memMemo{})
	for _, at := range []string{"apps", "modules", "bin"} {
		if n := len(list(t, tree, at)); n != images {
			t.Errorf("%s: %d names", at, n)
		}
		c := find(t, tree, at)
		var cookie uint64
		piece := func() {
			n := 0
			err := c.Volume.ReadDir(t.Context(), c.Entry, cookie, func(c volume.Child) bool {
				cookie = c.Cookie
				n++
				return n < 24
			})
			if err != nil || n != 24 {
				t.Errorf("%d names, %v", n, err)
			}
		}
		piece()
		if n := testing.AllocsPerRun(10, piece); n > images {
			t.Errorf("%s: a piece of 24 names costs %.0f allocations", at, n)
		}
	}
	put(t, filepath.Join(dir, "another_1.0.sif"), "", 0o644)
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(list(t, tree, "apps")); n != images+1 {
		t.Errorf("after a refresh: %d names", n)
	}
}
