package integration

import (
	"bufio"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestMountTwoPlacesMoveNobody lists directories that are reachable at several
// places, one after the other, while processes stand in each.
func TestMountTwoPlacesMoveNobody(t *testing.T) {
	s := newStratum(t)
	images := s.Golden("neurodesk.golden.test")
	images.Layout = "neurodesk"
	gamma := s.Golden("gamma.golden.test")
	m := mount(t, setup{Sources: []source{images, gamma}})
	const name = "pytools_3.11_20240601"
	rootfs, err := filepath.EvalSymlinks(m.Path("apps/pytools/3.11_20240601/rootfs"))
	if err != nil || !strings.HasPrefix(rootfs, m.Path(".neurodeskfs/images")) {
		t.Fatalf("rootfs is %s, %v", rootfs, err)
	}
	raw := m.Raw("neurodesk.golden.test", "containers", name, name+".simg")
	sw := []string{m.Raw("gamma.golden.test")}
	for n := 1; n <= 3; n++ {
		sw = append(sw, m.Raw("gamma.golden.test", ".cvmfs/snapshots", fmt.Sprintf("golden-rev%d", n)))
	}
	for what, c := range map[string]struct {
		places []string
		below  string
	}{
		"raw and image view": {[]string{raw, rootfs}, "usr/lib"},
		"image's own root":   {[]string{raw, rootfs}, "."},
		"snapshots":          {sw, "sw/v2"},
		"bind mountpoints":   {sw, "."},
	} {
		t.Run(what, func(t *testing.T) {
			var standing []*stander
			for _, p := range c.places {
				standing = append(standing, stand(t, filepath.Join(p, c.below)))
			}
			for range 3 {
				for _, p := range c.places {
					lookAround(t, filepath.Join(p, c.below))
				}
				for _, s := range standing {
					s.check(t)
				}
			}
		})
	}
}

// lookAround lists dir, two levels below it, and its parent.
func lookAround(t *testing.T, dir string) {
	t.Helper()
	for _, root := range []string{dir, filepath.Dir(dir)} {
		err := filepath.WalkDir(root, func(p string, d iofs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if _, err := os.Lstat(p); err != nil {
				return err
			}
			if d.IsDir() && strings.Count(p[len(root):], "/") >= 2 {
				return iofs.SkipDir
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// stander is a process that stands in a directory of the mount and, as root,
// has a bind mount of its own in it.
type stander struct {
	dir, bind string
	pid       int
}

// stand starts one; it leaves when the test ends.
func stand(t *testing.T, dir string) *stander {
	t.Helper()
	s := &stander{dir: dir}
	args := []string{"sh", "-c", "echo stands; read leave"}
	if os.Geteuid() == 0 {
		s.bind = firstDirectory(t, dir)
		script := `mount --bind "$1" "$2" && echo stands && read leave`
		args = []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", runDir, s.bind}
	}
	c := exec.Command(args[0], args[1:]...)
	c.Dir = dir
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		io.Copy(io.Discard, out)
		c.Wait() // read fails at the end of input: the status tells nothing
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "stands\n" {
		t.Fatalf("in %s: %q, %v", dir, line, err)
	}
	s.pid = c.Process.Pid
	s.check(t)
	return s
}

// firstDirectory is a directory in dir.
func firstDirectory(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			return filepath.Join(dir, e.Name())
		}
	}
	t.Fatalf("no directory in %s", dir)
	return ""
}

// check sees that s stands where it stood, that the way up leads where it led,
// and that its bind mount is still there.
func (s *stander) check(t *testing.T) {
	t.Helper()
	cwd := "/proc/" + strconv.Itoa(s.pid) + "/cwd"
	if got, err := os.Readlink(cwd); err != nil || got != s.dir {
		t.Errorf("who stood in %s stands in %s, %v", s.dir, got, err)
	}
	up, err := os.Open(cwd + "/..")
	if err != nil {
		t.Errorf("the way up from %s: %v", s.dir, err)
		return
	}
	defer up.Close()
	if got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", up.Fd())); err != nil || got != filepath.Dir(s.dir) {
		t.Errorf("the way up from %s leads to %s, %v", s.dir, got, err)
	}
	if s.bind == "" {
		return
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.pid))
	if err != nil || !strings.Contains(string(mounts), " "+s.bind+" ") {
		t.Errorf("the bind mount at %s is gone, %v", s.bind, err)
	}
	if got, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", s.pid, s.bind)); err != nil {
		t.Error(err)
	} else if want, err := os.Stat(runDir); err != nil || !os.SameFile(got, want) {
		t.Errorf("another directory is seen at %s", s.bind)
	}
}
