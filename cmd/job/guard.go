package job

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// politeness is how long what the program left running has to end by itself.
	politeness = time.Second
	// daemonPatience is how long the daemon may take to unmount and to close its cache.
	daemonPatience = 10 * time.Second
	// together is how far apart run and guard may see what was sent to both.
	together = 100 * time.Millisecond
)

// guard is the process in the namespaces.
type guard struct {
	spec     Spec
	run      *os.File         // from run: the spec, then signals; its end is run's
	asked    chan unix.Signal // what run got; closed with run
	got      chan os.Signal   // what we got ourselves
	lastGot  map[unix.Signal]time.Time
	waiting  map[unix.Signal]time.Time // asked for, and maybe sent to all; when it was asked
	due      chan unix.Signal
	ended    chan exited // closed when no descendant is left
	daemon   int
	until    *os.File // the daemon serves until this is closed
	program  int
	stranger []int  // descriptors that are for the program only
	made     string // a mount point that is to be removed in the end
}

type exited struct {
	pid    int
	status unix.WaitStatus
}

// Failure is an error with an exit status.
type Failure struct {
	Status int
	err    error
}

func (f Failure) Error() string { return f.err.Error() }

// interrupted is a signal that came before the program began.
type interrupted unix.Signal

func (i interrupted) Error() string { return unix.Signal(i).String() }

// Inside is the guard's main. It returns how the program ended; an error says
// why it was not run or had to be ended, with a status.
func Inside(fd int) (unix.WaitStatus, int, error) {
	runtime.LockOSThread() // capabilities and PR_SET_PDEATHSIG are about the thread
	g := &guard{
		run: os.NewFile(uintptr(fd), "run"), asked: make(chan unix.Signal), got: make(chan os.Signal, 64), due: make(chan unix.Signal, 64),
		lastGot: map[unix.Signal]time.Time{}, waiting: map[unix.Signal]time.Time{}, ended: make(chan exited),
	}
	signal.Notify(g.got, heeded()...)
	unix.CloseOnExec(fd)
	status, err := g.serve()
	if g.daemon != 0 {
		g.endAll()
	}
	g.removePlace()
	var f Failure
	var i interrupted
	switch {
	case errors.As(err, &i):
		return unix.WaitStatus(i), 0, nil // as if it had ended the program
	case errors.As(err, &f):
		return 0, f.Status, f.err
	}
	return status, StatusError, err
}

func (g *guard) serve() (status unix.WaitStatus, err error) {
	if g.spec, err = readSpec(g.run); err != nil {
		return 0, fmt.Errorf("run says nothing: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become a subreaper: %w", err)
	}
	// A slave of the host's mounts: what automounts there appears here, and
	// nothing of ours appears there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return 0, fmt.Errorf("%w: mounts cannot be kept from the host (%w)%s", ErrNamespace, err, remedy())
	}
	place, made, why := makePlace(g.spec.Mountpoint)
	if place == "" {
		return 0, fmt.Errorf("%s cannot be made: %w", g.spec.Mountpoint, why)
	}
	if made {
		g.made = place
		fmt.Fprintf(os.Stderr, "neurodeskfs: %s cannot be made here (%v): the tree is at %s, as $NEURODESK_MOUNT says\n", g.spec.Mountpoint, why, place)
	}
	go g.listen()
	ready, err := g.startDaemon(place)
	if err != nil {
		return 0, err
	}
	if err := g.awaitReady(ready); err != nil {
		return 0, err
	}
	if err := g.startProgram(place); err != nil {
		return 0, err
	}
	letGo()
	return g.watch()
}

// listen takes signals from run until its end.
func (g *guard) listen() {
	in := bufio.NewReader(g.run)
	for {
		b, err := in.ReadByte()
		if err != nil {
			close(g.asked)
			return
		}
		g.asked <- unix.Signal(b)
	}
}

// startDaemon starts the daemon, which gets nothing of what is the program's.
func (g *guard) startDaemon(place string) (ready *os.File, err error) {
	log, err := os.OpenFile(g.spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the daemon's log cannot be written: %w", err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ready, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer say.Close()
	until, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer until.Close()
	if err := g.setStrangers(); err != nil {
		return nil, err
	}
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	argv := append(append([]string{}, g.spec.Daemon...), "--ready-fd=3", "--until-fd=4", "--", place)
	g.daemon, err = syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), log.Fd(), log.Fd(), say.Fd(), until.Fd()}, Sys: attr,
	})
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	g.until = hold
	go g.reap()
	return ready, g.returnStrangers()
}

// setStrangers marks the descriptors that were inherited for the program, so
// that the daemon does not get them.
func (g *guard) setStrangers() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.CloseOnExec(fd)
			g.stranger = append(g.stranger, fd)
		}
	}
	return nil
}

