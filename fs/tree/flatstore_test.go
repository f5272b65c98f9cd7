package tree

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// TestFlatListingsOpenNothing lists 2,000 images for no more than the catalogs.
func TestFlatListingsOpenNothing(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		for i := range 2000 {
			tree.File(fmt.Sprintf("all/tool%03d:%d.0--h_0", i/4, i%4), fmt.Appendf(nil, "image %d", i), 0o755)
		}
		tree.File("all/README.md", []byte("no image"), 0o644)
		tree.Nested("all")
	})
	s.layout, s.path = LayoutFlat, "/all"
	tree := s.open()
	complete(t, tree)
	if n := len(list(t, tree, "apps")); n != 500 {
		t.Errorf("%d apps", n)
	}
	if n := len(list(t, tree, "bin")); n != 500 {
		t.Errorf("%d names in bin", n)
	}
	for path, want := range map[string]string{
		"apps/tool007":          "0.0--h_0 1.0--h_0 2.0--h_0 3.0--h_0 default",
		"apps/tool007/1.0--h_0": "bin env image.sif rootfs",
	} {
		if got := strings.Join(list(t, tree, path), " "); got != want {
			t.Errorf("ls %s: %s, want %s", path, got, want)
		}
	}
	if got := read(t, tree, "apps/tool007/default"); got != "3.0--h_0" {
		t.Errorf("default leads to %s", got)
	}
	for _, r := range s.server.Requests() {
		if strings.Contains(r.Path, "/data/") && !strings.HasSuffix(r.Path, "C") && !strings.HasSuffix(r.Path, "X") {
			t.Errorf("%s was fetched", r.Path)
		}
	}
	mustBeAbsent(t, tree, "apps/README.md")
	mustBeAbsent(t, tree, "apps/tool007/9")
}

// TestFlatHundredThousandImages mounts and lists a flat directory of the size of
// the largest there are for its catalogs alone.
func TestFlatHundredThousandImages(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) { // links, since publishing as many files would take a minute
		tree.File("all/tool0000:0.0--h_0", []byte("no image: nobody looks into it"), 0o755)
		for i := range 100_000 {
			if i > 0 {
				tree.HardLink(fmt.Sprintf("all/tool%04d:%d.0--h_0", i/20, i%20), "all/tool0000:0.0--h_0")
			}
		}
		tree.Nested("all")
	})
	s.layout, s.path = LayoutFlat, "/all"
	tree := s.open()
	complete(t, tree)
	for _, dir := range []string{"apps", "bin", "modules"} {
		c, n := find(t, tree, dir), 0
		err := c.Volume.ReadDir(t.Context(), c.Entry, 0, func(volume.Child) bool { n++; return true })
		if n != 5000 || err != nil {
			t.Errorf("ls %s: %d names, %v", dir, n, err)
		}
	}
	if got := strings.Join(list(t, tree, "apps/tool4321"), " "); !strings.HasSuffix(got, "9.0--h_0 default") || len(strings.Fields(got)) != 21 {
		t.Errorf("ls apps/tool4321: %s", got)
	}
	catalogs := 0
	for _, r := range s.server.Requests() {
		switch {
		case strings.HasSuffix(r.Path, "C"):
			catalogs++
		case strings.Contains(r.Path, "/data/") && !strings.HasSuffix(r.Path, "X"):
			t.Errorf("%s was fetched", r.Path)
		}
	}
	if n := len(s.server.Requests()); catalogs != 2 || n > 6 {
		t.Errorf("%d catalogs in %d requests; there are 2", catalogs, n)
	}
}

func TestUnpackedLayout(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		for _, d := range []string{"aa", "bb"} {
			tree.File(".flat/"+d+"/"+d+"digest/etc/name", []byte(d), 0o644)
			tree.Nested(".flat/" + d + "/" + d + "digest")
		}
		tree.Symlink("reg.example.org/imaging/dcm2niix:latest", "../../.flat/aa/aadigest")
		tree.Symlink("reg.example.org/imaging/dcm2niix:1.0", "/cvmfs/"+fqrn+"/.flat/bb/bbdigest")
		tree.Symlink("reg.example.org/other/deep/dcm2niix:2.0", "../../../.flat/bb/bbdigest")
		tree.Symlink("reg.example.org/gone:1", "../.flat/cc/ccdigest")
		tree.Symlink("reg.example.org/outside:1", "/etc")
		tree.Symlink("reg.example.org/round:1", "round:1")
		tree.Symlink("reg.example.org:5000/team/ported:1", "../../.flat/aa/aadigest")
		tree.File(".metadata/reg.example.org/imaging/dcm2niix:latest/manifest.json", []byte("{}"), 0o644)
	})
	s.layout, s.path = LayoutUnpacked, "/"
	tree := s.open()
	complete(t, tree)
	if got := strings.Join(list(t, tree, "apps/dcm2niix"), " "); got != "1.0 default latest" {
		t.Errorf("ls apps/dcm2niix: %s", got)
	}
	if got := strings.Join(list(t, tree, "apps/other.deep.dcm2niix"), " "); got != "2.0 default" {
		t.Errorf("ls apps/other.deep.dcm2niix: %s", got)
	}
	one, two := read(t, tree, "apps/dcm2niix/1.0/rootfs"), read(t, tree, "apps/other.deep.dcm2niix/2.0/rootfs")
	if one != two || one == read(t, tree, "apps/dcm2niix/latest/rootfs") {
		t.Errorf("rootfs of the same digest: %s and %s", one, two)
	}
	if got := read(t, tree, "apps/ported/1/rootfs"); got != read(t, tree, "apps/dcm2niix/latest/rootfs") {
		t.Errorf("an image of a registry with a port: %s", got)
	}
	mustBeAbsent(t, tree, "apps/gone/1")
	mustBeAbsent(t, tree, "apps/outside/1")
	if _, err := walk(t.Context(), tree, "apps/round/1"); err == nil {
		t.Error("a link to itself is an image")
	}
	list(t, tree, "bin") // no bad image ends it
}

func TestAppNames(t *testing.T) {
	got := appNames(map[string]bool{"/a.org/x/tool": true, "/a.org/y/tool": true, "/b.org/y/tool": true, "/b.org/solo": true})
	want := map[string]string{"/a.org/x/tool": "tool", "/a.org/y/tool": "y.tool", "/b.org/y/tool": "b.org.y.tool", "/b.org/solo": "solo"}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
