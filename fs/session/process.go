package session

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a worker as its supervisor sees it. All of it belongs to the
// supervisor's one goroutine, but what the two goroutines of watch use.
type process struct {
	pid     int
	program *os.File // what it runs
	channel *channel
	cmd     *exec.Cmd // nil: somebody else's child

	ready   bool      // it waits for the device
	told    bool      // it was given the device
	serving bool      // it reads requests
	began   time.Time // of serving
	failure *Failure  // why it gives up
}

// event is what happens to a worker.
type event struct {
	from    *process
	message *message // nil: it has ended
	status  string   // how it ended
	crash   bool     // it ended itself, or the kernel ended it for what it did
}

// startProcess starts a worker by the command that make returns for a program,
// and gives it the socket as descriptor 3.
func startProcess(make func(program string) *exec.Cmd, program *os.File, m message, files []*os.File) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "worker")
	defer theirs.Close()
	ours, err := newChannel(pair[0])
	if err != nil {
		return nil, err
	}
	// The new process finds the program by a number that none of its own
	// descriptors is moved to before it executes it.
	const high = 100
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, high)
	if err != nil {
		ours.close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(fd)
	cmd := make(fmt.Sprintf("/proc/self/fd/%d", fd))
	cmd.ExtraFiles = []*os.File{theirs}
	if err := ours.send(m, files...); err != nil {
		ours.close()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		ours.close()
		return nil, err
	}
	return &process{pid: cmd.Process.Pid, program: program, channel: ours, cmd: cmd}, nil
}

// watch sends what the worker says and, as the last event, its end to events,
// and returns then. What it said before it ended comes before. One that is halted
// has ended.
func (p *process) watch(events chan<- event) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		for {
			m, files, err := p.channel.receive()
			if err != nil {
				return
			}
			closeAll(files)
			events <- event{from: p, message: &m}
		}
	}()
	oom := oomKills()
	ended := make(chan event, 1)
	gone := make(chan struct{})
	go func() {
		ended <- p.wait(oom)
		close(gone)
	}()
	var end event
	if asked, halted := halting(p.pid, gone); halted {
		end = event{from: p, status: "killed, while the kernel let it wait", crash: !asked || oomKills() != oom}
	} else {
		end = <-ended
	}
	<-said // its end of the socket is closed
	events <- end
}

// wait returns when all threads of the worker have ended.
func (p *process) wait(oomBefore uint64) event {
	end := event{from: p}
	if p.cmd == nil {
		status, ok := awaitPID(p.pid)
		end.status = "ended"
		if ok {
			end.status, end.crash = fmt.Sprintf("wait status %#x", int(status)), status != 0 && crashed(status, oomBefore)
		}
		return end
	}
	err := p.cmd.Wait()
	end.status = fmt.Sprint(p.cmd.ProcessState)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		end.crash = crashed(exit.Sys().(syscall.WaitStatus), oomBefore)
	}
	return end
}

// crashed tells an end that the worker brought about from one that somebody else
// wanted. SIGKILL is the latter, unless the kernel was short of memory.
func crashed(s syscall.WaitStatus, oomBefore uint64) bool {
	return !s.Signaled() || s.Signal() != syscall.SIGKILL && s.Signal() != syscall.SIGTERM || oomKills() != oomBefore
}

// oomKills counts the processes that the kernel ended for want of memory.
func oomKills() (n uint64) {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ = strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return n
}

// awaitPID waits until all threads of a process have ended that this program did
// not start, but maybe the one before it in the same process: then its status is
// known.
func awaitPID(pid int) (status syscall.WaitStatus, ok bool) {
	for {
		switch _, err := syscall.Wait4(pid, &status, 0, nil); err {
		case nil:
			return status, true
		case unix.EINTR:
			continue
		}
		break
	}
	fd, err := unix.PidfdOpen(pid, 0)
	for ; err != nil && unix.Kill(pid, 0) != unix.ESRCH; time.Sleep(time.Millisecond) {
		// Linux before 5.3 has no such descriptors.
	}
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return 0, false
		}
	}
}

// kill ends the worker at once. Its end comes as an event.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it has ended, at the worst
		return
	}
	_ = unix.Kill(p.pid, unix.SIGKILL)
}

// dismiss tells a worker that was not given the device that it is not needed.
func (p *process) dismiss() {
	// The socket is only shut, as its end must still be seen.
	_ = p.channel.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
}