func (g *guard) returnStrangers() error {
	for _, fd := range g.stranger {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return nil
}

// reap tells of each child that ends, orphans that came to us among them.
func (g *guard) reap() {
	defer close(g.ended)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == nil:
			g.ended <- exited{pid, status}
		case !errors.Is(err, unix.EINTR):
			return
		}
	}
}

// awaitReady waits until the mount answers. A signal ends the wait.
func (g *guard) awaitReady(ready *os.File) error {
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(ready).ReadString('\n')
		ready.Close()
		said <- line
	}()
	for ended := g.ended; ; {
		select {
		case line := <-said:
			if line == "ready\n" {
				return nil
			}
			_, reason, ok := strings.Cut(strings.TrimSpace(line), " ")
			if !ok {
				reason = "the daemon ended before it was ready: see " + g.spec.Log
			}
			return errors.New(reason)
		case _, more := <-ended:
			if !more {
				ended = nil // said has the reason
			}
		case sig, more := <-g.asked:
			if !more {
				g.abandon()
			}
			return interrupted(sig)
		case <-g.got:
		}
	}
}

// usualPath is PATH for a caller without one, as after `env -i`.
const usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Prepare finds a program as execvp(3) would, with bin of the tree first in
// PATH, and gives its environment. Errors are Failures.
func Prepare(place, name string) (path string, env []string, err error) {
	os.Setenv("NEURODESK_MOUNT", place)
	os.Setenv("PATH", filepath.Join(place, "bin")+":"+cmp.Or(os.Getenv("PATH"), usualPath))
	path, err = exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, os.Environ(), nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		hint := ""
		if _, err := os.Stat(name); err == nil {
			hint = ": write ./" + name
		}
		return "", nil, Failure{StatusNotFound, fmt.Errorf("there is no program %s in PATH%s", name, hint)}
	}
	return "", nil, Failure{StatusNotExec, err}
}

// startProgram starts the program as it would be started outside, with M/bin
// first in PATH.
func (g *guard) startProgram(place string) error {
	path, env, err := Prepare(place, g.spec.Program[0])
	if err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}}
	g.program, err = syscall.ForkExec(path, g.spec.Program, attr)
	if errors.Is(err, unix.ENOEXEC) { // a script without #!, as execvp(3) does
		g.program, err = syscall.ForkExec("/bin/sh", append([]string{"sh", path}, g.spec.Program[1:]...), attr)
	}
	if err != nil {
		return Failure{StatusNotExec, fmt.Errorf("start %s: %w", path, err)}
	}
	return nil
}

// watch waits for the end of the program, and hands signals to it.
func (g *guard) watch() (unix.WaitStatus, error) {
	for {
		select {
		case e := <-g.ended:
			switch e.pid {
			case g.program:
				return e.status, nil
			case g.daemon:
				return 0, fmt.Errorf("the daemon of this job has ended (%s), so the job is ended too: see %s", describe(e.status), g.spec.Log)
			}
		case s := <-g.got:
			if sig, ok := s.(unix.Signal); ok {
				g.lastGot[sig] = time.Now()
			}
		case sig, more := <-g.asked:
			if !more {
				g.abandon()
			}
			g.waiting[sig] = time.Now()
			time.AfterFunc(together, func() { g.due <- sig })
		case sig := <-g.due:
			if asked, ok := g.waiting[sig]; ok && g.lastGot[sig].Before(asked.Add(-together)) {
				_ = unix.Kill(g.program, sig)
			}
			delete(g.waiting, sig)
		}
	}
}

// abandon is the end of a job whose run is gone: nobody sees how.
func (g *guard) abandon() {
	killAll()
	g.removePlace()
	os.Exit(StatusError)
}

// removePlace removes the mount point, if it was made for this job.
func (g *guard) removePlace() {
	if g.made != "" {
		_ = unix.Unmount(g.made, unix.MNT_DETACH) // in case that the daemon was killed
		_ = os.Remove(g.made)
	}
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return "exit status " + strconv.Itoa(s.ExitStatus())
}

// endAll ends what the program left, then the daemon.
func (g *guard) endAll() {
	over := time.After(politeness)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for left := signalAll(descendants(os.Getpid(), g.daemon), unix.SIGTERM); left; {
		select {
		case <-g.ended:
		case <-tick.C:
		case <-over:
			signalAll(descendants(os.Getpid(), g.daemon), unix.SIGKILL)
		}
		left = len(descendants(os.Getpid(), g.daemon)) > 0
	}
	g.until.Close()
	for over := time.After(daemonPatience); ; {
		select {
		case _, more := <-g.ended:
			if !more {
				return
			}
		case <-tick.C:
			signalAll(descendants(os.Getpid(), g.daemon), unix.SIGKILL) // what came up since
		case <-over:
			_ = unix.Kill(g.daemon, unix.SIGKILL)
		case _, more := <-g.asked:
			if !more {
				signalAll(descendants(os.Getpid(), 0), unix.SIGKILL)
				g.asked = nil
			}
		}
	}
}
