package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ways are the two in which what a worker was busy with is run again.
var ways = map[string]func(*Supervisor){
	"resend":  nil,
	"journal": func(s *Supervisor) { s.replay = true },
}

// clients read without a cache until stop is called, which returns how many
// calls they made. None may fail.
func (m *supervised) clients(t *testing.T, n int) (stop func() int) {
	t.Helper()
	var ends []func() int
	for range n {
		c := m.clientCommand("loop")
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, func() (calls int) {
			in.Close()
			if err := c.Wait(); err != nil {
				t.Errorf("a client: %v: %s", err, out.String())
			}
			fmt.Sscan(out.String(), &calls)
			return calls
		})
	}
	stop = sync.OnceValue(func() (sum int) {
		for _, end := range ends {
			sum += end()
		}
		return sum
	})
	t.Cleanup(func() { stop() })
	return stop
}

// TestKilledWorkers kills the worker again and again under four clients. No call
// fails, and none has a wrong byte.
func TestKilledWorkers(t *testing.T) {
	const kills = 25
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "plain", way)
			stop := m.clients(t, 2)
			for range kills {
				m.standby(t)
				m.kill(t)
			}
			calls := stop()
			p := m.worker(t)
			if p.Takeovers != kills || calls < kills {
				t.Errorf("%d calls, %+v", calls, p)
			}
			t.Logf("%d calls; longest pause %s", calls, p.LongestPause)
		})
	}
}

// TestWithoutStandby starts each worker when it is needed.
func TestWithoutStandby(t *testing.T) {
	m := supervise(t, "plain", func(s *Supervisor) { s.o.NoStandby = true })
	stop := m.clients(t, 2)
	for range 10 {
		m.kill(t)
		if p := m.worker(t); p.Standby != 0 {
			t.Errorf("%+v", p)
		}
	}
	stop()
}

// TestCountsOutliveWorkers: what was counted is counted on.
func TestCountsOutliveWorkers(t *testing.T) {
	m := supervise(t, "plain", nil)
	b, err := mapBoard(m.files[fileBoard])
	if err != nil {
		t.Fatal(err)
	}
	defer unmapBoard(b)
	for i := range 10 {
		before := b.counts.total()
		if err := m.uncached("d1/f1"); err != nil {
			t.Fatal(err)
		}
		if n := b.counts.total(); n < before+2 {
			t.Errorf("round %d: %d requests, then %d", i, before, n)
		}
		m.kill(t)
	}
}

// TestSlowRequestsOutliveWorkers: who waits for a download goes on waiting.
func TestSlowRequestsOutliveWorkers(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "plain", way)
			const readers = 12
			var got []<-chan error
			for range readers {
				got = append(got, m.direct("slow"))
			}
			held := func() bool {
				list, err := underWay(m.journal, maxReaders)
				return err == nil && len(list) >= readers
			}
			for range 3 {
				eventually(t, "all readers wait in a worker", held)
				m.kill(t)
			}
			eventually(t, "all readers wait in the last worker", held)
			if err := m.uncached("d2/f2"); err != nil {
				t.Error(err)
			}
			for _, c := range got {
				select {
				case err := <-c:
					t.Errorf("a reader did not wait: %v", err)
				default:
				}
			}
			close(m.stop) // they never get their bytes
			m.end(t)
			for _, c := range got {
				if receive(t, "a reader", c) == nil {
					t.Error("a reader got something")
				}
			}
		})
	}
}

// TestRequestThatKillsWorkers gets EIO after three; what else was under way does not.
func TestRequestThatKillsWorkers(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "plain", way)
			stop := m.clients(t, 2)
			if err := receive(t, "the deadly read", m.direct("deadly")); !errors.Is(err, unix.EIO) {
				t.Errorf("%v, want EIO", err)
			}
			stop()
			// A worker that meets the request as it begins ends before it has taken over.
			if p, ended := m.worker(t), strings.Count(m.log.String(), "a worker has ended"); p.Takeovers < 1 || ended < crashLimit || ended > 2*crashLimit {
				t.Errorf("%d workers have ended, %+v", ended, p)
			}
			if n := strings.Count(m.log.String(), "gets EIO"); n != 1 {
				t.Errorf("%d requests got EIO", n)
			}
		})
	}
}

