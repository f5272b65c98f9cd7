package integration

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newConformers mounts the golden repository and lays out the directories that the invocations run in.
func newConformers(t *testing.T) []conformer {
	t.Helper()
	serverProgram(t, "apptainer")
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	var list []conformer
	for _, who := range callers(t) {
		list = append(list, conformer{t, m, who, layOut(t, who)})
	}
	return list
}

// layOut makes @WORK for one caller and, as root, the directories below system ones.
func layOut(t *testing.T, who caller) string {
	t.Helper()
	work := filepath.Join(shortDir(t), "w")
	dirs := []string{work + "/sub", work + "/a b ä,:\"q'"}
	if os.Getuid() == 0 {
		for _, top := range []string{"/opt", "/srv", "/var", "/run", "/run/user"} {
			dirs = append(dirs, top+"/ndtest/x")
			t.Cleanup(func() { os.RemoveAll(top + "/ndtest") })
		}
	}
	for _, d := range dirs {
		err := os.MkdirAll(d, 0o755)
		if err == nil && strings.HasSuffix(d, "/x") {
			err = os.WriteFile(d+"/f", nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		bindScratch(t, work)
	}
	if err := os.Symlink("sub", work+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(work+"/in.txt", []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	if who.cred != nil {
		if err := os.Chown(work, int(who.cred.Uid), int(who.cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return work
}

// scratch is a top-level directory that the images lack.
const scratch = "/ndtest-scratch"

// bindScratch mounts work there as well.
func bindScratch(t *testing.T, work string) {
	t.Helper()
	err := os.MkdirAll(scratch, 0o755)
	if err == nil {
		err = syscall.Mount(work, scratch, "", syscall.MS_BIND, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(scratch, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		os.Remove(scratch) // not where it is bound for another caller still
	})
}

// TestLaunchConformance runs each trial under every runtime: what it prints, how it ends and what it sees must be the same.
func TestLaunchConformance(t *testing.T) {
	runtimes := runtimesPresent(t)
	for _, c := range newConformers(t) {
		for name, inv := range conformance {
			t.Run(c.who.name+"/"+name, func(t *testing.T) {
				if inv.root && c.who.cred == nil && os.Getuid() != 0 || strings.HasPrefix(strings.Join(inv.env, " "), "HOME=/root") && c.who.cred != nil {
					t.Skip("needs a directory that only root can make or enter")
				}
				c.t = t
				first := c.observe(inv, runtimes[0])
				c.judge(inv, first)
				for _, other := range runtimes[1:] {
					got, want := c.observe(inv, other), first
					if other == "singularity" {
						got.stdout, want.stdout = withoutItsOwn(got.stdout), withoutItsOwn(want.stdout)
					}
					if got != want {
						t.Errorf("%s and %s differ\n%+v\n%+v", runtimes[0], other, want, got)
					}
				}
			})
		}
	}
}

// withoutItsOwn leaves out what singularity does in its own way: the variables
// that tell of the runtime have its prefix only, and the caller's line in
// /etc/passwd names no shell.
func withoutItsOwn(stdout string) string {
	var kept []string
	for line := range strings.SplitSeq(stdout, "\n") {
		if strings.HasPrefix(line, "APPTAINER_") || strings.HasPrefix(line, "SINGULARITY_") {
			continue
		}
		if f := strings.Split(line, ":"); len(f) == 7 {
			line = strings.Join(f[:6], ":")
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}

// judge compares with what the table says.
func (c conformer) judge(inv trial, got observed) {
	c.t.Helper()
	want := strings.NewReplacer("@WORK", c.work, "@HOME", c.who.home).Replace(inv.want)
	if !inv.lines && !strings.Contains(got.stdout, want) {
		c.t.Errorf("stdout %q, want %q", got.stdout, want)
	}
	if (got.stderr == "") != (inv.says == "") || !strings.Contains(got.stderr, inv.says) {
		c.t.Errorf("stderr %q, want %q", got.stderr, inv.says)
	}
	if inv.signal != (got.signal != 0) || !inv.signal && got.status != inv.status {
		c.t.Errorf("exit status %d, signal %v, want %d", got.status, got.signal, inv.status)
	}
}

// started is a tool that has said its process id.
type started struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	tool int
}

// background starts an invocation that prints its process id first.
func (c conformer) background(inv trial, runtime string) started {
	c.t.Helper()
	s := started{cmd: c.start(inv, runtime)}
	pipe, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	patience := time.AfterFunc(time.Minute, func() { s.cmd.Process.Kill() }) // it may never say what is waited for
	c.t.Cleanup(func() { patience.Stop(); s.cmd.Process.Kill() })
	s.out = bufio.NewReader(pipe)
	line, err := s.out.ReadString('\n')
	if s.tool, _ = strconv.Atoi(strings.TrimSpace(line)); err != nil || s.tool == 0 {
		c.t.Fatalf("the tool said %q, %v", line, err)
	}
	return s
}

// TestLaunchSignals sends signals to the process that the user sees: the tool must get them.
func TestLaunchSignals(t *testing.T) {
	runtimes := runtimesPresent(t)
	for _, c := range newConformers(t) {
		for _, runtime := range runtimes {
			t.Run(c.who.name+"/"+runtime, func(t *testing.T) {
				c.t = t
				c.handled(runtime)
				c.ignored(runtime)
				c.killed(runtime)
			})
		}
	}
}

// handled: the tool's own handler runs, for each signal, and decides on the exit status.
func (c conformer) handled(runtime string) {
	c.t.Helper()
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT} {
		s := c.background(shell("trap 'echo got; exit 7' "+name+"; echo $$; while :; do sleep 0.05; done"), runtime)
		if err := s.cmd.Process.Signal(sig); err != nil {
			c.t.Fatal(err)
		}
		line, _ := s.out.ReadString('\n')
		if err := s.cmd.Wait(); line != "got\n" || s.cmd.ProcessState.ExitCode() != 7 {
			c.t.Errorf("%s: the tool said %q and ended with %v", name, line, err)
		}
	}
}

// ignored: what the caller ignores, as by nohup, the tool ignores, too.
func (c conformer) ignored(runtime string) {
	c.t.Helper()
	cmd := c.start(shell("kill -HUP $$; kill -INT $$; echo \"$1\"; exit 4", "a b"), runtime)
	cmd.Args = append([]string{"sh", "-c", `trap '' HUP INT; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	if r := run(c.t, cmd); r.Stdout != "a b\n" || r.Status != 4 || r.Stderr != "" {
		c.t.Errorf("HUP and INT ignored: %+v", r)
	}
}

// killed: who kills what he sees kills the tool.
func (c conformer) killed(runtime string) {
	c.t.Helper()
	s := c.background(shell("echo $$; exec sleep 60"), runtime)
	if err := s.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	s.cmd.Wait()
	eventually(c.t, "the tool has ended", func() bool {
		p := readProcess(s.tool)
		return len(p.args) == 0 || p.zombie
	})
}

// TestLaunchHotAsksNothing counts what a start asks of the mount once the kernel knows all of it.
func TestLaunchHotAsksNothing(t *testing.T) {
	c := newConformers(t)[0]
	file := c.commandFile(conformanceImage, "cat")
	start := func() {
		t.Helper()
		cmd := exec.Command(file)
		cmd.Dir, cmd.Env = c.work, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.who.home, "NEURODESK_RUNTIME=bwrap"}
		if r := run(t, cmd); r.Status != 0 || r.Stderr != "" {
			t.Fatalf("exit status %d: %s", r.Status, r.Stderr)
		}
	}
	serverProgram(t, "bwrap")
	for range 3 {
		start()
	}
	const starts = 5 // each announces itself by one look-up, and asks for nothing else
	c.m.hot(starts, awaited, func() {
		for range starts {
			start()
		}
	})
}

// TestLaunchBrokenRuntime: a bwrap that cannot make the container is told from a tool that fails.
func TestLaunchBrokenRuntime(t *testing.T) {
	c := newConformers(t)[0]
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "bwrap"), []byte("#!/bin/sh\necho boo >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := c.observe(shell("echo hello").with("PATH="+dir), "bwrap")
	if got.status != 125 || got.stdout != "" || !strings.HasPrefix(got.stderr, "boo\nneurodeskfs: sh: bwrap could not make the container") {
		t.Errorf("%+v", got)
	}
	cmd := c.start(shell("echo hello"), "bwrap")
	cmd.Args, cmd.Path = []string{"sh", "-c", `ulimit -n 8; exec "$0" -c 'echo hello'`, cmd.Path}, "/bin/sh"
	if r := run(t, cmd); r.Status != 125 || !strings.Contains(r.Stderr, "`ulimit -a` shows yours") {
		t.Errorf("no descriptor left: %+v", r)
	}
}

// TestLaunchThenMount: who has used a mount of the site's can make one of his own, with its cache at the default place.
func TestLaunchThenMount(t *testing.T) {
	c := newConformers(t)[0]
	for _, runtime := range runtimesPresent(t) {
		if got := c.observe(shell("echo hello"), runtime); got.stdout != "hello\n" {
			t.Errorf("%s: %+v", runtime, got)
		}
	}
	mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}, Cache: filepath.Join(c.who.home, ".cache/neurodeskfs")})
}

// BenchmarkLaunch measures the launcher alone, from its own exec to that of a runtime that does nothing, and whole starts.
func BenchmarkLaunch(b *testing.B) {
	for _, runtime := range []string{"launcher alone", "bwrap", "apptainer"} {
		b.Run(runtime, func(b *testing.B) {
			src := newStratum(b).Golden("neurodesk.golden.test")
			src.Layout = "neurodesk"
			m := mount(b, setup{Sources: []source{src}})
			c := conformer{t: b, m: m, who: caller{home: shortDir(b)}, work: shortDir(b)}
			path := os.Getenv("PATH")
			name := runtime
			if runtime == "launcher alone" {
				path, name = shortDir(b), "apptainer"
				if err := os.Symlink("/bin/true", filepath.Join(path, name)); err != nil {
					b.Fatal(err)
				}
			}
			file := c.commandFile(conformanceImage, "cat")
			var best time.Duration
			for b.Loop() {
				cmd := exec.Command(file)
				cmd.Dir, cmd.Env = c.work, []string{"PATH=" + path, "HOME=" + c.who.home, "NEURODESK_RUNTIME=" + name}
				r := run(b, cmd)
				if r.Status != 0 {
					b.Fatalf("exit status %d: %s", r.Status, r.Stderr)
				}
				if best == 0 || r.Took < best {
					best = r.Took
				}
			}
			b.ReportMetric(float64(best.Microseconds())/1000, "ms-best")
		})
	}
}
