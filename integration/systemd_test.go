package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// realSystemd is a systemd that is nobody's init: a user instance of root's, in a
// mount namespace, where it finds what an instance needs, and in cgroups of its
// own. It knows the units of one directory only.
type realSystemd struct {
	t    *testing.T
	dir  string
	pid  int
	unit string
}

// newRealSystemd starts one. The unit is that of packaging, for a mount at m of what
// config says.
func newRealSystemd(t *testing.T, m, config string) *realSystemd {
	t.Helper()
	systemd := "/lib/systemd/systemd"
	if installed(t, "unshare"); !exists(systemd) {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no systemd here: make deps")
		}
		t.Skip("there is no systemd here")
	}
	s := &realSystemd{t: t, dir: shortDir(t), unit: "neurodeskfs.service"}
	source := sourceRoot(t)
	unit := readText(filepath.Join(source, "packaging/systemd", s.unit))
	unit = regexp.MustCompile(`([ '=])/neurodesk\b`).ReplaceAllString(unit, "${1}"+m)
	unit = strings.NewReplacer("/usr/local/bin/", s.dir+"/", "TimeoutStopSec=5\n", "TimeoutStopSec=1\n", "RestartSec=2\n", "RestartSec=100ms\n").Replace(unit)
	if strings.Count(unit, s.dir) < 3 || strings.Count(unit, m) < 4 || !strings.Contains(unit, "TimeoutStopSec=1\n") {
		t.Fatalf("the unit is not as this test knows it:\n%s", unit)
	}
	os.MkdirAll(filepath.Join(s.dir, "run"), 0o700)
	for name, text := range map[string]string{
		s.unit: unit, "basic.target": "[Unit]\n", "default.target": "[Unit]\n",
		"neurodeskfs": fmt.Sprintf("#!/bin/sh\ncase $1 in mount) shift; set -- mount --config %s \"$@\" ;; esac\nexec %s \"$@\"\n", config, program(t)),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.ownCgroups()
	c := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`for h; do [ ! -d "$h" ] || echo $$ >"$h/cgroup.procs"; done; mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec `+
			systemd+` --user --log-target=console --log-color=no`, "sh")
	c.Args = append(c.Args, s.cgroups()...)
	c.Env = s.env()
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err == nil {
		defer log.Close()
		c.Stdout, c.Stderr = log, log
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.pid = c.Process.Pid
	t.Cleanup(func() {
		const exitNow = 34 + 24 // SIGRTMIN+24, see systemd(1); SIGTERM would want an exit.target
		c.Process.Signal(syscall.Signal(exitNow))
		timer := killAfter(c, commandPatience)
		defer timer.Stop()
		c.Wait()
		if t.Failed() {
			t.Logf("systemd:\n%s", readText(log.Name()))
		}
	})
	eventually(t, "systemd answers", func() bool { return exists(filepath.Join(s.dir, "run/systemd/private")) })
	return s
}

func (s *realSystemd) env() []string {
	return append(os.Environ(), "XDG_RUNTIME_DIR="+s.dir+"/run", "SYSTEMD_UNIT_PATH="+s.dir)
}

// cgroups are ours in the two hierarchies that systemd may keep its books in.
func (s *realSystemd) cgroups() []string {
	name := "nd-" + filepath.Base(s.dir)
	return []string{filepath.Join("/sys/fs/cgroup/systemd", name), filepath.Join("/sys/fs/cgroup/unified", name), filepath.Join("/sys/fs/cgroup", name)}
}

// ownCgroups makes them, and removes them and what systemd made of that name
// elsewhere when the test ends.
func (s *realSystemd) ownCgroups() {
	for _, dir := range s.cgroups() {
		if exists(filepath.Join(filepath.Dir(dir), "cgroup.procs")) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				s.t.Skip("no cgroups of our own here: ", err)
			}
		}
	}
	s.t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			for _, below := range []string{"/*/*/*", "/*/*", "/*", ""} {
				dirs, _ := filepath.Glob(pattern + filepath.Base(s.cgroups()[0]) + below)
				for _, dir := range dirs {
					if info, err := os.Stat(dir); err == nil && info.IsDir() && os.Remove(dir) != nil {
						s.t.Errorf("left behind: %s", dir)
					}
				}
			}
		}
	})
}

