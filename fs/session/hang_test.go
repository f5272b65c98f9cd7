package session

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestHangingReadsStopNobody(t *testing.T) {
	const hung = 201
	fs := newMemFS()
	var nodes []*memNode
	for i := range hung {
		nodes = append(nodes, fs.hanging(fs.root(), fmt.Sprintf("h%d", i)))
	}
	fs.file(fs.root(), "free", "free\n")
	m := serve(t, fs)
	answers := []<-chan readResult{readAsync(filepath.Join(m.dir, "h0"))}
	receive(t, "the first READ", nodes[0].entered)
	if out := m.sh(t, "cat m/free; stat -c %s m/h1"); out != "free\n5" {
		t.Errorf("with one hanging: %q", out)
	}
	for i := 1; i < hung; i++ {
		answers = append(answers, readAsync(filepath.Join(m.dir, fmt.Sprintf("h%d", i))))
	}
	for _, n := range nodes[1:] {
		receive(t, "a READ", n.entered)
	}
	if out := m.sh(t, "ls m/h3; ls m | wc -l"); out != fmt.Sprintf("m/h3\n%d", hung+2) {
		t.Errorf("with %d hanging: %q", hung, out)
	}
	// A request may still be in flight for a moment after its caller has the answer.
	eventually(t, "only those that hang to be in flight", func() bool { return m.Stats().InFlight == hung })
	if st := m.Stats(); st.Slots <= hung || st.Locked > maxLocked {
		t.Errorf("%+v", st)
	}
	for _, n := range nodes {
		close(n.hang)
	}
	for _, a := range answers {
		if r := receive(t, "an answer", a); r.err != nil || r.data != "late\n" {
			t.Errorf("%q, %v", r.data, r.err)
		}
	}
	// Those that come back end; those that wait in surplus end by their time-out
	// or with the next request.
	eventually(t, "the readers to become few", func() bool {
		unix.Statfs(m.dir, new(unix.Statfs_t)) // always a request
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.readers) <= m.crew.wanted
	})
	if n := m.Stats().Slots; n <= 0 {
		t.Errorf("%d slots", n)
	}
	m.slots.trimFree() // what the timer does
	if st := m.Stats(); st.Slots > m.crew.wanted+1 {
		t.Errorf("after the trim: %+v", st)
	}
}

// The kernel sends INTERRUPT for requests that somebody waits for. A buffered
// read is not one of them: with ASYNC_READ its READs are read-ahead, and the
// caller waits for pages; a signal ends that wait and leaves the READ alone.
func TestSignalCancelsHandler(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			fs := newMemFS()
			hang := fs.hanging(fs.root(), "hang")
			hang.lookup = true
			m := serve(t, fs)
			cmd := exec.Command("cat", filepath.Join(m.dir, "hang"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() { exited <- cmd.Wait() }()
			receive(t, "the LOOKUP", hang.entered)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			receive(t, "cat to end", exited)
			if cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != sig {
				t.Errorf("cat: %v", cmd.ProcessState)
			}
			eventually(t, "the handler to be cancelled", func() bool { return hang.cancelled.Load() == 1 })
			if m.Stats().ByOpcode["INTERRUPT"] == 0 {
				t.Error("no INTERRUPT was counted")
			}
		})
	}
}

// An INTERRUPT whose handler does not listen must be neither answered with
// EAGAIN nor repeated.
func TestInterruptIsNotRepeated(t *testing.T) {
	fs := newMemFS()
	hang := fs.hanging(fs.root(), "hang")
	hang.deaf, hang.lookup = true, true
	m := serve(t, fs)
	cmd := exec.Command("cat", filepath.Join(m.dir, "hang"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	receive(t, "the LOOKUP", hang.entered)
	cmd.Process.Signal(unix.SIGINT)
	eventually(t, "the INTERRUPT", func() bool { return m.Stats().ByOpcode["INTERRUPT"] > 0 })
	m.sh(t, "for i in 1 2 3 4 5; do stat -f m >/dev/null; done")
	if n := m.Stats().ByOpcode["INTERRUPT"]; n != 1 {
		t.Errorf("INTERRUPT was sent %d times", n)
	}
	close(hang.hang)
	if err := cmd.Wait(); err == nil {
		t.Error("cat was not interrupted")
	}
}

// An INTERRUPT may be read before its request has reached the handler.
func TestEarlyInterruptIsNotLost(t *testing.T) {
	fs := newMemFS()
	hang := fs.hanging(fs.root(), "hang")
	m := serve(t, fs)
	in := make([]byte, interruptSize)
	put(in, interruptSize, opInterrupt, 0)
	in[inHeaderSize+5] = 1 // unique 1<<40
	m.onInterrupt(in)
	late := &reader{} // as a reader that has just taken the request
	late.pid.Store(1 << 30)
	late.unique.Store(1 << 40)
	m.mu.Lock()
	m.readers[late] = struct{}{}
	m.mu.Unlock()
	read := make([]byte, inHeaderSize+40)
	put(read, uint32(len(read)), 15, hang.id)
	read[8+5] = 1
	read[inHeaderSize+17] = 16 // size 4096
	done := make(chan bool, 1)
	go func() {
		_, ok := m.handle(read, make([]byte, slotOut))
		done <- ok
	}()
	if !receive(t, "the handler", done) || hang.cancelled.Load() != 1 {
		t.Error("the handler was not cancelled")
	}
	m.mu.Lock()
	delete(m.readers, late)
	m.mu.Unlock()
}

// Those that live on are looked at seldom, and when they die still soon.
func TestLivingCallersAreLookedAtSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil, fuse.NewDefaultRawFileSystem(), Options{})
		defer s.slots.close()
		r := &reader{}
		r.unique.Store(1 << 40)
		s.readers[r] = struct{}{}
		var looks atomic.Int32
		var died atomic.Bool
		s.dying = func(uint32) bool {
			looks.Add(1)
			return died.Load()
		}
		in := make([]byte, interruptSize)
		put(in, interruptSize, opInterrupt, 0)
		in[inHeaderSize+5] = 1 // unique 1<<40
		s.onInterrupt(in)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := looks.Swap(0); n < 60 || n > 70 {
			t.Errorf("it was looked at %d times in a minute", n)
		}
		died.Store(true)
		time.Sleep(longestDying)
		synctest.Wait()
		if looks.Load() == 0 {
			t.Errorf("it was not looked at within %s", longestDying)
		}
		r.unique.Store(0) // answered
		s.wg.Wait()
	})
}

