package main

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAwaitEnd: whether a process has ended is known without pidfd_open(2), which
// Linux before 5.3 does not have and some containers forbid; a zombie has ended.
func TestAwaitEnd(t *testing.T) {
	usual := pidfdOpen
	defer func() { pidfdOpen = usual }()
	for name, open := range map[string]func(int, int) (int, error){
		"as it is":   usual,
		"Linux 4.18": func(int, int) (int, error) { return -1, unix.ENOSYS },
		"forbidden":  func(int, int) (int, error) { return -1, unix.EPERM },
	} {
		pidfdOpen = open
		c := exec.Command("sleep", "100")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		pid := c.Process.Pid
		if awaitEnd(pid, 0) || awaitEnd(pid, 20*time.Millisecond) || awaitEnd(os.Getpid(), 0) {
			t.Errorf("%s: a process that runs has ended", name)
		}
		c.Process.Kill()
		if !awaitEnd(pid, time.Minute) {
			t.Errorf("%s: a zombie has not ended", name)
		}
		c.Wait()
		if !awaitEnd(pid, -1) || !awaitEnd(0, 0) {
			t.Errorf("%s: a process that is gone has not ended", name)
		}
	}
}
