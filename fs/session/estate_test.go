package session

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// abandon makes the supervisor go without a word, as if it were killed, and
// returns what somebody else has kept of it.
func (m *supervised) abandon(t *testing.T) (kept map[string]*os.File) {
	t.Helper()
	m.Leave()
	if err := receive(t, "the supervisor's end", m.ran); err != nil || !m.Left() {
		t.Fatalf("Run: %v; left %t", err, m.Left())
	}
	kept = map[string]*os.File{}
	for name, f := range m.Kept() {
		kept[name] = reopened(t, f)
	}
	m.active.channel.close()
	m.device.Close()
	m.closeFiles()
	go func(events <-chan event) {
		for e := range events {
			if e.message == nil {
				return // the worker has ended, whoever it was that saw to it
			}
		}
	}(m.events)
	return kept
}

// succeed has another supervisor go on with an estate.
func (m *supervised) succeed(t *testing.T, e *Estate, change func(*Supervisor)) {
	t.Helper()
	var err error
	m.Supervisor, err = GoOn(SupervisorOptions{Command: m.command, Logger: slog.New(slog.NewTextHandler(m.log, nil))}, e)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m.Supervisor)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() { m.ran <- m.Run(m.stop) }()
}

// adopt takes over the worker that has lost its supervisor.
func (m *supervised) adopt(t *testing.T) *Estate {
	t.Helper()
	e, err := m.tryToAdopt(t)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (m *supervised) tryToAdopt(t *testing.T) (e *Estate, err error) {
	t.Helper()
	eventually(t, "the worker takes another supervisor", func() bool {
		fd, socketErr := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if socketErr != nil {
			t.Fatal(socketErr)
		}
		if unix.Connect(fd, &unix.SockaddrUnix{Name: m.dir + ".attach"}) != nil {
			unix.Close(fd)
			return false
		}
		e, err = Adopt(fd)
		return true
	})
	return e, err
}

// TestAdopt: the worker serves on without its supervisor; another one takes it
// over, and then it may be killed as before.
func TestAdopt(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "plain", way)
			stop := m.clients(t, 2)
			for range 3 {
				m.standby(t)
				before := m.worker(t)
				closeAll(list(m.abandon(t)))
				if err := m.uncached("d1/f1"); err != nil {
					t.Fatal(err)
				}
				m.succeed(t, m.adopt(t), nil)
				if m.replay != (name == "journal") {
					t.Errorf("replay is %t", m.replay)
				}
				m.standby(t)
				if p := m.worker(t); p.Worker != before.Worker || p.Takeovers != before.Takeovers {
					t.Errorf("%+v, then %+v", before, p)
				}
				m.kill(t)
			}
			if calls := stop(); calls < 10 {
				t.Errorf("%d calls only", calls)
			}
		})
	}
}

// TestAdoptFollowsTheDead: a worker is alone for a moment while its supervisor becomes
// another version of itself; nobody else may have it then.
func TestAdoptFollowsTheDead(t *testing.T) {
	m := supervise(t, "plain", nil)
	closeAll(list(m.abandon(t)))
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	m.board.process.supervisor.Store(int64(other.Process.Pid))
	_, err := m.tryToAdopt(t)
	other.Process.Kill()
	other.Wait()
	if !errors.Is(err, ErrSupervised) {
		t.Errorf("beside a supervisor that lives: %v", err)
	}
	m.succeed(t, m.adopt(t), nil)
	m.standby(t)
	m.kill(t)
}

func list(files map[string]*os.File) (all []*os.File) {
	for _, f := range files {
		all = append(all, f)
	}
	return all
}

// TestInherit: supervisor and worker are killed, and only the files are kept. Who
// calls meanwhile waits, and gets what was asked for.
func TestInherit(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "plain", way)
			stop := m.clients(t, 2)
			for range 3 {
				m.standby(t)
				before := m.worker(t)
				kept := m.abandon(t)
				if err := syscall.Kill(before.Worker, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				call := m.client("once=d1/f1")
				e, err := Inherit(kept)
				if err != nil {
					t.Fatal(err)
				}
				if e.LastWorker() != before.Worker {
					t.Errorf("the last worker is %d, not %d", e.LastWorker(), before.Worker)
				}
				awaitPID(before.Worker)
				m.succeed(t, e, nil)
				if err := receive(t, "the call", call); err != nil {
					t.Error(err)
				}
				eventually(t, "a worker has taken over", func() bool { return m.worker(t).Takeovers == before.Takeovers+1 })
			}
			stop()
		})
	}
}

// TestInheritNothing: without the mount there is no estate.
func TestInheritNothing(t *testing.T) {
	f, err := memoryFile("x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Inherit(map[string]*os.File{fileTerms: f}); !errors.Is(err, ErrNoEstate) {
		t.Errorf("%v, want %v", err, ErrNoEstate)
	}
	all := map[string]*os.File{KeptDevice: f, fileTerms: f, fileJournal: f, fileBoard: f}
	if _, err := Inherit(all); !errors.Is(err, ErrIncompatible) {
		t.Errorf("empty files: %v, want %v", err, ErrIncompatible)
	}
}

// TestLeaveAndStay: a supervisor that could not make room goes on itself.
func TestLeaveAndStay(t *testing.T) {
	m := supervise(t, "plain", nil)
	stop := m.clients(t, 2)
	for range 3 {
		m.standby(t)
		m.Leave()
		if err := receive(t, "Run's end", m.ran); err != nil || !m.Left() {
			t.Fatalf("%v; left %t", err, m.Left())
		}
		go func() { m.ran <- m.Run(m.stop) }()
		m.standby(t)
		m.kill(t)
	}
	stop()
	m.unmount(t)
	m.Leave() // has ended: no wait
}

// TestLeaveWithoutWhoIsDeaf: a standby that does not heed its dismissal holds up no
// supervisor that makes room.
func TestLeaveWithoutWhoIsDeaf(t *testing.T) {
	program := self(t)
	m := supervise(t, "plain", nil)
	m.standby(t)
	m.setMode("deaf")
	m.kill(t)
	m.standby(t)
	m.setMode("plain")
	if err := m.Upgrade(t.Context(), program); err != nil {
		t.Fatal(err)
	}
	m.Leave()
	if err := receive(t, "Run's end", m.ran); err != nil || !m.Left() {
		t.Fatalf("%v; left %t", err, m.Left())
	}
	go func() { m.ran <- m.Run(m.stop) }()
}

// TestVersionOnBoard: what is too long is cut, what was longer is gone.
func TestVersionOnBoard(t *testing.T) {
	var text boardText
	long := "0123456789012345678901234567890123456789012345678901234567890123456789"
	for _, s := range []string{"", "v1.2-3-gabcdef", long, "v2"} {
		text.store(s)
		if got := text.load(); got != s[:min(len(s), 64)] {
			t.Errorf("%q became %q", s, got)
		}
	}
}
