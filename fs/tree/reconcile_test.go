package tree

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// reconciled are the names, by directory, that Reconcile says stand for something
// else. Directories without such names are left out.
func reconciled(t *testing.T, tree *Tree) map[string][]string {
	t.Helper()
	changes, err := tree.Reconcile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range changes {
		record, err := tree.o.Table.Record(c.Dir.Entry)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Names) > 0 {
			slices.Sort(c.Names)
			got[strings.TrimPrefix(record, dirRecord(""))] = c.Names
		}
	}
	return got
}

// TestReconcile: a worker that takes over tells the kernel of each name that it
// was given a node for and that is not that node any more, and of no other.
func TestReconcile(t *testing.T) {
	s := newSite(t, repository)
	first := s.open()
	complete(t, first)
	for _, path := range []string{
		"bin/bet", "bin/plaincmd", "apps/fsl/default", "apps/fsl/6.0.7.4_20240101/rootfs", "apps/plain/1_20240101/env",
		".neurodeskfs/launcher", ".neurodeskfs/status.json",
	} {
		find(t, first, path)
	}
	if got := reconciled(t, first); len(got) > 0 {
		t.Errorf("nothing has changed, and it says %v", got)
	}

	same := s.open() // the next worker, at the same revision
	complete(t, same)
	if got := reconciled(t, same); len(got) > 0 {
		t.Errorf("another worker of the same revision says %v", got)
	}

	s.content.Remove("containers/plain_1_20240101")
	s.publish()
	moved := s.open() // one that was killed had moved there and told nobody
	complete(t, moved)
	got := reconciled(t, moved)
	if want := []string{"bet", "plaincmd"}; !slices.Equal(got["bin"], want) { // a command says of which revision it is
		t.Errorf("of bin it says %q, want %q", got["bin"], want)
	}
	for dir := range maps.Keys(got) {
		if strings.HasPrefix(dir, "apps/fsl") {
			t.Errorf("%s has not changed: %q", dir, got[dir])
		}
	}
}
