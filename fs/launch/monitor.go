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
	"sync/atomic"
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
	fSetSig           = 10 // F_SETSIG
	fionread          = 0x541b
	tiocgpgrp         = 0x540f
	signalStatusShift = 128
)

// sandbox is bwrap under way. bwrap stays as the parent of the tool and turns a death by signal into an exit status, and
// signals sent to it do not reach the tool. So once its child makes the root by itself, bwrap ends and the child
// becomes ours (subreaper): we see how it ends, hand signals on, and it dies if we are killed.
//
// For that the child asks (--die-with-parent) only when it becomes the tool; see guard for the time before. Until it is
// ours bwrap has a process group of its own, which can be killed as one.
type sandbox struct {
	wires   map[int]wire
	block   int    // our end of the block wire
	options []byte // bwrap's, each ended by a NUL
	group   int    // our process group; 0: we cannot see it, and bwrap stays in it
	outer   int    // process ids
	tool    int
	ready   atomic.Bool // the tool gets signals
}

// startSandbox starts bwrap with these standard files. It loads, and waits for its options: until setUp gives them it does
// nothing, and should we end before, it fails.
func startSandbox(e *Exec, files []uintptr) (*sandbox, error) {
	s := &sandbox{wires: map[int]wire{}, group: syscall.Getpgrp()}
	numbers := []int{feedGate, feedInfo, feedBlock, feedOptions}
	for _, f := range e.feeds {
		numbers = append(numbers, f.number)
	}
	for _, n := range numbers {
		w, err := newWire(n == feedInfo, n == feedGate)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make a pipe for bwrap: %w", err)
		}
		s.wires[n] = w
	}
	s.block = s.wires[feedBlock].number
	if err := errors.Join(s.number(e), s.give(feedBlock, []byte("x")), prctl(prSetSubreaper, 1)); err != nil {
		s.close()
		return nil, fmt.Errorf("prepare bwrap's start: %w", err)
	}
	argv := slices.Concat(e.Argv[:e.options[0]], []string{"--args", strconv.Itoa(s.wires[feedOptions].theirs)}, e.Argv[e.options[1]:])
	// os.StartProcess would first try out what the kernel can, with a process of its own.
	outer, err := syscall.ForkExec(e.Path, argv, &syscall.ProcAttr{Env: e.Env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: s.group != 0}})
	for n, w := range s.wires {
		if n != feedBlock { // see guard
			syscall.Close(w.theirs)
			w.theirs = -1
			s.wires[n] = w
		}
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

// guard has the kernel kill owner, a process or, negative, a group, when we end, until the child has read the block wire
// to become the tool: our end of that is closed then, of which the other end tells its owner by a signal (fcntl(2)).
func (s *sandbox) guard(owner int) error {
	fd := s.wires[feedBlock].theirs
	return errors.Join(fcntl(fd, syscall.F_SETOWN, uintptr(owner)), fcntl(fd, fSetSig, uintptr(syscall.SIGKILL)), fcntl(fd, syscall.F_SETFL, syscall.O_ASYNC))
}

// setUp has bwrap make the container and start the tool. After an error nothing is left of it.
func (s *sandbox) setUp(feeds []feed) error {
	var err error
	if s.group != 0 {
		err = s.guard(-s.outer)
	}
	if err == nil {
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

// adopt has bwrap begin, makes its child ours and gives that what it reads.
func (s *sandbox) adopt(feeds []feed) error {
	if s.give(feedOptions, s.options) != nil {
		return ErrContainer
	}
	s.shut(feedOptions)
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
	if len(feeds) > 0 {
		s.shut(feedGate) // the child makes the root meanwhile, up to where it reads the first of them
	}
	// It is ours, and will notice our death, once bwrap has ended: before it gets the last that it waits for.
	if _, err := reap(s.outer); err != nil {
		return fmt.Errorf("wait for bwrap: %w", err)
	}
	s.outer = 0
	// What the tool leaves behind is init's, as always.
	if err := errors.Join(prctl(prSetSubreaper, 0), s.guard(s.tool), s.join()); err != nil {
		return fmt.Errorf("take bwrap's child over: %w", err)
	}
	s.shut(feedGate)
	for _, f := range feeds {
		if err := s.give(f.number, f.text); err != nil {
			return ErrContainer
		}
		s.shut(f.number)
	}
	return nil
}

// join takes the child, which has executed nothing yet, into our process group: from now on it gets signals.
func (s *sandbox) join() (err error) {
	if s.group != 0 {
		err = syscall.Setpgid(s.tool, s.group)
	}
	s.ready.Store(true)
	return err
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

func (s *sandbox) give(n int, text []byte) error {
	_, err := s.wires[n].ours.Write(text)
	return err
}

// began tells whether the child has come to start the tool.
func (s *sandbox) began() bool {
	var left int32
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(s.block), fionread, uintptr(unsafe.Pointer(&left)))
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

// run runs a plan for bwrap and gives how the tool ended. To be called once: signals stay caught. That is done while bwrap
// loads, so that it costs no time.
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
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends when stop is closed, which run waits for
		defer close(stopped)
		for {
			select {
			case sig := <-caught:
				if n, ok := sig.(syscall.Signal); ok {
					s.handOn(n)
				}
			case <-stop:
				return
			}
		}
	}()
	var status syscall.WaitStatus
	if err = s.setUp(e.feeds); err == nil {
		defer s.close()
		letGo()
		if status, err = reap(s.tool); err != nil {
			err = fmt.Errorf("wait for the tool: %w", err)
		} else if !s.began() && !status.Signaled() {
			err = ErrContainer
		}
	}
	close(stop)
	<-stopped
	return status, err
}

// handOn gives a signal to the tool. Where there is none yet it ends us, as it would the tool, and bwrap with us. One that
// came before the child was in our group would be lost if it were taken for the terminal's; twice it does no harm there.
func (s *sandbox) handOn(sig syscall.Signal) {
	switch ready := s.ready.Load(); {
	case ready && (!s.began() || !fromTerminal(sig)):
		_ = syscall.Kill(s.tool, sig) // it may have ended
	case !ready && sig != syscall.SIGCONT && sig != syscall.SIGWINCH:
		End(syscall.WaitStatus(sig))
	}
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
	out, err := io.ReadAll(io.LimitReader(r, maxKept))
	r.Close() // who writes more is not waited for
	status, waitErr := reap(s.tool)
	if err := errors.Join(err, waitErr); err != nil {
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
