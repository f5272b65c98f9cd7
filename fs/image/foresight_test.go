package image

import (
	"fmt"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestABundleIsFetchedWithItsTrigger reads one file of an image and finds those in
// the cache that the publisher says are read after it.
func TestABundleIsFetchedWithItsTrigger(t *testing.T) {
	for _, told := range []bool{false, true} {
		s := newSite(t)
		s.tree.Nested("img/three")
		s.tree.File("img/three/opt/start", []byte("begin"), 0o644)
		list := ""
		for i := range 5 {
			s.tree.File(fmt.Sprintf("img/three/opt/data/%d", i), fmt.Appendf(nil, "data %d", i), 0o644)
			list += fmt.Sprintf(`"/img/three/opt/data/%d",`, i)
		}
		s.tree.File("img/three/opt/data/other", []byte("not named"), 0o644)
		s.tree.File("img/three/opt/.cvmfsbundle-start", []byte(`{"name":"CVMFS_BUNDLE","version":"1.0.0","encoding":"UTF-8","dependencies":[`+list+`"/img/nothing"]}`), 0o644)
		rev, err := s.repo.Publish(t.Context(), s.tree)
		if err != nil {
			t.Fatal(err)
		}
		images, repo := s.open()
		id, root := s.image(images, repo, "/img/three")
		images.Foretold(id, told)
		c := down(t, root, "opt/start")
		if _, err := c.Volume.ReadAt(t.Context(), c.Entry, make([]byte, 10), 0); err != nil {
			t.Fatal(err)
		}
		count := func(name string) int { return s.server.Count(cvmfstest.Path(rev.Objects("img/three/opt/" + name)[0])) }
		if !told {
			if err := s.server.Wait(t.Context(), func(cvmfstest.Stats) bool { return count("data/4") == 1 }); err != nil {
				t.Fatal(err)
			}
		}
		repo.Close() // waits for what is in the background
		for i := range 5 {
			if n := count(fmt.Sprintf("data/%d", i)); told && n != 0 || n > 1 {
				t.Errorf("a trace tells: %v; data/%d was fetched %d times", told, i, n)
			}
		}
		if count("data/other") != 0 {
			t.Error("what nobody named was fetched")
		}
	}
}

// TestAPerlModuleIsFetchedWithItsNeighbours reads one module of an image, as a
// program in Perl does first, and finds those beside it in the cache.
func TestAPerlModuleIsFetchedWithItsNeighbours(t *testing.T) {
	for _, told := range []bool{false, true} {
		s := newSite(t)
		s.tree.Nested("img/three")
		const dir = "usr/share/perl/5.36/File/"
		near := []string{"Basename.pm", "Copy.pm", "Find.pm", "Path.pm", "Temp.pm"}
		far := []string{"README.pod", "Spec/Unix.pm"}
		for _, name := range append(near, far...) {
			s.tree.File("img/three/"+dir+name, []byte("package "+name), 0o644)
		}
		rev, err := s.repo.Publish(t.Context(), s.tree)
		if err != nil {
			t.Fatal(err)
		}
		images, repo := s.open()
		id, root := s.image(images, repo, "/img/three")
		images.Foretold(id, told)
		c := down(t, root, dir+near[0])
		if _, err := c.Volume.ReadAt(t.Context(), c.Entry, make([]byte, 10), 0); err != nil {
			t.Fatal(err)
		}
		count := func(name string) int {
			return s.server.Count(cvmfstest.Path(rev.Objects("img/three/" + dir + name)[0]))
		}
		if !told {
			if err := s.server.Wait(t.Context(), func(cvmfstest.Stats) bool { return count(near[len(near)-1]) == 1 }); err != nil {
				t.Fatal(err)
			}
		}
		repo.Close() // waits for what is in the background
		for i, name := range near {
			if n := count(name); n > 1 || told && i > 0 && n != 0 || i == 0 && n != 1 {
				t.Errorf("a trace tells: %v; %s was fetched %d times", told, name, n)
			}
		}
		for _, name := range far {
			if count(name) != 0 {
				t.Errorf("%s was fetched", name)
			}
		}
	}
}
