package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// feed is what one descriptor gives to bwrap.
type feed struct {
	number int
	text   []byte
}

// ErrContainer is returned when bwrap ended before the tool began; its own message is on stderr.
var ErrContainer = errors.New("bwrap could not make the container")

// Linux numbers that package syscall lacks.
const (
	prSetSubreaper    = 36 // PR_SET_CHILD_SUBREAPER
	prSetDumpable     = 4  // PR_SET_DUMPABLE
	fionread          = 0x541b
	tiocgpgrp         = 0x540f
	signalStatusShift = 128
)

// sandbox is bwrap under way. bwrap stays as the parent of the tool and turns a death by signal into an exit status, and
// signals sent to it do not reach the tool. So once its child makes the root by itself, bwrap ends and the child
// becomes ours (subreaper): we see how it ends, hand signals on, and it dies if we are killed.
type sandbox struct {
	wires   map[int]wire
	options []byte // bwrap's, each ended by a NUL
	outer   int    // process ids
	tool    int
}

// startSandbox starts bwrap with these standard files. It loads, and waits for its options: until setUp gives them it does
// nothing, and should we end before, it fails.
func startSandbox(e *Exec, files []uintptr) (*sandbox, error) {
	s := &sandbox{wires: map[int]wire{}}
	numbers := []int{feedGate, feedInfo, feedBlock, feedOptions}
	for _, f := range e.feeds {
		numbers = append(numbers, f.number)
	}
	for _, n := range numbers {
		w, err := newWire(n == feedInfo, n == feedGate || n == feedBlock)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make a pipe for bwrap: %w", err)
		}
		s.wires[n] = w
	}
	if err := s.number(e); err != nil {
		s.close()
		return nil, err
	}
	if err := prctl(prSetSubreaper, 1); err != nil {
		s.close()
		return nil, fmt.Errorf("become the reaper: %w", err)
	}
	argv := slices.Concat(e.Argv[:e.options[0]], []string{"--args", strconv.Itoa(s.wires[feedOptions].theirs)}, e.Argv[e.options[1]:])
	// os.StartProcess would first try out what the kernel can, with a process of its own.
	outer, err := syscall.ForkExec(e.Path, argv, &syscall.ProcAttr{Env: e.Env, Files: files})
	for n, w := range s.wires {
		syscall.Close(w.theirs)
		w.theirs = -1
		s.wires[n] = w
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.outer = outer
	return s, nil
}

// number writes bwrap's options down, with the descriptors that they mean.
func (s *sandbox) number(e *Exec) error {
	argv := slices.Clone(e.Argv)
	for _, at := range e.feedArgs {
		n, err := strconv.Atoi(argv[at])
		if err != nil {
			return fmt.Errorf("plan for bwrap: %w", err)
		}
		argv[at] = strconv.Itoa(s.wires[n].theirs)
	}
	for _, w := range argv[e.options[0]:e.options[1]] {
		s.options = append(append(s.options, w...), 0)
	}
	return nil
}

// setUp has bwrap make the container, up to the moment before it starts the tool. After an error nothing is left of it.
func (s *sandbox) setUp(feeds []feed) error {
	err := ErrContainer
	if s.give(feedOptions, s.options) == nil {
		s.shut(feedOptions)
		err = s.adopt(feeds)
	}
	if err == nil {
		return nil
	}
	for _, pid := range []int{s.outer, s.tool} {
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			_, _ = reap(pid)
		}
	}
	s.close()
	return err
}

// adopt makes bwrap's child ours and gives it what it reads.
func (s *sandbox) adopt(feeds []feed) error {
	text, err := io.ReadAll(io.LimitReader(s.wires[feedInfo].ours, maxInfo))
	if s.tool = childPID(string(text)); err != nil || s.tool == 0 {
		return ErrContainer
	}
	// The child reads the gate once bwrap has let it go on; until then it would hang without bwrap.
	for range 2 {
		if err := s.give(feedGate, []byte("x")); err != nil {
			return ErrContainer
		}
	}
	if err := syscall.Kill(s.outer, syscall.SIGKILL); err != nil {
		return ErrContainer
	}
	s.shut(feedGate)
	for _, f := range feeds {
		if err := s.give(f.number, f.text); err != nil {
			return ErrContainer
		}
		s.shut(f.number)
	}
	// The child makes the root meanwhile. It is ours, and will notice our death, once bwrap has ended: before release.
	if _, err := reap(s.outer); err != nil {
		return fmt.Errorf("wait for bwrap: %w", err)
	}
	s.outer = 0
	return prctl(prSetSubreaper, 0) // what the tool leaves behind is init's, as always
}