// A signal that the caller handles is none of the file system's business: the
// call goes on, as on any disk.
func TestHandledSignalDoesNotInterrupt(t *testing.T) {
	fs := newMemFS()
	hang := fs.hanging(fs.root(), "hang")
	hang.lookup = true
	m := serve(t, fs)
	cmd := exec.Command("sh", "-c", "trap : USR1; [ -e m/hang ] && echo found")
	cmd.Dir = filepath.Dir(m.dir)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	receive(t, "the LOOKUP", hang.entered)
	cmd.Process.Signal(unix.SIGUSR1)
	eventually(t, "the INTERRUPT", func() bool { return m.Stats().ByOpcode["INTERRUPT"] > 0 })
	close(hang.hang)
	if err := cmd.Wait(); err != nil || out.String() != "found\n" || hang.cancelled.Load() != 0 {
		t.Errorf("%q, %v, cancelled %d times", out.String(), err, hang.cancelled.Load())
	}
}

func put(b []byte, size, opcode uint32, node uint64) {
	for i := range 4 {
		b[i], b[4+i] = byte(size>>(8*i)), byte(opcode>>(8*i))
	}
	for i := range 8 {
		b[16+i] = byte(node >> (8 * i))
	}
}

func TestUnmountWhileHandlersHang(t *testing.T) {
	fs := newMemFS()
	hang := fs.hanging(fs.root(), "hang")
	m := serve(t, fs)
	var answers []<-chan readResult
	for range 3 {
		fd, err := unix.Open(filepath.Join(m.dir, "hang"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := make(chan readResult, 1)
		answers = append(answers, c)
		go func() {
			defer unix.Close(fd)
			buf := make([]byte, 100)
			n, err := unix.Read(fd, buf)
			c <- readResult{string(buf[:max(n, 0)]), err}
		}()
	}
	receive(t, "a READ", hang.entered)
	lazy, err := Unmount(context.Background(), m.dir)
	if err != nil || !lazy {
		t.Fatalf("lazy %t, %v", lazy, err)
	}
	if is, _ := IsMounted(m.dir); is {
		t.Error("still mounted")
	}
	close(hang.hang)
	for _, a := range answers {
		if r := receive(t, "an answer", a); r.err != nil || r.data != "late\n" {
			t.Errorf("%q, %v", r.data, r.err)
		}
	}
	m.wait(t)
}

// A connection that is aborted ends the handlers too.
func TestAbortCancelsHandlers(t *testing.T) {
	fs := newMemFS()
	hang := fs.hanging(fs.root(), "hang")
	m := serve(t, fs)
	mounts, err := FindMounts()
	if err != nil {
		t.Fatal(err)
	}
	answer := readAsync(filepath.Join(m.dir, "hang"))
	receive(t, "the READ", hang.entered)
	abort := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", top(mounts, m.dir).Connection)
	aborted := os.WriteFile(abort, []byte("1"), 0) == nil
	if !aborted && mayMount() {
		// That file system need not be mounted. A forced unmount aborts the
		// connection as well, and then fails while the file is open.
		err := unix.Unmount(m.dir, unix.MNT_FORCE)
		if err != nil && err != unix.EBUSY {
			t.Fatal(err)
		}
		aborted = true
	}
	if !aborted {
		close(hang.hang) // an ordinary user cannot abort
		receive(t, "the answer", answer)
		return
	}
	r := receive(t, "the answer", answer)
	if r.err == nil {
		t.Errorf("%q", r.data)
	}
	m.wait(t)
	if hang.cancelled.Load() != 1 {
		t.Error("the handler was not cancelled")
	}
}
