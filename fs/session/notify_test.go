package session

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNotifierLeavesTheFirstThread: what a thread of its own has open no more is
// open for the process, and /proc/self, which is the first thread's, tells of it.
func TestNotifierLeavesTheFirstThread(t *testing.T) {
	f, err := memoryFile("kept", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := memoryFile("other", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	onFirstThread(t, func() {
		onOwnThread(func() {
			if err := keepOnly(int(f.Fd())); err != nil {
				t.Error(err)
			}
			if _, err := f.WriteAt([]byte("x"), 0); err != nil {
				t.Error(err)
			}
			if _, err := unix.FcntlInt(other.Fd(), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
				t.Errorf("another file is open there: %v", err)
			}
		})
	})
	if _, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", other.Fd())); err != nil {
		t.Error(err)
	}
	if s := readTask("self"); s.name == notifierName {
		t.Errorf("the process is called %s", s.name)
	}
}

// onFirstThread has do called by a goroutine that the runtime happens to run on the
// process's first thread, by taking all others.
func onFirstThread(t *testing.T, do func()) {
	t.Helper()
	found, over := make(chan bool), make(chan struct{})
	var taken sync.WaitGroup
	for range 1000 {
		taken.Go(func() {
			runtime.LockOSThread()
			first := unix.Gettid() == unix.Getpid()
			found <- first
			if !first {
				<-over
			}
			runtime.UnlockOSThread()
			if first {
				do()
			}
		})
		if <-found {
			close(over)
			taken.Wait()
			return
		}
	}
	close(over)
	taken.Wait()
	t.Fatal("the first thread does not come")
}
