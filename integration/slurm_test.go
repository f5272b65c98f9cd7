package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// TestSLURM runs jobs of an ordinary user on a node with a daemon, with run, and
// with the prolog and the epilog.
func TestSLURM(t *testing.T) {
	c := newCluster(t)
	s := newStratum(t)
	src := s.Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	t.Run("array of 64 on a daemon", func(t *testing.T) {
		m := mount(t, setup{Sources: []source{src}})
		s.Reset()
		out := c.ended(c.submit("PATH="+m.Path("bin")+":$PATH\n"+task, "--array=1-64"))
		if out != strings.Repeat(said, 64) {
			t.Errorf("%q", out)
		}
		s.fetchedOnce(t)
	})
	_, config := setup{Sources: []source{src}, Cache: filepath.Join(c.home, "cache"), Dir: "/neurodesk"}.prepare(t)
	inside := program(t) + " run --config " + config + " -- "
	t.Run("eight tasks without a daemon", func(t *testing.T) {
		s.Reset()
		out := c.ended(c.submit(inside+"sh -c '"+strings.ReplaceAll(task, "\n", "; ")+"'\n", "--array=1-8"))
		if out != strings.Repeat(said, 8) {
			t.Errorf("%q", out)
		}
		s.fetchedOnce(t)
		if exists("/neurodesk/bin") {
			t.Error("the mount is seen outside")
		}
	})
	t.Run("two ranks", c.ranks)
	t.Run("cancelled", func(t *testing.T) { c.cancelled(t, src, program(t)) })
	t.Run("prolog and epilog", func(t *testing.T) { c.prologAndEpilog(t, src) })
}

const (
	task = "export NEURODESK_RUNTIME=bwrap\nmrinfo -version | head -n1\n"
	said = "== mrinfo 3.0.3 ==\n"
)

// cancelled: of a job that runs the program as neurodeskfs run, scancel leaves
// no process.
func (c *cluster) cancelled(t *testing.T, src source, program string) {
	job, config := setup{Sources: []source{src}, Cache: filepath.Join(c.home, "cache")}.prepare(t)
	mark := filepath.Join(c.home, "began")
	id := c.submit("exec " + program + " run --config " + config + " -- sh -c 'sleep 3600 & mrinfo -version >/dev/null; touch " + mark + "; sleep 3600'\n")
	eventually(t, "the job began", func() bool { return exists(mark) })
	if r := c.as(nil, "scancel", id); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	c.ended(id)
	ours := func(p process) bool {
		line := strings.Join(p.args, " ")
		return line == "sleep 3600" || strings.Contains(line, "run --serve --cache="+job.Cache) || strings.Contains(line, "run --inside=")
	}
	eventually(t, "no process of the job is left", func() bool { return len(processes(ours)) == 0 })
}

// prologAndEpilog: two jobs at once find the mount, where one lay whose daemon was killed; it goes with the last one.
func (c *cluster) prologAndEpilog(t *testing.T, src source) {
	m, config := setup{Sources: []source{src}}.prepare(t)
	mount(t, m).killAll()
	c.hooks(m.Dir, config)
	var jobs []string
	for range 2 {
		jobs = append(jobs, c.submit("PATH="+m.Dir+"/bin:$PATH\n"+task))
	}
	for _, id := range jobs {
		if out := c.ended(id); out != said {
			t.Errorf("%q; %s", out, readText(filepath.Join(c.dir, "hooks.log")))
		}
	}
	eventually(t, "the last job's epilog has unmounted", func() bool {
		on, err := session.IsMounted(m.Dir)
		return err == nil && !on && len(daemonsOf(m.Dir)) == 0
	})
	if left, _ := os.ReadDir(filepath.Join(c.dir, "run/jobs")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if log := readText(filepath.Join(c.dir, "hooks.log")); log != "" {
		t.Errorf("the hooks said: %s", log)
	}
}

// ranks has two ranks of one image meet: they are told who they are, wait for
// each other by the scheduler's PMI, and share memory.
func (c *cluster) ranks(t *testing.T) {
	serverProgram(t, "gcc")
	rootfs := buildTool(t)
	if r := run(t, exec.Command("gcc", "-static", "-O1", "-o", filepath.Join(rootfs, "bin/rank"), "testdata/rank.c")); r.Status != 0 {
		t.Fatalf("gcc: %s", r.Stderr)
	}
	src := newStratum(t).tool(rootfs, "rank")
	m := mount(t, setup{Sources: []source{src}})
	_, config := setup{Sources: []source{src}, Cache: filepath.Join(c.home, "ranks")}.prepare(t)
	const srun = "srun --mpi=pmi2 -n2 "
	out := c.ended(c.submit(
		"for NEURODESK_RUNTIME in apptainer bwrap; do export NEURODESK_RUNTIME; "+srun+m.Path("bin/rank")+"; done\n"+
			srun+program(t)+" run --config "+config+" -- rank\n", "--ntasks=2"))
	lines := strings.Fields(strings.ReplaceAll(strings.TrimSpace(out), " ", "_"))
	slices.Sort(lines)
	want := append(slices.Repeat([]string{"0_of_2:_100_101"}, 3), slices.Repeat([]string{"1_of_2:_100_101"}, 3)...)
	if !slices.Equal(lines, want) {
		t.Errorf("%q", out)
	}
}
