package tree

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/image"
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

// TestCommandsOfAClosedSandbox: what another user closed in a root tree of the host
// takes the other commands from nobody.
func TestCommandsOfAClosedSandbox(t *testing.T) {
	dir := openTempDir(t)
	put(t, dir+"/.singularity.d/env/10.sh", "DEPLOY_PATH=/opt/open:/opt/closed:/opt/shut/bin\n", 0o755)
	put(t, dir+"/.singularity.d/env/90.sh", "DEPLOY_BINS=never\n", 0)
	put(t, dir+"/opt/open/good", "#!/bin/sh\n", 0o755)
	put(t, dir+"/opt/closed/one", "#!/bin/sh\n", 0o755)
	put(t, dir+"/opt/shut/bin/two", "#!/bin/sh\n", 0o755)
	put(t, dir+"/root/three", "#!/bin/sh\n", 0o755)
	if err := os.Symlink("/root/three", dir+"/opt/open/three"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/root", "/opt/closed", "/opt/shut"} {
		if err := os.Chmod(dir+name, 0); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir+name, 0o755)
	}
	if os.Getuid() == 0 { // whom modes do not stop
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	}
	found, err := findCommands(t.Context(), image.HostFiles(dir), "app", nil)
	if err != nil || len(found) != 1 || found[0] != (Command{"good", "/opt/open/good"}) {
		t.Errorf("%v, %v", found, err)
	}
}