// TestStuckWorker is ended by the watchdog, and another goes on.
func TestStuckWorker(t *testing.T) {
	m := supervise(t, "plain", func(s *Supervisor) { s.o.StuckAfter = 2 * time.Second })
	if err := syscall.Kill(m.worker(t).Worker, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := m.uncached("d3/f3"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(m.log.String(), "is stuck") {
		t.Error("the watchdog did not say so")
	}
}

// TestNoWorkerCanBeStarted: requests get EIO, not for ever.
func TestNoWorkerCanBeStarted(t *testing.T) {
	for _, mode := range []string{"fall", "flop"} {
		t.Run(mode, func(t *testing.T) {
			m := supervise(t, "plain", func(s *Supervisor) { s.hopeless = freeStrikes + 2 })
			m.standby(t)
			m.setMode(mode)
			m.kill(t) // the standby follows; those behind it come to nothing
			if err := syscall.Kill(m.worker(t).Worker, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "requests are refused", func() bool { return errors.Is(m.uncached("d4/f4"), unix.EIO) })
			m.setMode("plain")
			eventually(t, "a worker serves again", func() bool { return m.uncached("d4/f4") == nil })
		})
	}
}

// self is this test's program, open until mounts that are made later are gone.
func self(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestUpgrade(t *testing.T) {
	program := self(t)
	m := supervise(t, "plain", nil)
	stop := m.clients(t, 2)
	for range 5 {
		before := m.worker(t)
		eventually(t, "an upgrade", func() bool { return m.Upgrade(t.Context(), program) == nil })
		if p := m.worker(t); p.Worker == before.Worker || p.Takeovers != before.Takeovers+1 {
			t.Errorf("%+v, then %+v", before, p)
		}
	}
	m.setMode("refuse")
	before := m.worker(t)
	if err := m.Upgrade(t.Context(), program); !errors.Is(err, ErrIncompatible) {
		t.Errorf("%v, want %v", err, ErrIncompatible)
	}
	if p := m.worker(t); p.Worker != before.Worker {
		t.Errorf("%+v, then %+v", before, p)
	}
	m.setMode("plain")
	stop()
}

// TestUpgradeGivenUp ends the wait for a version that comes to nothing. The mount
// is served by the old one, and an upgrade is possible as before.
func TestUpgradeGivenUp(t *testing.T) {
	program := self(t)
	m := supervise(t, "plain", nil)
	stop := m.clients(t, 2)
	for mode, reached := range map[string]func(before, now Processes) bool{
		"mute": func(_, now Processes) bool { return now.Standby == 0 },
		"idle": func(before, now Processes) bool { return now.Worker != 0 && now.Worker != before.Worker },
	} {
		m.standby(t)
		before := m.worker(t)
		m.setMode(mode)
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		go func() { answer <- m.Upgrade(ctx, program) }()
		eventually(t, mode+" is waited for", func() bool { return reached(before, m.worker(t)) })
		m.setMode("plain")
		cancel()
		if err := <-answer; err == nil {
			t.Errorf("%s: it was upgraded", mode)
		}
		m.standby(t)
		now := m.worker(t)
		if mode == "mute" && now.Worker != before.Worker {
			t.Errorf("%s: %+v, then %+v", mode, before, now)
		}
		if err := m.Upgrade(t.Context(), program); err != nil || m.worker(t).Worker == now.Worker {
			t.Errorf("%s: the next upgrade: %v", mode, err)
		}
	}
	stop()
	m.unmount(t)
	if err := m.Upgrade(t.Context(), program); !errors.Is(err, errOver) {
		t.Errorf("after the end: %v", err)
	}
}

func TestFirstWorkerFails(t *testing.T) {
	dir := mountDir(t)
	m := &supervised{mode: "fall"}
	s, err := NewSupervisor(SupervisorOptions{Mount: MountOptions{Mountpoint: dir}, Command: m.command})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("it started")
	}
	if is, err := IsMounted(dir); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// TestSetVersionOfAMountThatIsGone: it may go away before its supervisor says that
// it is ready.
func TestSetVersionOfAMountThatIsGone(t *testing.T) {
	m := supervise(t, "plain", nil)
	m.SetVersion("one")
	m.unmount(t)
	m.SetVersion("two")
	if v := m.worker(t).Version; v != "two" {
		t.Errorf("the board has %q", v)
	}
}
