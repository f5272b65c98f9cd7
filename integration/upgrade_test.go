package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nextVersion makes a program at path that differs from the one under test in
// its version only, and returns that: another of the same length in its place.
func nextVersion(t *testing.T, path string) string {
	t.Helper()
	_, old, ok := strings.Cut(strings.TrimSpace(wantRun(t, 0, "version").Stdout), " ")
	if !ok || len(old) < 4 {
		t.Fatalf("a version of %q cannot be told from other text", old)
	}
	b, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Repeat("9", len(old))
	if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(old), []byte(next)), 0o755); err != nil {
		t.Fatal(err)
	}
	return next
}

// readAgain starts a process that reads a file of the mount past the kernel's
// cache, again and again, until stop is called. No read may fail or be wrong.
// reads counts those that are done.
func readAgain(t *testing.T, file string, content []byte) (reads func() int, stop func()) {
	t.Helper()
	dir := t.TempDir()
	want, end, count := filepath.Join(dir, "want"), filepath.Join(dir, "end"), filepath.Join(dir, "count")
	if err := os.WriteFile(want, content, 0o600); err != nil {
		t.Fatal(err)
	}
	const loop = `while [ ! -e "$2" ]; do dd if="$0" bs=64k iflag=direct status=none | cmp - "$1"; printf x >>"$3"; done`
	c := exec.Command("sh", "-ec", loop, file, want, end, count)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	reads = func() int {
		b, _ := os.ReadFile(count) // before the first read it is not there
		return len(b)
	}
	return reads, func() {
		if err := os.WriteFile(end, nil, 0o600); err != nil {
			t.Error(err)
			c.Process.Kill()
		}
		if err := c.Wait(); err != nil || said.Len() > 0 {
			t.Errorf("the reader: %v: %s", err, said.String())
		}
	}
}

// goesOn waits until a reader has done more than one read from the beginning.
func goesOn(t *testing.T, reads func() int) {
	t.Helper()
	n := reads()
	eventually(t, "the reader goes on", func() bool { return reads() > n+1 })
}

