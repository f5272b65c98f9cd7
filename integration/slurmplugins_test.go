package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// freezer is the hierarchy of cgroup v1 that proctrack/cgroup needs here.
const freezer = "/sys/fs/cgroup/freezer"

// TestSLURMPlugins is what packaging/slurm/README.md says about proctrack/cgroup
// and job_container/tmpfs. FULL=1 tries the former alone as well.
func TestSLURMPlugins(t *testing.T) {
	installed(t, "slurmd")
	needFreezer(t)
	table := map[string]func(t *testing.T, src source){"cgroup and tmpfs": cgroupAndTmpfs}
	if os.Getenv("FULL") == "1" {
		table["cgroup"] = cgroupAlone
	}
	for name, test := range table {
		t.Run(name, func(t *testing.T) {
			outsideTmp(t)
			src := newStratum(t).Golden("neurodesk.golden.test")
			src.Layout = "neurodesk"
			test(t, src)
		})
	}
}

// cgroupAndTmpfs: a job sees the mounts that were there when it began, and its
// own, which nobody else sees; its own goes with it.
func cgroupAndTmpfs(t *testing.T, src source) {
	c := newCluster(t, "ProctrackType=proctrack/cgroup", "JobContainerType=job_container/tmpfs", "PrologFlags=Alloc,Contain")
	before := mount(t, setup{Sources: []source{src}})
	late := setup{Sources: []source{src}, Dir: shortDir(t)}
	own, config := setup{Sources: []source{src}, Cache: filepath.Join(c.home, "own")}.prepare(t)
	if err := os.Chown(own.Dir, int(c.user.Uid), int(c.user.Gid)); err != nil {
		t.Fatal(err)
	}
	began, goOn := filepath.Join(c.home, "began"), filepath.Join(c.home, "go")
	id := c.submit(strings.Join([]string{
		"ls " + before.Path("bin/mrinfo"), copied() + " mount --config " + config + " " + own.Dir, "PATH=" + own.Dir + "/bin:$PATH " + task, "ls -A /tmp",
		"touch " + began, "until [ -e " + goOn + " ]; do sleep 0.05; done", "ls -A " + late.Dir, "echo end",
	}, "\n") + "\n")
	eventually(t, "the job began", func() bool { return exists(began) })
	if on, err := session.IsMounted(own.Dir); err != nil || on {
		t.Errorf("the job's own mount is seen outside: %v, %v", on, err)
	}
	mount(t, late)
	if err := os.WriteFile(goOn, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, want := c.ended(id), before.Path("bin/mrinfo")+"\n"+said+"end\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	eventually(t, "the daemon has ended with its job", func() bool { return len(daemonsOf(own.Dir)) == 0 })
	c.prologAndEpilog(t, src)
	c.cancelled(t, src, copied())
}

// cgroupAlone: what a job mounts itself dies with it, and the next mount at that
// place clears it away.
func cgroupAlone(t *testing.T, src source) {
	c := newCluster(t, "ProctrackType=proctrack/cgroup")
	own, config := setup{Sources: []source{src}, Cache: filepath.Join(c.home, "own")}.prepare(t)
	if err := os.Chown(own.Dir, int(c.user.Uid), int(c.user.Gid)); err != nil {
		t.Fatal(err)
	}
	job := copied() + " mount --config " + config + " " + own.Dir + "\nPATH=" + own.Dir + "/bin:$PATH " + task
	for range 2 {
		if out := c.ended(c.submit(job)); out != said {
			t.Errorf("%q", out)
		}
		eventually(t, "the daemon has ended with its job", func() bool { return len(daemonsOf(own.Dir)) == 0 })
		if on, err := session.IsMounted(own.Dir); err != nil || !on {
			t.Errorf("mounted: %v, %v; a dead mount was expected", on, err)
		}
	}
	if r := c.as(nil, copied(), "umount", own.Dir); r.Status != 0 {
		t.Errorf("umount: %+v", r)
	}
	c.prologAndEpilog(t, src)
}

// copied is the program where jobs see it.
func copied() string { return filepath.Join(runDir, "neurodeskfs") }

// needFreezer skips the test where the hierarchy is not ours, and removes what
// SLURM leaves in it.
func needFreezer(t *testing.T) {
	t.Helper()
	probe := filepath.Join(freezer, "nd-probe")
	if err := os.Mkdir(probe, 0o755); err != nil {
		t.Skip("no freezer of cgroup v1 here: ", err)
	}
	os.Remove(probe)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	top := filepath.Join(freezer, "slurm_"+host)
	if exists(top) {
		t.Skip(top + " is there: another SLURM runs")
	}
	t.Cleanup(func() {
		left, _ := filepath.Glob(top + "/uid_*")
		for _, dir := range append(left, top) {
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				t.Errorf("left behind: %v", err)
			}
		}
	})
}

// outsideTmp lets the test's directories be where job_container/tmpfs lets jobs
// see them: each job has a /tmp of its own.
func outsideTmp(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "nd")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := runDir
	runDir = dir
	t.Cleanup(func() {
		runDir = before
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	text, err := os.ReadFile(program(t))
	if err == nil {
		err = os.WriteFile(copied(), text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
