package session

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests in this file take one condition away, and must see calls fail: so
// the tests that see none fail would see them.

// TestCounterAbsentBuffers: a process that is killed while the kernel fetches a
// page of its buffer makes the request fail.
func TestCounterAbsentBuffers(t *testing.T) {
	slow := newMemFS()
	pages := slow.hanging(slow.root(), "pages")
	pages.replace(pattern("pages", slotIn))
	other := serve(t, slow)
	m := supervise(t, "plain", nil)
	m.standby(t)
	m.setMode("absent=" + filepath.Join(other.dir, "pages"))
	m.kill(t)
	m.standby(t)
	m.setMode("plain")
	m.kill(t)
	got := m.client("once=d5/f5")
	receive(t, "the fault", pages.entered)
	_ = syscall.Kill(m.worker(t).Worker, syscall.SIGKILL)
	if err := receive(t, "the call", got); !errors.Is(err, unix.EIO) {
		t.Errorf("%v, want EIO", err)
	}
	close(pages.hang)
}

// TestCounterClonedDescriptor: requests that were read from a descriptor of the
// worker's own end with it.
func TestCounterClonedDescriptor(t *testing.T) {
	m := supervise(t, "clone", nil)
	got := m.direct("slow")
	eventually(t, "the READ is under way", func() bool {
		list, err := underWay(m.journal, maxReaders)
		return err == nil && len(list) > 0 && list[0].opcode == 15
	})
	m.kill(t)
	if err := receive(t, "the call", got); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("%v, want ECONNABORTED", err)
	}
}

// TestCounterNothingRunAgain: without RESEND and journal, who waited waits for
// ever.
func TestCounterNothingRunAgain(t *testing.T) {
	m := supervise(t, "plain", func(s *Supervisor) { s.forgetful = true })
	lost := m.direct("slow")
	held := func() bool {
		list, err := underWay(m.journal, maxReaders)
		return err == nil && len(list) > 0 && list[0].opcode == 15
	}
	eventually(t, "the READ is under way", held)
	m.kill(t)
	for range 20 { // the new worker answers all that comes, and has never seen that READ
		if err := m.uncached("d6/f6"); err != nil {
			t.Fatal(err)
		}
	}
	if held() {
		t.Error("the READ was sent again")
	}
	select {
	case err := <-lost:
		t.Errorf("the lost call returned: %v", err)
	default:
	}
	close(m.stop)
	m.end(t)
	if err := receive(t, "the lost call", lost); err == nil {
		t.Error("the lost call succeeded")
	}
}
