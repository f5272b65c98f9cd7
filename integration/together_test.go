package integration

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// together is how many processes begin at once, as the tasks of a job array do;
// FULL=1 has as many as a large node has cores.
func together() int {
	if os.Getenv("FULL") == "1" {
		return 64
	}
	return 16
}

// atOnce starts n processes, each as soon as it can, and returns how they ended.
func atOnce(t *testing.T, n int, command func() *exec.Cmd) []result {
	t.Helper()
	results := make([]result, n)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			r, err := runCommand(command())
			if err != nil {
				t.Error(err)
			}
			results[i] = r
		})
	}
	all.Wait()
	return results
}

// fetchedOnce sees that each object was asked for by one of the processes alone.
func (s *stratum) fetchedOnce(t *testing.T) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "/data/") {
			seen[r.Path]++
		}
	}
	for path, n := range seen {
		if n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	if len(seen) == 0 {
		t.Error("nothing was fetched")
	}
}

// TestMountTogether has many mount the same at one place: one does, and each
// returns when the tree answers. Whoever wants another one is refused. The lock
// that they take turns with can be had on a directory that can be read; on the
// other one it cannot (but by root), as on NFS.
func TestMountTogether(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"lock": 0o755, "no lock": 0o311} {
		t.Run(name, func(t *testing.T) { mountTogether(t, mode) })
	}
}

func mountTogether(t *testing.T, mode os.FileMode) {
	stratum := newStratum(t)
	s, file := setup{Sources: []source{stratum.Golden(alpha)}}.prepare(t)
	if err := os.Chmod(s.Dir, mode); err != nil {
		t.Fatal(err)
	}
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	t.Cleanup(func() {
		m.Unmount()
		os.Chmod(s.Dir, 0o755)
		m.cleanUp()
	})
	mountAndRead := func() *exec.Cmd {
		return exec.Command("sh", "-c", `"$0" mount --config "$1" "$2" && cmp -s "$2/cvmfs/$3/README.txt" "$2/cvmfs/$3/README.txt"`,
			program(t), file, s.Dir, alpha)
	}
	for _, r := range atOnce(t, together(), mountAndRead) {
		if r.Status != 0 || r.Stdout+r.Stderr != "" {
			t.Errorf("exit status %d: %s%s", r.Status, r.Stdout, r.Stderr)
		}
	}
	first := m.daemon() // at most three processes, supervisor and worker among them
	stratum.fetchedOnce(t)
	mounts, err := session.FindMounts()
	if err != nil {
		t.Fatal(err)
	}
	here := 0
	for _, mount := range mounts {
		if mount.Mountpoint == s.Dir {
			here++
		}
	}
	if here != 1 {
		t.Errorf("%d mounts lie one above the other", here)
	}
	other := s
	other.Mount = "crawlers = []\n"
	other, _ = other.prepare(t)
	if r := refusedAt(t, other); r.Status != 5 || !strings.Contains(r.Stderr, "another configuration") {
		t.Errorf("another configuration: exit status %d: %s", r.Status, r.Stderr)
	}
	if r := neurodeskfs(t, "mount", "--foreground", "--config", file, s.Dir); r.Status != 5 {
		t.Errorf("a daemon with nothing to serve: exit status %d: %s", r.Status, r.Stderr)
	}
	if again := m.daemon(); again != first {
		t.Errorf("the mount was process %d's and is %d's", first, again)
	}
}

// TestLaunchRunTogether has many jobs of one user begin at once, each with a
// mount of its own over one empty cache.
func TestLaunchRunTogether(t *testing.T) {
	stratum := newStratum(t)
	src := stratum.Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	_, config := setup{Sources: []source{src}}.prepare(t)
	task := func() *exec.Cmd {
		c := exec.Command(program(t), "run", "--config", config, "/neurodesk-of-no-host", "--", "mrinfo", "-version")
		c.Env = append(os.Environ(), "NEURODESK_RUNTIME=bwrap")
		return c
	}
	for _, r := range atOnce(t, together(), task) {
		if r.Status != 0 || r.Stderr != "" || !strings.HasPrefix(r.Stdout, "== mrinfo 3.0.3 ==\n") {
			t.Errorf("exit status %d, stdout %q: %s", r.Status, r.Stdout, r.Stderr)
		}
	}
	stratum.fetchedOnce(t)
	if left := jobProcesses(config); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestMountServesJobs: run uses the mount that its user has at another place,
// unless a place is named, for which the cache is not free then.
func TestMountServesJobs(t *testing.T) {
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	r := neurodeskfs(t, "run", "--config", m.Config, "--", "sh", "-c", "echo $NEURODESK_MOUNT; NEURODESK_RUNTIME=bwrap mrinfo -version | head -n1")
	if r.Status != 0 || r.Stdout != m.Dir+"\n== mrinfo 3.0.3 ==\n" {
		t.Errorf("%+v", r)
	}
	if r := neurodeskfs(t, "run", "--config", m.Config, "/neurodesk-of-no-host", "--", "true"); r.Status != 125 || !strings.Contains(r.Stderr, "use that mount") {
		t.Errorf("%+v", r)
	}
}
