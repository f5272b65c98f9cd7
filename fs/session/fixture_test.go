package session

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen; reaching it fails.
const patience = time.Minute

// mountpoints are those this process made; TestMain checks that none is left.
var mountpoints struct {
	sync.Mutex
	all []string
}

func TestMain(m *testing.M) {
	if mode := os.Getenv(workerMode); mode != "" {
		os.Exit(work(mode))
	}
	if what := os.Getenv(clientMode); what != "" {
		os.Exit(beClient(what))
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if left := leftMounts(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "mounts left behind:", left)
		code = 1
	}
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // the fuzzing engine leaves goroutines of its own
	}
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		fmt.Fprintf(os.Stderr, "%d goroutines left behind:\n%s\n", n-before, allStacks())
		code = 1
	}
	os.Exit(code)
}

func allStacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}

func leftMounts() (left []string) {
	mounts, err := FindMounts()
	if err != nil {
		return []string{err.Error()}
	}
	mountpoints.Lock()
	defer mountpoints.Unlock()
	for _, dir := range mountpoints.all {
		if top(mounts, dir) != nil {
			left = append(left, dir)
		}
	}
	return left
}

// needFuse skips where FUSE cannot be used, and fails in CI.
func needFuse(t testing.TB) {
	t.Helper()
	err := checkDevice()
	if err == nil && !mayMount() {
		_, err = findHelper()
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// mountDir makes a mount point that is unmounted at the end of the test.
func mountDir(t testing.TB) string {
	t.Helper()
	needFuse(t)
	dir := filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mountpoints.Lock()
	mountpoints.all = append(mountpoints.all, dir)
	mountpoints.Unlock()
	t.Cleanup(func() {
		for is, _ := IsMounted(dir); is; is, _ = IsMounted(dir) {
			if _, err := Unmount(context.Background(), dir); err != nil {
				t.Error(err)
				return
			}
		}
	})
	return dir
}

// mounted is a served mount.
type mounted struct {
	*Session
	dir    string
	fs     *memFS
	log    *logBuffer
	served chan error
}

// serve mounts fs, serves it and ends both with the test. Nodes that hang are
// released at the end.
func serve(t testing.TB, fs *memFS) *mounted {
	t.Helper()
	fs.file(fs.root(), "probe", "x")
	dir := mountDir(t)
	m := &mounted{dir: dir, fs: fs, log: new(logBuffer), served: make(chan error, 1)}
	logger := slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f, err := Mount(t.Context(), MountOptions{Mountpoint: dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	m.Session = New(f, fs, Options{Logger: logger})
	go func() { m.served <- m.Serve() }()
	t.Cleanup(func() {
		if is, _ := IsMounted(dir); is {
			if _, err := Unmount(context.Background(), dir); err != nil {
				t.Error(err)
			}
		}
		for _, n := range fs.nodes {
			if n.hang != nil && !closed(n.hang) {
				close(n.hang)
			}
		}
		m.wait(t)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if st := m.Stats(); st.Slots != 0 || st.InFlight != 0 {
			t.Errorf("after Serve: %+v", st)
		}
		if t.Failed() {
			t.Logf("log:\n%s", m.log)
		}
	})
	receive(t, "INIT", m.Ready())
	noPoll(t, filepath.Join(dir, "probe"))
	return m
}

// wait waits for Serve, which must return nil.
func (m *mounted) wait(t testing.TB) {
	t.Helper()
	select {
	case err, ok := <-m.served:
		if !ok {
			return
		}
		close(m.served)
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := m.fs.unmounted.Load(); n != 1 {
			t.Errorf("OnUnmount was called %d times", n)
		}
	case <-time.After(patience):
		t.Errorf("Serve did not return\n%s", allStacks())
	}
}

// noPoll makes the kernel learn that we do not do POLL. os.Open registers
// every file with epoll without telling the scheduler that it may block, which
// would stop a process that is its own FUSE server. This way it is told.
func noPoll(t testing.TB, path string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Fatal(err)
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s\n%s", what, allStacks())
	}
	return v
}

// eventually polls for what another process or the kernel does.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s\n%s", what, allStacks())
		}
	}
}

// sh runs a script in a process of its own, in the mount's parent: a program on
// the mount must not be run by this process itself, which serves it.
func (m *mounted) sh(t testing.TB, script string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Dir = filepath.Dir(m.dir)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, errOut.String())
	}
	return strings.TrimSuffix(out.String(), "\n")
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
