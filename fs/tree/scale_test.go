package tree

import (
	"fmt"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// records counts the numbers that were given.
func records(t *testing.T, tree *Tree) (n int) {
	t.Helper()
	if err := tree.o.Table.Each("", func(uint64, string) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// listAll lists M/bin and M/apps, as a user's shell does.
func listAll(t *testing.T, tree *Tree) {
	t.Helper()
	for _, dir := range []string{"bin", "apps"} {
		c := find(t, tree, dir)
		if err := c.Volume.ReadDir(t.Context(), c.Entry, 0, func(volume.Child) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
}

// TestComparingGivesNoNumbers: what a new revision changed is found without a
// number for any node that nobody asked for. Such nodes would count as known to the
// kernel, and each revision would cost more than the one before.
func TestComparingGivesNoNumbers(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		for i := range 20 {
			addContainer(tree, fmt.Sprintf("tool%d_1.0_20240101", i), fmt.Sprintf("one%d\ntwo%d\n", i, i))
		}
	})
	tree := s.open()
	complete(t, tree)
	listAll(t, tree)
	want := records(t, tree)
	for i := range 3 {
		s.content.File("containers/tool7_1.0_20240101/commands.txt", fmt.Appendf(nil, "one7\nnew%d\n", i), 0o644)
		s.publish()
		s.server.Reset()
		changes, err := tree.Refresh(t.Context())
		if err != nil || len(changes) == 0 {
			t.Fatalf("revision %d: %d changes, %v", i, len(changes), err)
		}
		if n := records(t, tree); n != want {
			t.Errorf("revision %d: %d numbers, before it %d", i, n, want)
		}
		// Of the container that changed its catalog and its list of commands.
		if n := s.server.Stats().Requests; n > 2 {
			t.Errorf("revision %d: %d requests", i, n)
		}
	}
}

// TestComparingOpensNoSilentImage: of the builds of an app that is known by its
// name, none is looked into to see what a new revision changed.
func TestComparingOpensNoSilentImage(t *testing.T) {
	s, tree := silentSite(t, 200, 20)
	listAll(t, tree)
	want := records(t, tree)
	s.content.File("all/tool3:99.0--h_0", []byte("a new one"), 0o755)
	s.publish()
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, m := range tree.index.Load().order {
		if m.known() {
			known++
		}
	}
	if known > 10 { // those that own a name in bin
		t.Errorf("%d of 201 images were looked into; 10 apps are known", known)
	}
	// The next worker's look for what is not so any more gives none either, though
	// the files of all silent images tell of another revision now.
	if changes, err := tree.Reconcile(t.Context()); err != nil || len(changes) == 0 {
		t.Errorf("%d changes, %v", len(changes), err)
	}
	if n := records(t, tree); n != want {
		t.Errorf("%d numbers, before it %d", n, want)
	}
}

// TestARevisionGivesNoNumbersToWhatStays: what is shown of silent images is the same,
// with the same numbers, in each revision that has the same images, whether somebody
// asked for one or not. An image that is published anew is seen for the first time.
func TestARevisionGivesNoNumbersToWhatStays(t *testing.T) {
	s, tree := silentSite(t, 20, 10)
	look := func() string {
		listAll(t, tree)
		list(t, tree, "modules/tool1")
		read(t, tree, ".neurodeskfs/apps/tool1/7.0--h_0")
		return read(t, tree, "bin/tool1")
	}
	first, want := look(), records(t, tree)
	for i := range 3 {
		s.content.File("all/README", fmt.Append(nil, i), 0o644) // each image's row is in another catalog then
		s.publish()
		if _, err := tree.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		known := 0
		for _, m := range tree.index.Load().order {
			if m.known() {
				known++
			}
		}
		if known > 3 { // those that somebody has asked for
			t.Errorf("revision %d: %d of 20 images were looked into", i, known)
		}
		if text, n := look(), records(t, tree); text != first || n != want {
			t.Errorf("revision %d: %d numbers, before it %d; %s", i, n, want, text)
		}
	}
	s.content.File("all/tool1:9.0--h_0", []byte("another image"), 0o755)
	s.publish()
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := launch.ParseCommand([]byte(look()))
	if err != nil || c.Revision != s.client.Head().Revision {
		t.Errorf("the new image is told to be of revision %d, %v; it is of %d", c.Revision, err, s.client.Head().Revision)
	}
}

// silentSite is a mount of n images of the flat layout, each app having so many, which
// tell no commands.
func silentSite(t *testing.T, n, each int) (*site, *Tree) {
	t.Helper()
	s := newSite(t, func(tree *cvmfstest.Tree) {
		for i := range n {
			tree.File(fmt.Sprintf("all/tool%d:%d.0--h_0", i/each, i%each), fmt.Appendf(nil, "image %d", i), 0o755)
		}
		tree.Nested("all")
	})
	s.layout, s.path = LayoutFlat, "/all"
	tree := s.open()
	complete(t, tree)
	return s, tree
}
