package image

import (
	"fmt"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// TestAMoveLooksAtWhatChanged: a new revision costs the catalogs that it brought,
// however many directories the kernel may know, and those that nobody entered are
// not fetched.
func TestAMoveLooksAtWhatChanged(t *testing.T) {
	const images = 50
	s := newSite(t)
	for i := range images {
		dir := fmt.Sprintf("many/i%02d", i)
		s.tree.Nested(dir)
		s.tree.File(dir+"/etc/deep/name", []byte(dir), 0o644)
		s.tree.File(dir+"-beside/file", []byte(dir), 0o644) // sorts between that and what lies in it
	}
	s.tree.Nested("many")
	s.publish()
	first, repo := s.open()
	raw := first.Raw(fqrn)
	root, err := raw.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	down(t, root, "data")
	many := down(t, root, "many")
	if err := raw.ReadDir(t.Context(), many.Entry, 0, func(volume.Child) bool { return true }); err != nil {
		t.Fatal(err)
	}
	move := func() (requests int64, looked int) {
		t.Helper()
		s.tree.File("data/file", fmt.Append(nil, repo.Head().Revision), 0o644)
		s.publish()
		head, moved, err := repo.Candidate(t.Context())
		if err != nil || !moved {
			t.Fatal(moved, err)
		}
		s.server.Reset()
		old := []cvmfs.CatalogRef{raw.root()}
		if err := raw.walk(func(d knownDir) (bool, error) {
			looked++
			at, err := raw.twice(t.Context(), old, head.Root, d.path)
			return at.settled(), err
		}); err != nil {
			t.Fatal(err)
		}
		changes, err := raw.Move(t.Context(), head)
		if err != nil || len(changes) != 1 || fmt.Sprint(changes[0].Names) != "[file]" {
			t.Fatalf("%+v, %v", changes, err)
		}
		return int64(s.server.Stats().Requests), looked
	}
	if requests, looked := move(); requests > 1 || looked > 3 { // the root, data, many
		t.Errorf("with listed images a move made %d requests and looked at %d directories", requests, looked)
	}
	for i := range images {
		down(t, many, fmt.Sprintf("i%02d/etc/deep", i))
		down(t, many, fmt.Sprintf("i%02d-beside", i))
	}
	if requests, looked := move(); requests > 1 || looked > 3 {
		t.Errorf("with %d known images a move made %d requests and looked at %d directories", images, requests, looked)
	}
	// One of them changes: it is looked at, and no other.
	s.tree.File("many/i07/etc/deep/name", []byte("new"), 0o644)
	s.publish()
	head, _, err := repo.Candidate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.server.Reset()
	changes, err := raw.Move(t.Context(), head)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string][]string{}
	for _, c := range changes {
		path, err := raw.path(c.Dir.Entry)
		if err != nil {
			t.Fatal(err)
		}
		told[path] = c.Names
	}
	if fmt.Sprint(told["/many/i07/etc/deep"]) != "[name]" || told["/many/i08/etc/deep"] != nil {
		t.Errorf("%v", told)
	}
	if n := s.server.Stats().Requests; n > 3 { // the root's catalog, many's and its own
		t.Errorf("%d requests", n)
	}
}
