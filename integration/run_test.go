package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// jobSite is a configuration for run, with a cache of its own.
func jobSite(t *testing.T) (s setup, config string) {
	t.Helper()
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	return setup{Sources: []source{src}}.prepare(t)
}

// jobProcesses are the processes of run that have the configuration.
func jobProcesses(config string, words ...string) []int {
	return processes(func(p process) bool {
		line := strings.Join(p.args, " ")
		for _, w := range words {
			if strings.Contains(line, w) {
				return true
			}
		}
		return strings.Contains(line, "run --serve") && strings.Contains(line, config)
	})
}

// TestLaunchRun: the program is what it would be outside, at a mount point that
// the host lacks, and nothing of it is there afterwards.
func TestLaunchRun(t *testing.T) {
	s, config := jobSite(t)
	const absent = "/neurodesk-of-no-host"
	tmp := shortDir(t)
	job := func(mountpoint string, command ...string) *exec.Cmd {
		c := exec.Command(program(t), append([]string{"run", "--config", config, mountpoint, "--"}, command...)...)
		c.Env = append(os.Environ(), "NEURODESK_RUNTIME=bwrap", "TMPDIR="+tmp)
		return c
	}
	table := map[string]struct {
		mountpoint     string
		command        []string
		stdin, stdout  string
		status         int
		signal         syscall.Signal
		stderrContains string
	}{
		"a tool":             {absent, []string{"sh", "-c", "mrinfo -version | head -n1"}, "", "== mrinfo 3.0.3 ==\n", 0, 0, ""},
		"a directory":        {s.Dir, []string{"sh", "-c", "echo $NEURODESK_MOUNT; ls $NEURODESK_MOUNT/bin/mrinfo"}, "", s.Dir + "\n" + s.Dir + "/bin/mrinfo\n", 0, 0, ""},
		"ids":                {absent, []string{"id", "-u"}, "", run(t, exec.Command("id", "-u")).Stdout, 0, 0, ""},
		"no capability more": {absent, []string{"grep", "CapEff", "/proc/self/status"}, "", run(t, exec.Command("grep", "CapEff", "/proc/self/status")).Stdout, 0, 0, ""},
		"stdin":              {absent, []string{"cat"}, "in\n", "in\n", 0, 0, ""},
		"exit status":        {absent, []string{"sh", "-c", "exit 7"}, "", "", 7, 0, ""},
		"a signal":           {absent, []string{"sh", "-c", "kill -USR1 $$"}, "", "", -1, syscall.SIGUSR1, ""},
		"nohup, and &":       {absent, []string{"sh", "-c", "kill -HUP $$; kill -INT $$; exit 5"}, "", "", 5, 0, ""},
		"what it left":       {absent, []string{"sh", "-c", "sleep 3611 & exit 3"}, "", "", 3, 0, ""},
		"no program":         {absent, []string{"no-such-program"}, "", "", 127, 0, "there is no program no-such-program in PATH"},
		"no executable":      {absent, []string{"/etc/passwd"}, "", "", 126, 0, ""},
		"no mount point":     {filepath.Join(s.Dir, "x"), []string{"sh", "-c", "case $NEURODESK_MOUNT in */neurodesk-*) ;; *) exit 9;; esac"}, "", "", 0, 0, "mkdir -p"},
	}
	for name, test := range table {
		t.Run(name, func(t *testing.T) {
			c := job(test.mountpoint, test.command...)
			c.Stdin = strings.NewReader(test.stdin)
			if strings.HasPrefix(name, "nohup") {
				c.Args = append([]string{"sh", "-c", `trap '' HUP INT; exec "$0" "$@"`, c.Path}, c.Args[1:]...)
				c.Path = "/bin/sh"
			}
			r := run(t, c)
			if r.Stdout != test.stdout || r.Status != test.status || r.Signal != test.signal || !strings.Contains(r.Stderr, test.stderrContains) ||
				test.stderrContains == "" && test.status != 126 && r.Stderr != "" {
				t.Errorf("%+v; %s", r, readText(filepath.Join(s.Cache, "neurodeskfs.log")))
			}
		})
	}
	if exists(absent) {
		t.Errorf("%s is on the host", absent)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("in TMPDIR: %v, %v", left, err)
	}
	if left := jobProcesses(config, "sleep 3611"); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestLaunchRunKilled: whichever of its processes is killed, none stays.
func TestLaunchRunKilled(t *testing.T) {
	_, config := jobSite(t)
	const absent = "/neurodesk-of-no-host"
	for name, find := range map[string]func(top int) []int{
		"run": func(top int) []int { return []int{top} },
		"guard": func(int) []int {
			return processes(func(p process) bool { return len(p.args) > 2 && strings.HasPrefix(p.args[2], "--inside=") })
		},
		"supervisor": func(int) []int { return jobProcesses(config) },
		"program": func(int) []int {
			return processes(func(p process) bool { return len(p.args) == 4 && p.args[3] == "job" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := exec.Command(program(t), "run", "--config", config, absent, "--",
				"sh", "-c", "(setsid sleep 3612 &); mrinfo -version >/dev/null; echo up; sleep 3612; :", "job")
			c.Env = append(os.Environ(), "NEURODESK_RUNTIME=bwrap")
			out, err := c.StdoutPipe()
			if err == nil {
				err = c.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			for _, pid := range find(c.Process.Pid) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			c.Wait()
			eventually(t, "nothing of the job is left", func() bool { return len(jobProcesses(config, "sleep 3612", "--inside=", absent)) == 0 })
		})
	}
}

// TestLaunchRunSurvivesItsWorker: a job whose worker is killed waits for the next
// one, and sees no error.
func TestLaunchRunSurvivesItsWorker(t *testing.T) {
	s, config := jobSite(t)
	const job = `pid() { sed -n '/"worker": {/,/}/s/.*"pid": \([0-9]*\).*/\1/p' $NEURODESK_MOUNT/.neurodeskfs/status.json; }
one=$(pid); mrinfo -version | head -n1; kill -KILL $one; ls $NEURODESK_MOUNT/apps/*/*/ >/dev/null; mrinfo -version | head -n1; two=$(pid); [ -n "$two" ] && [ "$two" != "$one" ] && echo other`
	c := exec.Command(program(t), "run", "--config", config, s.Dir, "--", "sh", "-ec", job)
	c.Env = append(os.Environ(), "NEURODESK_RUNTIME=bwrap")
	version := "== mrinfo 3.0.3 ==\n"
	if r := run(t, c); r.Stdout != version+version+"other\n" || r.Status != 0 || r.Stderr != "" {
		t.Errorf("%+v; %s", r, readText(filepath.Join(s.Cache, "neurodeskfs.log")))
	}
}

// TestLaunchRunInRun: what a job starts by the job's own command line uses the job's mount, without PATH and HOME too.
func TestLaunchRunInRun(t *testing.T) {
	s, config := jobSite(t)
	line := []string{program(t), "run", "--config", config, "--cache", s.Cache, "/neurodesk-of-no-host", "--"}
	c := exec.Command(line[0], append(line[1:], append(line, "sh", "-c", "mrinfo -version | head -n1; echo $NEURODESK_MOUNT")...)...)
	c.Env = []string{"NEURODESK_RUNTIME=bwrap"}
	if r := run(t, c); r.Stdout != "== mrinfo 3.0.3 ==\n/neurodesk-of-no-host\n" || r.Status != 0 || r.Stderr != "" {
		t.Errorf("%+v", r)
	}
}

// TestJobsMountIsAJobs: what is typed in a job says of its mount what it is, and
// nothing tells to take it away, by which the job would end. mount finds it there.
func TestJobsMountIsAJobs(t *testing.T) {
	s, config := jobSite(t)
	const script = `for c in upgrade reload "trace show"; do "$0" $c; echo $?; done; "$0" mount --config "$1" --cache "$2" "$NEURODESK_MOUNT"; echo $?
"$0" mount --config "$1" --cache "$2/other" "$NEURODESK_MOUNT"; echo $?`
	c := exec.Command(program(t), "run", "--config", config, "--cache", s.Cache, s.Dir, "--", "sh", "-c", script, program(t), config, s.Cache)
	r := run(t, c)
	if r.Stdout != "1\n1\n1\n0\n5\n" || strings.Count(r.Stderr, "is the mount of a job (neurodeskfs run)") != 3 ||
		!strings.Contains(r.Stderr, "use it, which ends with the job") || strings.Contains(r.Stderr, "umount") {
		t.Errorf("%+v", r)
	}
}