// TestMountUpgrade has a newer version serve a mount in use: no read fails, the
// new one stays although its program is gone from the disk. mount by the next
// version upgrades, and upgrade goes back.
func TestMountUpgrade(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
	file := m.Raw(alpha, "README.txt")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.OpenFile(file, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	reads, stop := readAgain(t, file, content)
	defer stop()
	more := func() {
		t.Helper()
		goesOn(t, reads)
		got := make([]byte, len(content)+1)
		if n, _ := open.ReadAt(got, 0); !bytes.Equal(got[:n], content) {
			t.Errorf("the open file has %d other bytes", n)
		}
	}
	more()
	path := filepath.Join(t.TempDir(), "neurodeskfs")
	next := nextVersion(t, path)
	before := m.Status()

	other := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(other, []byte(readText(m.Config)+"\n[launch]\nnever = [\"this\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := run(t, exec.Command(path, "mount", "--config", other, m.Dir))
	if r.Status != 5 || !strings.Contains(r.Stderr, "configuration") || !strings.Contains(r.Stderr, "neurodeskfs upgrade "+m.Dir+" ") {
		t.Errorf("mount of another version with another configuration: exit status %d, %s", r.Status, r.Stderr)
	}
	r = run(t, exec.Command(path, "mount", "--config", m.Config, m.Dir)) // as upgrade does
	if r.Status != 0 || r.Stderr != "" || !strings.Contains(r.Stdout, next) {
		t.Fatalf("mount of another version: %+v", r)
	}
	after := m.Status()
	if after.Version != next || after.Supervisor != next || after.PID != before.PID || after.Worker.PID == before.Worker.PID || after.Worker.Restarts != before.Worker.Restarts+1 || after.IOErrors != 0 {
		t.Errorf("%+v, then %+v", before, after)
	}
	more()

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(after.Worker.PID, syscall.SIGKILL)
	eventually(t, "another worker serves", func() bool { return m.Status().Worker.PID != after.Worker.PID })
	if last := m.Status(); last.Version != next || last.IOErrors != 0 {
		t.Errorf("the worker after the new one: %+v", last)
	}
	more()

	wantRun(t, 0, "upgrade", m.Dir) // and back
	if last := m.Status(); last.Version != before.Version || last.Supervisor != before.Version || last.PID != before.PID {
		t.Errorf("%+v, want what was there at first: %+v", last, before)
	}
	more()
	wantRun(t, 3, "upgrade", t.TempDir())
}

// TestMountUpgradedByMany: of many who ask for the next version at the same time, as
// the tasks of a job array may, none is told of a failure; nor where the supervisor
// has to be followed first.
func TestMountUpgradedByMany(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
	path := filepath.Join(t.TempDir(), "neurodeskfs")
	next := nextVersion(t, path)
	many := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				r, err := runCommand(exec.Command(path, "upgrade", m.Dir))
				if err != nil || r.Status != 0 || !strings.Contains(r.Stdout, "version "+next) {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		all.Wait()
	}
	many()
	m.killSupervisor()
	many()
	if s := m.Status(); s.Version != next || s.Supervisor != next || s.IOErrors != 0 {
		t.Errorf("%+v", s)
	}
}

// killSupervisor leaves the worker alone. It waits for the standby, as a process
// that is only just being started cannot be told from others.
func (m *mounted) killSupervisor() {
	m.t.Helper()
	eventually(m.t, "a standby is there", func() bool { return m.Status().Worker.Standby != 0 })
	s := m.Status()
	if s.PID == s.Worker.PID || syscall.Kill(s.PID, syscall.SIGKILL) != nil {
		m.t.Fatalf("no supervisor to kill: %+v", s)
	}
	eventually(m.t, "only the worker is left", func() bool { return slices.Equal(daemonsOf(m.Dir), []int{s.Worker.PID}) })
}

// TestMountSurvivesItsSupervisor kills the supervisor under a reader, again and
// again: the worker serves on, mount and upgrade start another supervisor, which
// holds the mount when the worker is killed, and no read fails.
func TestMountSurvivesItsSupervisor(t *testing.T) {
	for name, args := range map[string][]string{"resend": nil, "journal": {"--no-resend"}} {
		t.Run(name, func(t *testing.T) {
			m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}, Args: args})
			file := m.Raw(alpha, "README.txt")
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			reads, stop := readAgain(t, file, content)
			defer stop()
			for _, again := range [][]string{{"mount", "--config", m.Config, m.Dir}, {"upgrade", m.Dir}} {
				before := m.Status()
				m.killSupervisor()
				goesOn(t, reads)
				if s := m.Status(); s.Worker.PID != before.Worker.PID {
					t.Errorf("%+v, then %+v", before, s)
				}
				wantRun(t, 0, "status", m.Dir)
				wantRun(t, 0, again...)
				eventually(t, "the new supervisor has a standby", func() bool { return m.Status().Worker.Standby != 0 })
				after := m.Status()
				if after.PID == before.PID || after.Supervisor != before.Supervisor {
					t.Errorf("%q: %+v, then %+v", again, before, after)
				}
				goesOn(t, reads)
				if err := syscall.Kill(after.Worker.PID, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
				goesOn(t, reads)
				eventually(t, "another worker serves", func() bool { return m.Status().Worker.PID != after.Worker.PID })
			}
			m.killSupervisor()
			goesOn(t, reads)
			if s := m.Status(); s.IOErrors != 0 {
				t.Errorf("%d I/O errors", s.IOErrors)
			}
		})
	}
}

// TestMountWithoutItsSupervisor: umount of a mount whose supervisor is gone leaves
// nothing, and mount with another configuration says what to do.
func TestMountWithoutItsSupervisor(t *testing.T) {
	s, _ := setup{Sources: []source{newStratum(t).Golden(alpha)}}.prepare(t)
	m := mount(t, s)
	m.killSupervisor()
	m.readme()
	_, other := setup{Sources: []source{newStratum(t).Golden(alpha)}, Dir: m.Dir, Cache: m.Cache}.prepare(t)
	r := wantRun(t, 5, "mount", "--config", other, m.Dir)
	if !strings.Contains(r.Stderr, "supervisor") || !strings.Contains(r.Stderr, "neurodeskfs upgrade "+m.Dir+" ") {
		t.Errorf("%s", r.Stderr)
	}
	m.Unmount()
	if left := daemonsOf(m.Dir); len(left) > 0 {
		t.Errorf("umount returned before %v ended", left)
	}
	again := mount(t, s)
	again.readme()
	wantRun(t, 0, "upgrade", m.Dir)
}
