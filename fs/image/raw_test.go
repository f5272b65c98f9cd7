package image

import (
	"fmt"
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
	images, repo := s.open()
	raw := images.Raw(fqrn)
	for i := range revisions {
		s.tree.File(fmt.Sprintf("data/new%d", i), fmt.Append(nil, i), 0o644)
		s.publish()
		head, moved, err := repo.Candidate(t.Context())
		if err != nil || !moved {
			t.Fatalf("revision %d: moved %v, %v", i, moved, err)
		}
		if _, err := raw.Move(t.Context(), head); err != nil {
			t.Fatal(err)
		}
	}
	want := namesOf(t, raw)
	next, _ := s.open()
	raw = next.Raw(fqrn)
	raw.Resume(images.Raw(fqrn).Shown())
	s.server.Inject(cvmfstest.All, 0, cvmfstest.Delay(30*time.Millisecond))
	s.server.Reset()
	got := namesOf(t, raw)
	if len(got) != revisions+2 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, before %v", got, want)
	}
	if log := s.server.Requests(); len(log) < revisions || cvmfstest.Rounds(log) > 3 {
		t.Errorf("%d requests in %d rounds", len(log), cvmfstest.Rounds(log))
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
