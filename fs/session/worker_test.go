package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// workerMode is the variable that makes this test's program a worker, which
// serves thousand() and some files more, in a way of its own:
//
//	plain          as it should be
//	absent=FILE    its request buffers are pages of FILE, which has them not
//	clone          reads from a descriptor of its own (FUSE_DEV_IOC_CLONE)
//	refuse         says that it is incompatible
//	fall           ends as soon as it is started
//	flop           ends when it is given the mount
//	mute           never says that it is ready
//	idle           never serves when it is given the mount
//	deaf           does not hear that it is not needed
//	vanish         takes the mount away when it is given it
//	caught         never answers the LOOKUP of "pending", and has the kernel forget
//	               a name beside it meanwhile; it has a lock
//	heir           takes that lock before it serves
const workerMode = "NEURODESKFS_TEST_WORKER"

// deadlyFS ends its process when the file "deadly" is read, as a handler that
// the runtime cannot recover from does.
type deadlyFS struct {
	*memFS
	pending func() // called in the LOOKUP of "pending", which is not answered then
}

func (fs deadlyFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "pending" && fs.pending != nil {
		fs.pending()
		select {}
	}
	return fs.memFS.Lookup(cancel, h, name, out)
}

func (fs deadlyFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if fs.node(in.NodeId).name == "deadly" {
		os.Exit(2)
	}
	return fs.memFS.Read(cancel, in, buf)
}

func workerFS() *memFS {
	fs := thousand()
	fs.file(fs.root(), "deadly", "x")
	fs.hanging(fs.root(), "slow")
	fs.file(fs.root(), "pending", "x")
	return fs
}

// work is a worker's whole life.
func work(mode string) int {
	const socket = 3
	mode, file, _ := strings.Cut(mode, "=")
	if mode == "fall" {
		return 1
	}
	d, err := Attend(socket)
	if err != nil {
		return 1
	}
	if mode == "refuse" && !d.First {
		d.Fail(fmt.Errorf("a test: %w", ErrIncompatible), 1)
		return 1
	}
	if mode != "mute" {
		d.Ready()
	}
	if mode == "deaf" {
		unix.Pause()
	}
	device, handover, err := d.Await()
	if errors.Is(err, io.EOF) {
		return 0
	}
	if err != nil || mode == "flop" {
		return 1
	}
	if mode == "vanish" {
		dir := strings.TrimSuffix(os.Getenv(attachPlace), ".attach")
		if _, err := Unmount(context.Background(), dir); err != nil {
			return 1
		}
		return 0
	}
	if mode == "idle" {
		unix.Pause()
	}
	if mode == "clone" {
		if device, err = cloned(device); err != nil {
			return 1
		}
	}
	fs := &deadlyFS{memFS: workerFS()}
	if mode == "caught" || mode == "heir" {
		lock, err := os.Create(os.Getenv(attachPlace) + ".lock")
		if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return 1
		}
		defer lock.Close()
	}
	s := New(device, fs, Options{Handover: handover, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if mode == "caught" {
		fs.pending = func() { go s.EntryNotify(1, "d1") }
	}
	if mode == "absent" {
		if s.slots.absent, err = os.Open(file); err != nil {
			return 1
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	<-s.Ready()
	d.Serving()
	go awaitSupervisors(d)
	if <-served != nil {
		return 1
	}
	return 0
}

// attachPlace is the variable that names the socket of a worker that has lost its
// supervisor.
const attachPlace = "NEURODESKFS_TEST_ATTACH"

func awaitSupervisors(d *Duty) {
	for {
		<-d.Alone()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: os.Getenv(attachPlace)})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		var c int
		if err == nil {
			c, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
		}
		if err == nil {
			err = d.Attach(c)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "no supervisor:", err)
			return
		}
		unix.Close(fd)
		os.Remove(os.Getenv(attachPlace))
	}
}

