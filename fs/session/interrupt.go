package session

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An INTERRUPT names the unique of a request whose caller got a signal. It is
// never answered: go-fuse's answer for a request that it does not know is
// EAGAIN, on which the kernel sends the INTERRUPT again at once, and so on in a
// busy loop for as long as the request is nowhere.
const interruptSize = inHeaderSize + 8

// lateTries and latePause: how often a request that is not found is looked for,
// and the first pause, which doubles. About a second in all. The pauses between the
// looks at a caller that got a signal and lives on double from dyingPause to
// longestDying: there may be thousands, while a server hangs.
const (
	lateTries    = 10
	latePause    = time.Millisecond
	dyingPause   = 20 * time.Millisecond
	longestDying = time.Second
)

// onInterrupt cancels the handler of the request that in names, if its caller
// is dying. Any signal makes the kernel send INTERRUPT, also those that a
// program handles and goes on: Go's runtime preempts with SIGURG, a shell gets
// SIGCHLD. A file system that answers EINTR to those makes execve(2) and
// open(2) fail where no disk's would. The kernel says so once for each request,
// so a caller that lives on is looked at again until it dies or is answered.
//
// The request may have been read by another reader and not yet be in its
// handler; then the interrupt must not be lost, as a caller that was killed
// waits for the reply whatever happens. It is looked for a while, and given up
// when the request has been answered meanwhile, which looks the same.
func (s *Session) onInterrupt(in []byte) {
	if len(in) < interruptSize {
		return
	}
	unique := binary.NativeEndian.Uint64(in[inHeaderSize:])
	s.wg.Go(func() { // the reader that calls holds wg, so it is not at zero
		pause, found := latePause, false
		for tries := 0; tries < lateTries; {
			switch pid, ok := s.caller(unique); {
			case ok && s.dying(pid) && s.interrupt(unique):
				return
			case ok && !found:
				pause, found = dyingPause, true
			case ok:
				pause = min(2*pause, longestDying)
			case found:
				return // answered
			default:
				pause *= 2
				tries++
			}
			select {
			case <-s.done:
				return // cancelHandlers does it
			case <-time.After(pause):
			}
		}
	})
}

// caller returns the thread that waits for a request in its handler.
func (s *Session) caller(unique uint64) (pid uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		if r.unique.Load() == unique {
			return r.pid.Load(), true
		}
	}
	return 0, false
}

// threadDying reports whether a thread has SIGKILL pending, which the kernel
// gives to each thread of a process that any signal ends (complete_signal,
// kernel/signal.c), or is gone. A thread of a foreign pid namespace, pid 0, is
// taken to live.
func threadDying(pid uint32) bool {
	if pid == 0 {
		return false
	}
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	for line := range strings.Lines(string(status)) {
		set, ok := strings.CutPrefix(line, "SigPnd:")
		if !ok {
			set, ok = strings.CutPrefix(line, "ShdPnd:")
		}
		if !ok {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err == nil && mask&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// interrupt closes the cancel channel of a request in its handler. False: no
// such request, or it was interrupted before.
func (s *Session) interrupt(unique uint64) bool {
	var in [interruptSize]byte
	binary.NativeEndian.PutUint32(in[0:], interruptSize)
	binary.NativeEndian.PutUint32(in[4:], opInterrupt)
	binary.NativeEndian.PutUint64(in[inHeaderSize:], unique)
	var out [outHeaderSize]byte
	// No reply means that it was found.
	size, ok := s.handle(in[:], out[:])
	return ok && size == 0
}
