package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/session"
	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

// runDir holds all mount points, caches and files of this run. Other users can
// read it, and its name is short: mount points must fit a `#!` line.
var runDir string

// TestMain makes runDir and fails the run if anything is left in it that must
// not outlive a test.
func TestMain(m *testing.M) {
	if path := os.Getenv(mapFile); path != "" {
		os.Exit(sumOfMapped(path))
	}
	if orders := os.Getenv(soakVariable); orders != "" {
		os.Exit(soakClient(orders, os.Args[1]))
	}
	heedSignals()
	os.Exit(runTests(m))
}

// heedSignals undoes what a background job of a shell, or nohup, inherits: who
// ignores a signal hands that on to all that it starts, and a shell's trap for it
// is then without effect.
func heedSignals() {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // caught here, and still without effect; the default in what is started
		}
	}
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nd")
	if err == nil {
		runDir, err = filepath.EvalSymlinks(dir)
	}
	if err == nil {
		err = os.Chmod(runDir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Every process of the run inherits this, which is how ours are found.
	os.Setenv("TMPDIR", runDir)
	for _, name := range []string{"NEURODESK_MOUNT", "NEURODESK_PIN", "NEURODESK_LOCK", "NEURODESK_DEBUG"} {
		os.Unsetenv(name)
	}
	code := m.Run()
	if left := leftovers(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the run left behind:\n\t%s\n", strings.Join(left, "\n\t"))
		return 1
	}
	if err := os.RemoveAll(runDir); err != nil {
		fmt.Fprintln(os.Stderr, "the run left files behind:", err)
		return 1
	}
	return code
}

// leftovers names, and takes away, mounts and processes of this run that still
// exist. A process that has been told to end is given a moment.
func leftovers() (left []string) {
	mounts, err := session.FindMounts()
	if err != nil {
		return []string{err.Error()}
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Mountpoint, runDir+"/") {
			left = append(left, "mount "+m.Mountpoint)
			exec.Command("fusermount3", "-uz", m.Mountpoint).Run()
		}
	}
	var alive []int
	poll(5*time.Second, func() bool {
		alive = processes(func(p process) bool { return strings.HasPrefix(p.tmpdir, runDir) })
		return len(alive) == 0
	})
	for _, pid := range alive {
		left = append(left, fmt.Sprintf("process %d: %q", pid, readProcess(pid).args))
		if p, err := os.FindProcess(pid); err == nil {
			p.Kill()
		}
	}
	return left
}

// poll asks until done says yes or the time is over, and returns the last answer.
func poll(patience time.Duration, done func() bool) bool {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			return done()
		}
		<-tick.C
	}
	return true
}

// eventually fails the test if done does not become true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	const patience = 20 * time.Second
	if !poll(patience, done) {
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// process is what /proc tells of one.
type process struct {
	args   []string
	tmpdir string
	zombie bool
}

func readProcess(pid int) (p process) {
	dir := "/proc/" + strconv.Itoa(pid)
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		p.args = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
	if b, err := os.ReadFile(dir + "/status"); err == nil { // not stat, which waits for a process that is stuck in execve
		p.zombie = bytes.Contains(b, []byte("\nState:\tZ"))
	}
	if b, err := os.ReadFile(dir + "/environ"); err == nil {
		for v := range strings.SplitSeq(string(b), "\x00") {
			if value, ok := strings.CutPrefix(v, "TMPDIR="); ok {
				p.tmpdir = value
			}
		}
	}
	return p
}

// processes lists the living processes that match, this one aside.
func processes(match func(process) bool) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p := readProcess(pid); !p.zombie && len(p.args) > 0 && match(p) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// daemonsOf lists the processes that serve the mount at dir.
func daemonsOf(dir string) []int {
	return processes(func(p process) bool {
		if len(p.args) < 3 || p.args[len(p.args)-1] != dir {
			return false
		}
		return p.args[1] == "worker" || p.args[1] == "confine" || p.args[1] == "supervise" || p.args[1] == "mount" && slices.Contains(p.args, "--foreground")
	})
}

// program is the binary under test.
func program(t testing.TB) string {
	t.Helper()
	path, err := builtProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// builtProgram is $NEURODESKFS_BIN, else the program built from this tree, with
// its launcher embedded, into runDir.
var builtProgram = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("NEURODESKFS_BIN"); path != "" {
		return filepath.Abs(path)
	}
	root, err := checkout.Dir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(runDir, "build")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	launcher, path := filepath.Join(dir, "launcher"), filepath.Join(dir, "neurodeskfs")
	// An overlay embeds the launcher without a file in the source tree.
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "cmd/neurodeskfs/embedded/launcher"): launcher,
	}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o644); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", launcher, "./cmd/launcher"},
		{"build", "-trimpath", "-buildvcs=false", "-overlay", overlayFile, "-o", path, "./cmd/neurodeskfs"},
	} {
		c := exec.Command("go", args...)
		c.Dir = root
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return path, nil
})
