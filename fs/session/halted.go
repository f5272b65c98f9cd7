package session

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A worker that is killed while its notifier sends FUSE_NOTIFY_INVAL_ENTRY or
// FUSE_NOTIFY_INVAL_INODE may not be able to end: that thread waits in the kernel
// for a directory or a page which somebody holds whose request the worker has read
// and will never answer (fs/fuse/dir.c, fuse_reverse_inval_entry: the parent's
// i_rwsem; mm/truncate.c, invalidate_inode_pages2_range: the folio). wait4 and a
// pidfd do not return before that thread has ended, so that nobody would take over
// who answers. A worker of which nothing but that thread is left is halted: it runs
// no code any more, reads no request, has no file but the connection, and for its
// mount it has ended.

// haltedEvery is how often a worker is looked at.
const haltedEvery = 250 * time.Millisecond

// halting waits until a process is halted. quit ends the wait, with false. asked
// reports whether somebody sent it SIGKILL, which a crash is not.
func halting(pid int, quit <-chan struct{}) (asked, halted bool) {
	tick := time.NewTicker(haltedEvery)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return false, false
		case <-tick.C:
			if asked, halted = isHalted(pid); halted {
				return asked, true
			}
		}
	}
}

func isHalted(pid int) (asked, halted bool) {
	leader := readTask(strconv.Itoa(pid))
	if leader.state != "Z" && !leader.caught() {
		return false, false
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false, false
	}
	for _, t := range tasks {
		switch s := readTask(fmt.Sprintf("%d/task/%s", pid, t.Name())); {
		case s.caught():
			halted = true
		case s.state != "Z" && s.state != "X" && s.state != "":
			return false, false
		}
	}
	return leader.asked, halted
}

// taskState is what the kernel tells of a thread.
type taskState struct {
	name  string
	state string // R, S, D, Z, X; empty: there is none
	dying bool   // SIGKILL is pending for it, as for each thread of a group that ends (signal.c, zap_other_threads)
	asked bool   // SIGKILL was sent to the process
}

// caught reports whether it is a notifier that sleeps in the kernel and ends on its
// way out of it.
func (s taskState) caught() bool { return s.name == notifierName && s.state == "D" && s.dying }

// readTask reads the status file of a process or thread, given as a path below /proc.
func readTask(path string) (s taskState) {
	text, err := os.ReadFile("/proc/" + path + "/status")
	if err != nil {
		return taskState{}
	}
	const kill = 1 << (9 - 1)
	pending := func(value string) bool {
		set, err := strconv.ParseUint(value, 16, 64)
		return err == nil && set&kill != 0
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "Name":
			s.name = value
		case "State":
			s.state, _, _ = strings.Cut(value, " ")
		case "SigPnd":
			s.dying = pending(value)
		case "ShdPnd":
			s.asked = pending(value)
		}
	}
	return s
}
