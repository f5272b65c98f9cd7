package job

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// descendants lists the processes below pid, but not those of the subtree
// without. A process that begins or ends meanwhile may be missing, with what is
// below it: who wants them all asks again until there is none.
//
// The kernel's lists of children are read, not /proc/*/stat: only what is ours is
// looked at, and a foreign process that hangs in execve(2) holds up whoever
// reads its stat.
func descendants(pid, without int) (list []int) {
	children := childrenOf
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		children = childrenByStat() // a kernel without CONFIG_PROC_CHILDREN
	}
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, child := range children(next[0]) {
			if child != without {
				list, next = append(list, child), append(next, child)
			}
		}
	}
	return list
}

// childrenOf reads the children of each thread of pid.
func childrenOf(pid int) (list []int) {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(word); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}

// childrenByStat looks at all processes and returns what childrenOf does.
func childrenByStat() func(int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			parent := parentOf(child)
			children[parent] = append(children[parent], child)
		}
	}
	return func(pid int) []int { return children[pid] }
}

// parentOf reads a process's parent; -1 when the process is gone. See proc(5):
// the name, in brackets, may hold anything.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return -1
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 2 {
		return -1
	}
	parent, err := strconv.Atoi(string(f[1]))
	if err != nil {
		return -1
	}
	return parent
}

// signalAll sends sig to each and reports whether there was one.
func signalAll(pids []int, sig unix.Signal) bool {
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // gone already, or not ours: a setuid program ends with its parent's pipe
	}
	return len(pids) > 0
}

// killAll kills and reaps until no descendant is left. Orphans come to us, so
// each round leaves fewer, and the last is followed by ECHILD.
func killAll() {
	for {
		signalAll(descendants(os.Getpid(), 0), unix.SIGKILL)
		var status unix.WaitStatus
		if _, err := unix.Wait4(-1, &status, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
