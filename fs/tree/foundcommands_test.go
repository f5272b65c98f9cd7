package tree

import (
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestCommandsOutOfTheImage asks root trees that have no commands.txt.
func TestCommandsOutOfTheImage(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		tool := ".flat/aa/tool"
		tree.File(tool+"/.singularity.d/env/10-docker.sh", []byte("#!/bin/sh\nif true; then x; fi\nexport DEPLOY_PATH=\"/opt/t/bin:/none\"\nexport DEPLOY_BINS=sh:/opt/run.sh\n"), 0o755)
		tree.File(tool+"/.singularity.d/runscript", []byte("#!/bin/sh\n"), 0o755)
		tree.File(tool+"/opt/t-1/bin/one", nil, 0o755)
		tree.File(tool+"/opt/t-1/bin/data", nil, 0o644)
		tree.Symlink(tool+"/opt/t", "/opt/t-1")
		tree.Symlink(tool+"/opt/t-1/bin/two", "../../../../../opt/t/bin/one")
		tree.Symlink(tool+"/opt/t-1/bin/dangling", "/etc/passwd")
		tree.Symlink(tool+"/opt/t-1/bin/round", "round")
		bio := ".flat/bb/bio"
		tree.File(bio+"/usr/local/bin/biotool", nil, 0o755)
		tree.File(bio+"/usr/local/bin/conda", nil, 0o755)
		tree.File(bio+"/usr/local/bin/python3.11", nil, 0o755)
		tree.Symlink("reg.example.org/x/tool:1", "../../.flat/aa/tool")
		tree.Symlink("reg.example.org/x/bio:1", "../../.flat/bb/bio")
	})
	s.layout, s.path = LayoutUnpacked, "/"
	tree := s.open()
	complete(t, tree)
	for path, want := range map[string]string{
		"apps/tool/1/bin": "one run.sh sh tool two",
		"apps/bio/1/bin":  "biotool",
		"bin":             "bio tool",
	} {
		if got := strings.Join(list(t, tree, path), " "); got != want {
			t.Errorf("ls %s: %s, want %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"apps/tool/1/bin/two":    "path: /opt/t/bin/two\n",
		"apps/tool/1/bin/run.sh": "path: /opt/run.sh\n",
		"bin/tool":               "path: /.singularity.d/runscript\n",
	} {
		if got := read(t, tree, path); !strings.Contains(got, want) {
			t.Errorf("%s: %q lacks %q", path, got, want)
		}
	}
	if strings.Contains(read(t, tree, "apps/tool/1/bin/sh"), "path:") {
		t.Error("a name in DEPLOY_BINS has a path")
	}
}
