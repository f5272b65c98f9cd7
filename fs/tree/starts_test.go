package tree

import (
	"errors"
	iofs "io/fs"
	"slices"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// TestStartsAreAnnounced: a look-up that never finds anything tells of a start of
// an image that is known, each time.
func TestStartsAreAnnounced(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) { addContainer(tree, "fsl_6_20240101", "bet\nfsl\n") })
	tree := s.open()
	var got []string
	tree.o.Started = func(id string, spec image.Spec, command string) { got = append(got, id+" "+command+" "+spec.FQRN) }
	complete(t, tree)
	find(t, tree, "bin/bet")
	names, err := tree.imageIDs(t.Context())
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	dir := find(t, tree, ".neurodeskfs/starts")
	for _, name := range []string{launch.StartName(names[0], "bet"), launch.StartName(names[0], "bet"), launch.StartName("unknown", "bet"), "odd", ":", launch.StartName(names[0], "/opt/x")} {
		c, err := tree.Lookup(t.Context(), dir.Entry, name)
		if !errors.Is(err, iofs.ErrNotExist) || c.Valid != 0 {
			t.Errorf("%s: believed for %v, %v", name, c.Valid, err)
		}
	}
	bet := names[0] + " bet " + fqrn
	if want := []string{bet, bet, names[0] + " %opt%x " + fqrn}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
