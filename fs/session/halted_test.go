package session

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestKilledInANotification: a worker that is killed while a thread of it waits in
// the kernel for what only an answer sets free cannot end. The next one answers, and finds
// no file of that worker locked.
func TestKilledInANotification(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := supervise(t, "caught", func(s *Supervisor) {
				s.o.NoStandby = true
				if way != nil {
					way(s)
				}
			})
			t.Cleanup(func() { os.Remove(m.dir + ".attach.lock") })
			m.setMode("heir")
			worker := m.worker(t).Worker
			answer := m.client("read=pending")
			eventually(t, "a thread waits in the kernel", func() bool { return asleep(worker) == 1 })
			if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, "the answer", answer); err != nil {
				t.Error(err)
			}
			eventually(t, "the worker has ended", func() bool { return syscall.Kill(worker, 0) == syscall.ESRCH })
			if err := m.uncached("d1/f1"); err != nil {
				t.Error(err)
			}
			if p := m.worker(t); p.Takeovers != 1 || strings.Count(m.log.String(), "a worker has ended") != 1 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// asleep counts a process's threads in uninterruptible sleep.
func asleep(pid int) (n int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		if readTask(fmt.Sprintf("%d/task/%s", pid, task.Name())).state == "D" {
			n++
		}
	}
	return n
}

// TestLivingProcessIsNotHalted, nor is one that has ended.
func TestLivingProcessIsNotHalted(t *testing.T) {
	for _, pid := range []int{os.Getpid(), 1, 1 << 30} {
		if _, halted := isHalted(pid); halted {
			t.Error(pid)
		}
	}
}
