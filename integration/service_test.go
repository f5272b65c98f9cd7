package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// notifiedSystemd is what systemd is to a unit with Type=notify and a descriptor
// store: it starts the daemon, learns when it is ready, and keeps descriptors.
type notifiedSystemd struct {
	t      *testing.T
	socket *net.UnixConn
	path   string

	mu    sync.Mutex
	ready int
	names []string
	store []*os.File
	last  *exec.Cmd
}

func newNotifiedSystemd(t *testing.T) *notifiedSystemd {
	t.Helper()
	s := &notifiedSystemd{t: t, path: filepath.Join(shortDir(t), "notify")}
	var err error
	if s.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s.next() {
		}
	}()
	t.Cleanup(func() {
		if s.last != nil {
			s.last.Wait()
		}
		s.socket.Close()
		<-done
		for _, f := range s.store {
			f.Close()
		}
	})
	return s
}

// next takes one message.
func (s *notifiedSystemd) next() bool {
	b, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	n, m, _, _, err := s.socket.ReadMsgUnix(b, rights)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(b[:n])
	if text == "READY=1" {
		s.ready++
	}
	messages, _ := unix.ParseSocketControlMessage(rights[:m])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			name, ok := strings.CutPrefix(text, "FDSTORE=1\nFDNAME=")
			if !ok {
				s.t.Errorf("a descriptor came with %q", text)
			}
			s.names, s.store = append(s.names, name), append(s.store, os.NewFile(uintptr(fd), name))
		}
	}
	return true
}

func (s *notifiedSystemd) timesReady() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// start runs the program with what is in the store, and waits until it is ready.
func (s *notifiedSystemd) start(m *mounted) *exec.Cmd {
	s.t.Helper()
	was := s.timesReady()
	c := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" mount --foreground --config "$1" "$2"`, program(s.t), m.Config, m.Dir)
	s.mu.Lock()
	c.ExtraFiles = s.store
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.path)
	if len(s.store) > 0 {
		c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(s.store)), "LISTEN_FDNAMES="+strings.Join(s.names, ":"))
	}
	s.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(m.Cache, "neurodeskfs.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.last = c
	eventually(s.t, "the daemon says that it is ready", func() bool { return s.timesReady() > was })
	return c
}

// TestMountIsKeptByTheServiceManager kills supervisor and workers at once. The
// service manager starts the unit again with the descriptors that it has kept, and
// who read meanwhile has waited, no more.
func TestMountIsKeptByTheServiceManager(t *testing.T) {
	s, file := setup{Sources: []source{newStratum(t).Golden(alpha)}}.prepare(t)
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	if err := os.Mkdir(m.Cache, 0o700); err != nil {
		t.Fatal(err)
	}
	manager := newNotifiedSystemd(t)
	t.Cleanup(m.cleanUp)
	supervisor := manager.start(m)
	content, err := os.ReadFile(m.Raw(alpha, "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	reads, stop := readAgain(t, m.Raw(alpha, "README.txt"), content)
	defer stop()
	for round := range 2 {
		goesOn(t, reads)
		before := m.Status()
		if before.PID != supervisor.Process.Pid {
			t.Errorf("round %d: the supervisor is %d, not %d", round, before.PID, supervisor.Process.Pid)
		}
		syscall.Kill(before.PID, syscall.SIGSTOP) // it must not follow the worker up
		for _, pid := range daemonsOf(m.Dir) {
			if pid != before.PID {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		syscall.Kill(before.PID, syscall.SIGKILL)
		supervisor.Wait()
		eventually(t, "nobody is left", func() bool { return len(daemonsOf(m.Dir)) == 0 })
		supervisor = manager.start(m)
		goesOn(t, reads)
	}
	// The supervisor alone: the one after it finds the worker, although all was kept.
	before := m.Status()
	syscall.Kill(before.PID, syscall.SIGKILL)
	supervisor.Wait()
	supervisor = manager.start(m)
	if after := m.Status(); after.PID != supervisor.Process.Pid || after.Worker.PID != before.Worker.PID || after.IOErrors != 0 {
		t.Errorf("%+v, then %+v", before, after)
	}
	wantRun(t, 0, "upgrade", m.Dir)
	goesOn(t, reads)
}
