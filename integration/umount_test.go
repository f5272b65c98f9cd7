package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// user is a process that uses a mount until the test lets it go.
type user struct {
	c     *exec.Cmd
	leave func()
}

// startUser starts a shell script that uses the mount, says so by a line, and
// then reads from stdin.
func startUser(t *testing.T, dir, script string) *user {
	t.Helper()
	c := exec.Command("sh", "-c", script+"; echo here; read line")
	c.Dir = dir
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	u := &user{c: c}
	left := false
	u.leave = func() {
		if !left {
			left = true
			in.Close()
			c.Wait()
		}
	}
	t.Cleanup(u.leave)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "here\n" {
		t.Fatalf("%q: %q, %v", script, line, err)
	}
	return u
}

func TestUmountNamesWhoHoldsTheTree(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	file := m.Raw("alpha.golden.test", "README.txt")
	inside := startUser(t, m.Path("cvmfs"), ":")
	reading := startUser(t, "/", "exec 3<"+file)
	outside := startUser(t, "/", ":")
	daemon := m.Status().PID

	waiting := exec.Command(program(t), "umount", "--wait", m.Dir)
	stderr, err := waiting.StderrPipe()
	if err == nil {
		err = waiting.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	var seen []string
	for len(seen) < 3 && lines.Scan() {
		seen = append(seen, lines.Text())
	}
	text := strings.Join(seen, "\n")
	if !strings.Contains(seen[0], m.Dir+" is in use") {
		t.Errorf("%q", seen[0])
	}
	for u, want := range map[*user]string{inside: "working directory", reading: "open file"} {
		i := slices.IndexFunc(seen, func(s string) bool { return strings.HasPrefix(strings.TrimSpace(s), fmt.Sprint(u.c.Process.Pid)+" ") })
		if i < 0 || !strings.Contains(seen[i], want) || !strings.Contains(seen[i], "sh") {
			t.Errorf("no %q of process %d in:\n%s", want, u.c.Process.Pid, text)
		}
	}
	if strings.Contains(text, fmt.Sprint(" ", outside.c.Process.Pid, " ")) {
		t.Errorf("a process that does not use the mount is named:\n%s", text)
	}
	if !exists(fmt.Sprintf("/proc/%d", daemon)) {
		t.Error("the daemon has ended while the tree is in use")
	}
	inside.leave()
	reading.leave()
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "  (") { // what may not be looked at
			t.Errorf("one line too many: %s", lines.Text())
		}
	}
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	if p := readProcess(daemon); len(p.args) > 0 && !p.zombie {
		t.Error("umount --wait has not waited for the daemon")
	}
	wantRun(t, 3, "umount", m.Dir)
}

// TestUmountOfAHangingMount stops the daemon: nothing that umount does may wait
// for it.
func TestUmountOfAHangingMount(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	hold := startUser(t, m.Path("cvmfs"), ":")
	daemon := m.Status().Worker.PID
	if err := syscall.Kill(daemon, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(daemon, syscall.SIGCONT)
	r := wantRun(t, 0, "umount", m.Dir)
	if !strings.Contains(r.Stderr, fmt.Sprint(" ", hold.c.Process.Pid, " ")) {
		t.Errorf("the holder is not named: %s", r.Stderr)
	}
	syscall.Kill(daemon, syscall.SIGCONT)
	hold.leave()
}

func TestUmountNamesMappedFilesAndOtherNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a namespace")
	}
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	f, err := os.Open(m.Raw("alpha.golden.test", "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := syscall.Mmap(int(f.Fd()), 0, 16, syscall.PROT_READ, syscall.MAP_PRIVATE)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(mapped)
	c := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo here; read line")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); c.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "here\n" {
		t.Fatal(line, err)
	}
	r := wantRun(t, 0, "umount", m.Dir)
	for pid, want := range map[int]string{c.Process.Pid: " mount ", os.Getpid(): "mapped file"} {
		found := false
		for line := range strings.Lines(r.Stderr) {
			found = found || strings.HasPrefix(strings.TrimSpace(line), fmt.Sprint(pid, " ")) && strings.Contains(line, want)
		}
		if !found {
			t.Errorf("no %q of process %d in: %s", want, pid, r.Stderr)
		}
	}
}
