package image

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// TestEarlierRevisionsAreOpenedAtOnce: a daemon that takes over, with nothing in its
// cache, does not fetch one catalog after the other of all that were shown to list
// a directory that changed with each.
func TestEarlierRevisionsAreOpenedAtOnce(t *testing.T) {
	const revisions = 12
	s := newSite(t)
	images := s.revise(revisions)
	want := namesOf(t, images.Raw(fqrn))
	next, _ := s.open()
	raw := next.Raw(fqrn)
	raw.Resume(images.Raw(fqrn).Shown())
	s.server.Inject(cvmfstest.All, 0, cvmfstest.Delay(30*time.Millisecond))
	s.server.Reset()
	got := namesOf(t, raw)
	if len(got) != revisions+2 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, before %v", got, want)
	}
	if log := s.server.Requests(); len(log) < revisions || cvmfstest.Rounds(log) > 5 {
		t.Errorf("%d requests in %d rounds", len(log), cvmfstest.Rounds(log))
	}
}

// revise moves to that many revisions, each of which has one more file in data.
func (s *site) revise(revisions int) *Images {
	s.t.Helper()
	images, repo := s.open()
	raw := images.Raw(fqrn)
	for i := range revisions {
		s.tree.File(fmt.Sprintf("data/new%d", i), fmt.Append(nil, i), 0o644)
		s.publish()
		head, moved, err := repo.Candidate(s.t.Context())
		if err != nil || !moved {
			s.t.Fatalf("revision %d: moved %v, %v", i, moved, err)
		}
		if _, err := raw.Move(s.t.Context(), head); err != nil {
			s.t.Fatal(err)
		}
	}
	return images
}

// TestChangesReadTwoRevisions: however many revisions were shown, to find what the
// last one changed costs the catalogs of two, to a daemon that took over, too.
func TestChangesReadTwoRevisions(t *testing.T) {
	s := newSite(t)
	images := s.revise(30)
	namesOf(t, images.Raw(fqrn)) // data is known now
	next, _ := s.open()
	raw := next.Raw(fqrn)
	raw.Resume(images.Raw(fqrn).Shown())
	s.server.Reset()
	changes, err := raw.Changes(t.Context())
	var names []string
	for _, c := range changes {
		names = append(names, c.Names...)
	}
	if err != nil || !slices.Contains(names, "new29") || slices.Contains(names, "new28") {
		t.Errorf("%q, %v", names, err)
	}
	if n := s.server.Stats().Requests; n > 4 {
		t.Errorf("%d requests", n)
	}
}

// TestAFileKeepsItsNode: from the revision that it came with, or changed in, to the
// last one that has it as it is, in this daemon and in the next.
func TestAFileKeepsItsNode(t *testing.T) {
	s := newSite(t)
	images, repo := s.open()
	raw := images.Raw(fqrn)
	var nodes []string
	for i, content := range []string{"a", "b", "b", "b", "c", "c", "b"} {
		s.tree.File("data/moving", []byte(content), 0o644)
		s.tree.File("data/other", fmt.Append(nil, i), 0o644)
		s.publish()
		head, _, err := repo.Candidate(t.Context())
		if err == nil {
			_, err = raw.Move(t.Context(), head)
		}
		if err != nil {
			t.Fatal(err)
		}
		next, _ := s.open()
		next.Raw(fqrn).Resume(raw.Shown())
		node := namesOf(t, raw)["moving"]
		if again := namesOf(t, next.Raw(fqrn))["moving"]; again != node {
			t.Errorf("revision %d: %s, to the next daemon %s", i, node, again)
		}
		nodes = append(nodes, node)
	}
	for i, same := range []bool{false, true, true, false, true, false} {
		if (nodes[i] == nodes[i+1]) != same {
			t.Errorf("from %s to %s, want the same node: %t", nodes[i], nodes[i+1], same)
		}
	}
}

// namesOf maps the names in data to their nodes.
func namesOf(t *testing.T, raw *Raw) map[string]string {
	t.Helper()
	root, err := raw.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data := down(t, root, "data")
	names := map[string]string{}
	if err := raw.ReadDir(t.Context(), data.Entry, 0, func(c volume.Child) bool {
		names[c.Name] = fmt.Sprintf("%q %x", c.Volume.Key(), c.Entry)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