// ctl is systemctl.
func (s *realSystemd) ctl(args ...string) result {
	s.t.Helper()
	c := exec.Command("nsenter", append([]string{"--mount", "--target", strconv.Itoa(s.pid), "systemctl", "--user", "--no-pager"}, args...)...)
	c.Env = s.env()
	return run(s.t, c)
}

// must is ctl of what must succeed.
func (s *realSystemd) must(args ...string) string {
	s.t.Helper()
	r := s.ctl(args...)
	if r.Status != 0 {
		s.t.Errorf("systemctl %q: %+v", args, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// seen is a path as processes of it see it.
func (s *realSystemd) seen(path string) string { return fmt.Sprintf("/proc/%d/root%s", s.pid, path) }

// TestSystemdUnit has a real systemd start, reload, restart and stop the unit of
// packaging. A tool that runs when it stops goes on to its end.
func TestSystemdUnit(t *testing.T) {
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m, config := setup{Sources: []source{src}}.prepare(t)
	s := newRealSystemd(t, m.Dir, config)
	s.must("start", s.unit)
	pid, err := strconv.Atoi(s.must("show", "--property=MainPID", "--value", s.unit))
	if err != nil || !exists(s.seen(m.Dir+"/bin/mrinfo")) {
		t.Fatalf("main process %d, %v; the tree is not there", pid, err)
	}
	s.must("reload", s.unit)
	for property, want := range map[string]string{"OOMScoreAdjust": "-900", "OOMPolicy": "continue"} {
		if got := s.must("show", "--property="+property, "--value", s.unit); got != want {
			t.Errorf("%s is %q, want %q", property, got, want)
		}
	}

	tool := exec.Command("nsenter", "--mount", "--target", strconv.Itoa(s.pid), program(t), "exec", "--mount", m.Dir, "mrtrix3", "--", "sh", "-c", "echo up; read line; mrinfo -version | head -n1")
	tool.Env = append(os.Environ(), "NEURODESK_RUNTIME=bwrap")
	in, err := tool.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := tool.StdoutPipe()
	if err == nil {
		err = tool.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 64)
	if n, err := out.Read(said); string(said[:n]) != "up\n" {
		t.Fatalf("the tool said %q, %v", said[:n], err)
	}
	s.must("stop", s.unit)
	if exists(s.seen(m.Dir + "/bin")) {
		t.Error("the tree is there after stop")
	}
	in.Close()
	if n, _ := out.Read(said); string(said[:n]) != "== mrinfo 3.0.3 ==\n" {
		t.Errorf("the tool that ran said %q", said[:n])
	}
	if err := tool.Wait(); err != nil {
		t.Errorf("the tool that ran: %v", err)
	}
	eventually(t, "the daemon has ended", func() bool { return len(daemonsOf(m.Dir)) == 0 })

	s.must("start", s.unit)
	for _, pid := range daemonsOf(m.Dir) {
		unix.Kill(pid, unix.SIGKILL)
	}
	eventually(t, "systemd has started it again", func() bool {
		return s.ctl("is-active", s.unit).Status == 0 && exists(s.seen(m.Dir+"/bin/mrinfo")) && len(daemonsOf(m.Dir)) > 1
	})
	s.must("stop", s.unit)
	if s.ctl("is-active", s.unit).Status == 0 || exists(s.seen(m.Dir+"/bin")) {
		t.Error("it is active after stop")
	}
	eventually(t, "the daemon has ended", func() bool { return len(daemonsOf(m.Dir)) == 0 })
}
