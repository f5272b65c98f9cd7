package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestOneSourceHoldsUpNoOther: where one folder cannot be listed, its images stay, and
// what comes and goes in another is shown.
func TestOneSourceHoldsUpNoOther(t *testing.T) {
	top := t.TempDir()
	put(t, top+"/a/one_1.0.sif", "x", 0o644)
	put(t, top+"/a/both_1.0.sif", "a", 0o644)
	put(t, top+"/b/two_1.0.sif", "x", 0o644)
	put(t, top+"/b/both_1.0.sif", "b", 0o644)
	tree := openFolder(t, top+"/a", false, &memMemo{})
	tree.o.Sources = append(tree.o.Sources, &Source{Dir: top + "/b", Name: "other", Folder: true})
	shows := func(want string) {
		t.Helper()
		if got := strings.Join(list(t, tree, "apps"), " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if _, err := os.ReadDir(top + "/a"); err != nil {
			return // its commands cannot be read
		}
		if got := read(t, tree, "bin/both"); !strings.Contains(got, top+"/a/both_1.0.sif\n") {
			t.Errorf("another source shadows the first:\n%s", got)
		}
	}
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	shows("both one two")
	if err := os.Rename(top+"/a", top+"/away"); err != nil {
		t.Fatal(err)
	}
	put(t, top+"/a", "no folder", 0o644)
	for _, round := range []string{"three", "four"} {
		put(t, top+"/b/"+round+"_1.0.sif", "x", 0o644)
		if changes, err := tree.Refresh(t.Context()); err == nil || len(changes) == 0 {
			t.Errorf("%d changes, %v", len(changes), err)
		}
	}
	shows("both four one three two")
	if err := errors.Join(os.Remove(top+"/a"), os.Rename(top+"/away", top+"/a"), os.Remove(top+"/a/one_1.0.sif")); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	shows("both four three two")
}

// TestASourceThatComesLateHasItsPlace: what could not be listed at first shadows later
// sources once it can be, as if it had been there from the beginning.
func TestASourceThatComesLateHasItsPlace(t *testing.T) {
	top := t.TempDir()
	put(t, top+"/away/both_1.0.sif", "a", 0o644)
	put(t, top+"/a", "no folder", 0o644)
	put(t, top+"/b/both_1.0.sif", "b", 0o644)
	begin := make(chan struct{})
	sources := []*Source{{Dir: top + "/a", Name: "first", Folder: true}, {Dir: top + "/b", Name: "second", Folder: true}}
	tree := openSources(t, sources, &memMemo{}, begin)
	x := tree.index.Load()
	x.retry = time.Millisecond
	close(begin)
	if err := tree.Tried(t.Context()); err != nil {
		t.Fatal(err)
	}
	build := find(t, tree, "apps/both/1.0")
	if got := read(t, tree, "bin/both"); !strings.Contains(got, top+"/b/both_1.0.sif\n") {
		t.Errorf("while the first source is not there:\n%s", got)
	}
	if err := errors.Join(os.Remove(top+"/a"), os.Rename(top+"/away", top+"/a")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-x.all: // it was added to what is shown
	case <-tree.Listable():
		if changes, err := tree.Refresh(t.Context()); err != nil || len(changes) == 0 {
			t.Errorf("%d changes, %v", len(changes), err)
		}
	}
	if got := read(t, tree, "bin/both"); !strings.Contains(got, top+"/a/both_1.0.sif\n") {
		t.Errorf("a later source shadows the first:\n%s", got)
	}
	if again := find(t, tree, "apps/both/1.0"); again.Entry != build.Entry {
		t.Error("the build's directory is another node")
	}
	if err := tree.index.Load().unlisted(); err != nil {
		t.Error(err)
	}
}