// cloned opens a descriptor of the same connection that nobody else holds.
func cloned(device *os.File) (*os.File, error) {
	f, err := os.OpenFile(devFuse, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	const ioctlClone = 0x8004e500 // FUSE_DEV_IOC_CLONE
	return f, unix.IoctlSetPointerInt(int(f.Fd()), ioctlClone, int(device.Fd()))
}

// supervised is a mount that worker processes serve.
type supervised struct {
	*Supervisor
	dir  string
	log  *logBuffer
	mode string // of workers to come
	// shown is the board, whichever supervisor there is.
	shown *board
	mu    sync.Mutex
	stop  chan struct{}
	ran   chan error

	// journal is the test's own descriptor of what the supervisor closes then.
	journal *os.File
}

func supervise(t testing.TB, mode string, change func(*Supervisor)) *supervised {
	t.Helper()
	m := &supervised{dir: mountDir(t), log: new(logBuffer), mode: mode, stop: make(chan struct{}), ran: make(chan error, 1)}
	var err error
	m.Supervisor, err = NewSupervisor(SupervisorOptions{
		Mount:   MountOptions{Mountpoint: m.dir},
		Command: m.command,
		Logger:  slog.New(slog.NewTextHandler(m.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.shown, err = mapBoard(m.files[fileBoard]); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m.Supervisor)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.journal = reopened(t, m.files[fileJournal])
	go func() { m.ran <- m.Run(m.stop) }()
	t.Cleanup(func() {
		m.unmount(t)
		m.journal.Close()
		unmapBoard(m.shown)
		if t.Failed() {
			t.Logf("log:\n%s", m.log)
		}
	})
	return m
}

// reopened is another descriptor of f's file.
func reopened(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func (m *supervised) command(program string) *exec.Cmd {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := exec.Command(program)
	c.Env = append(os.Environ(), workerMode+"="+m.mode, attachPlace+"="+m.dir+".attach")
	if m.log != nil {
		c.Stderr = m.log
	}
	return c
}

// unmount unmounts and waits until supervisor and workers have ended.
func (m *supervised) unmount(t testing.TB) {
	t.Helper()
	if is, _ := IsMounted(m.dir); is {
		if _, err := Unmount(context.Background(), m.dir); err != nil {
			t.Error(err)
		}
	}
	m.end(t)
}

// end waits for Run.
func (m *supervised) end(t testing.TB) {
	t.Helper()
	select {
	case err, ok := <-m.ran:
		if ok && err != nil {
			t.Errorf("Run: %v", err)
		}
		if ok {
			close(m.ran)
		}
	case <-time.After(patience):
		t.Fatalf("Run did not return\n%s", allStacks())
	}
}

// setMode is for workers that start from now on.
func (m *supervised) setMode(mode string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = mode
}

// worker is the pid of the one that serves, as the board says; 0: none.
func (m *supervised) worker(t testing.TB) Processes {
	t.Helper()
	return m.shown.process.read()
}

// kill ends the worker that serves, and waits until another does.
func (m *supervised) kill(t testing.TB) {
	t.Helper()
	p := m.worker(t)
	if p.Worker == 0 || syscall.Kill(p.Worker, syscall.SIGKILL) != nil {
		t.Fatalf("no worker to kill: %+v", p)
	}
	eventually(t, "another worker serves", func() bool { return m.worker(t).Takeovers > p.Takeovers })
}

// standby waits until there is one.
func (m *supervised) standby(t testing.TB) {
	t.Helper()
	eventually(t, "the standby is there", func() bool { return m.worker(t).Standby != 0 })
}

// uncached asks the worker, whatever the kernel has, for attributes and content.
func (m *supervised) uncached(name string) error { return <-m.client("once=" + name) }

// direct reads the beginning of a file.
func (m *supervised) direct(name string) <-chan error { return m.client("read=" + name) }

// client runs a client and gives its error, an errno if it is one.
//
// Clients are processes of their own: this one is the supervisor, and a process
// that it starts would, before it becomes a worker, close what this one has open
// on the mount, which asks the worker.
func (m *supervised) client(what string) <-chan error {
	c := m.clientCommand(what)
	got := make(chan error, 1)
	go func() {
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() > 1:
			err = fmt.Errorf("%s: %w", out, unix.Errno(exit.ExitCode()))
		case err != nil:
			err = fmt.Errorf("%s: %w", out, err)
		}
		got <- err
	}()
	return got
}

func (m *supervised) clientCommand(what string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), clientMode+"="+what)
	c.Dir = filepath.Dir(m.dir)
	return c
}

// clientMode is the variable that makes this test's program a client.
const clientMode = "NEURODESKFS_TEST_CLIENT"

// beClient is a client's whole life; the mount is m.
func beClient(what string) int {
	verb, name, _ := strings.Cut(what, "=")
	var err error
	switch verb {
	case "once":
		err = lookUncached(name)
	case "read":
		var fd int
		if fd, err = unix.Open("m/"+name, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
			_, err = unix.Pread(fd, make([]byte, 4096), 0)
		}
	case "loop": // until stdin ends
		var done atomic.Bool
		go func() { io.Copy(io.Discard, os.Stdin); done.Store(true) }()
		calls := 0
		for ; err == nil && !done.Load(); calls++ {
			err = lookUncached(fmt.Sprintf("d%d/f%d", calls%10, calls%100))
		}
		fmt.Print(calls, " ")
	}
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		fmt.Print(err)
		return int(errno)
	}
	fmt.Print(err)
	return 1
}

func lookUncached(name string) error {
	path := "m/" + name
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if want := pattern(filepath.Base(name), n); n == 0 || n != int(st.Size) || string(buf[:n]) != want {
		return fmt.Errorf("%s: %d wrong bytes of %d", name, n, st.Size)
	}
	return nil
}