// childPID finds the number in what bwrap says of itself, a JSON object of few members; 0 if there is none.
func childPID(info string) int {
	_, info, _ = strings.Cut(info, `"child-pid":`)
	info = strings.TrimSpace(info)
	end := 0
	for end < len(info) && '0' <= info[end] && info[end] <= '9' {
		end++
	}
	pid, err := strconv.ParseInt(info[:end], 10, 32)
	if err != nil {
		return 0
	}
	return int(pid)
}

// release lets the tool begin.
func (s *sandbox) release() error { return s.give(feedBlock, []byte("x")) }

func (s *sandbox) give(n int, text []byte) error {
	_, err := s.wires[n].ours.Write(text)
	return err
}

// began tells whether the tool was started. It is meaningful once the child has ended.
func (s *sandbox) began() bool {
	var left int32
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(s.wires[feedBlock].number), fionread, uintptr(unsafe.Pointer(&left)))
	return e == 0 && left == 0
}

func (s *sandbox) shut(n int) {
	if w, ok := s.wires[n]; ok {
		w.close()
		delete(s.wires, n)
	}
}

func (s *sandbox) close() {
	for n := range s.wires {
		s.shut(n)
	}
}

// run runs a plan for bwrap and gives how the tool ended. To be called once: signals stay caught, and are handed on from
// before bwrap makes the container. Until then it loads, so that it costs no time that each is caught by itself.
func (e *Exec) run() (syscall.WaitStatus, error) {
	s, err := startSandbox(e, []uintptr{0, 1, 2})
	if err != nil {
		return 0, err
	}
	caught := make(chan os.Signal, 16)
	for _, sig := range handedOn {
		if !signal.Ignored(sig) { // nohup
			signal.Notify(caught, sig)
		}
	}
	if err := s.setUp(e.feeds); err != nil {
		return 0, err
	}
	defer s.close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends when stop is closed, which run waits for
		defer close(stopped)
		for {
			select {
			case sig := <-caught:
				if n, ok := sig.(syscall.Signal); ok && !fromTerminal(n) {
					_ = syscall.Kill(s.tool, n) // it may have ended
				}
			case <-stop:
				return
			}
		}
	}()
	err = s.release()
	if err == nil {
		letGo()
	}
	status, waitErr := reap(s.tool)
	close(stop)
	<-stopped
	switch {
	case waitErr != nil:
		return 0, fmt.Errorf("wait for the tool: %w", waitErr)
	case err != nil || !s.began() && !status.Signaled():
		return 0, ErrContainer
	}
	return status, nil
}

// handedOn are the signals that the tool gets through us. Those that stop or continue reach it as part of its group.
var handedOn = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGCONT,
	syscall.SIGWINCH, syscall.SIGXCPU, syscall.SIGPWR, syscall.SIGIO,
}

// fromTerminal tells whether a signal came from the keyboard: then the tool, in the same group, has it already.
func fromTerminal(sig syscall.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT && sig != syscall.SIGWINCH && sig != syscall.SIGHUP {
		return false
	}
	tty, err := syscall.Open("/dev/tty", syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(tty)
	var group int32
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(tty), tiocgpgrp, uintptr(unsafe.Pointer(&group)))
	return e == 0 && int(group) == syscall.Getpgrp()
}

// letGo closes our copies of the tool's standard files: who reads its output must see the end when the tool closes it.
func letGo() {
	null, err := syscall.Open(os.DevNull, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for fd := range 3 {
		if fd != 2 {
			_ = syscall.Dup3(null, fd, 0)
		}
	}
	syscall.Close(null)
}

// output runs a plan for bwrap with nothing on stdin and gives what it wrote to stdout. Its stderr is dropped.
func (e *Exec) output() ([]byte, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s, err := startSandbox(e, []uintptr{null.Fd(), w.Fd(), null.Fd()})
	w.Close()
	if err != nil {
		return nil, err
	}
	if err := s.setUp(e.feeds); err != nil {
		return nil, err
	}
	defer s.close()
	err = s.release()
	out, readErr := io.ReadAll(io.LimitReader(r, maxKept))
	status, waitErr := reap(s.tool)
	if err := errors.Join(err, readErr, waitErr); err != nil {
		return nil, err
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return nil, fmt.Errorf("their shell ended with status %d", exitCode(status))
	}
	return out, nil
}

// exitCode is a tool's end as a shell tells it.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return signalStatusShift + int(status.Signal())
	}
	return status.ExitStatus()
}

// End makes this process end as the tool did.
func End(status syscall.WaitStatus) {
	if status.Signaled() {
		sig := status.Signal()
		_ = prctl(prSetDumpable, 0) // one core file is enough
		var deflt [4]uint64         // struct sigaction, all zero: SIG_DFL
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&deflt)), 0, 8, 0, 0)
		runtime.LockOSThread() // to this very thread, so that it does not run on
		_, _, _ = syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(sig))
	}
	os.Exit(exitCode(status)) // for a signal: where it does not end us
}

func prctl(option, value uintptr) error {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}
