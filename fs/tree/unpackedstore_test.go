package tree

import (
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestUnpackedWalkEnds: two bind mountpoints in each of twenty revisions show a
// million directories from twenty catalogs, and more would be more: the walk
// gives up at its bound.
func TestUnpackedWalkEnds(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) { tree.Symlink("org/tool:1", "../.flat/tool") })
	rev := s.rev
	for range 3 {
		s.content.Bind("a", rev)
		s.content.Bind("b", rev)
		var err error
		if rev, err = s.repo.Publish(t.Context(), s.content); err != nil {
			t.Fatal(err)
		}
	}
	s.layout, s.path = LayoutUnpacked, "/"
	s.open()
	store := unpackedStore{repoStore{repo: s.client, head: s.client.Head(), path: "/"}}
	root, err := s.client.Resolve(t.Context(), store.head.Root, "")
	if err != nil {
		t.Fatal(err)
	}
	const roots = 1 + 2 + 4 + 8 // each with a folder org
	w := unpackedWalk{store: store}
	if err := w.walk(t.Context(), root, "/", 0); err != nil || len(w.found) != roots || w.dirs != 2*roots {
		t.Errorf("%d images in %d directories, %v", len(w.found), w.dirs, err)
	}
	w = unpackedWalk{store: store, dirs: maxUnpackedDirs - 5}
	if err := w.walk(t.Context(), root, "/", 0); err == nil || !strings.Contains(err.Error(), "give path") || w.dirs != maxUnpackedDirs+1 {
		t.Errorf("%d directories, %v", w.dirs, err)
	}
}
