package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"golang.org/x/sys/unix"
)

const (
	killEvery   = 200 * time.Millisecond
	manyFiles   = 20_000
	shortFiles  = 10_100 // those that are held or asked for by name
	manyFQRN    = "many.example.org"
	manyImage   = "busy_1.0_20260101"
	soakSeconds = "NEURODESKFS_SOAK_SECONDS" // how long the kills go on; default 15, 4 for an ordinary user
)

// busy is a mount that six kinds of clients use while its workers are killed.
type busy struct {
	*mounted
	t      *testing.T
	sums   string // what sha256sum says of all small files, sorted
	random []byte // the content of data/random
	rootfs string
	done   chan struct{}
	wait   sync.WaitGroup
	mu     sync.Mutex
	rounds map[string]int
	worst  map[string]time.Duration
}

func newBusy(t *testing.T, args ...string) *busy {
	t.Helper()
	b := &busy{t: t, done: make(chan struct{}), rounds: map[string]int{}, worst: map[string]time.Duration{}, random: pattern(7, 8<<20)}
	tree := cvmfstest.NewTree()
	busybox, err := os.ReadFile(serverProgram(t, "busybox")) // which a user may read as well
	if err != nil {
		t.Fatal(err)
	}
	var sums []string
	files := manyFiles
	if shortKills() {
		files = shortFiles
	}
	for i := range files {
		name := fmt.Sprintf("many/d%03d/f%05d", i/100, i)
		content := smallFile(i)
		tree.File(name, content, 0o644)
		sum := sha256.Sum256(content)
		sums = append(sums, hex.EncodeToString(sum[:])+"  "+strings.TrimPrefix(name, "many/"))
	}
	b.sums = strings.Join(sums, "\n") + "\n"
	for i := range files / 1000 {
		tree.Nested(fmt.Sprintf("many/d%03d", i*10))
	}
	tree.File("data/random", b.random, 0o644)
	tree.File("data/busybox", busybox, 0o755)
	liveImage(tree, busybox, manyImage, "busy", "busy")
	_, _, src := newStratum(t).publish(cvmfstest.Options{FQRN: manyFQRN, ChunkSize: 1 << 20}, tree)
	src.Layout = "neurodesk"
	b.mounted = mount(t, setup{Sources: []source{src}, Args: args})
	b.Indexed()
	if b.rootfs, err = filepath.EvalSymlinks(b.Path("apps/busy/1.0/rootfs")); err != nil {
		t.Fatal(err)
	}
	return b
}

// smallFile is the content of file i: some hundred contents in all, so that the
// kernel asks much and the network little.
func smallFile(i int) []byte {
	return []byte(fmt.Sprintf("%d %s", i%200, strings.Repeat("x", i%200*10)))
}

// client runs round again and again until the end; any error fails the test.
func (b *busy) client(name string, round func() error) {
	b.wait.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-b.done:
				if n == 0 {
					b.t.Errorf("%s: no round was finished", name)
				}
				return
			default:
			}
			began := time.Now()
			if err := round(); err != nil {
				b.t.Errorf("%s, round %d: %v", name, n, err)
				return
			}
			b.mu.Lock()
			b.rounds[name]++
			b.worst[name] = max(b.worst[name], time.Since(began))
			b.mu.Unlock()
		}
	})
}

// output runs a program, which must succeed, and compares what it writes.
func output(c *exec.Cmd, want string) error {
	r, err := runCommand(c)
	switch {
	case err != nil:
		return err
	case r.Status != 0:
		return fmt.Errorf("%q: exit status %d, signal %v: %s", c.Args, r.Status, r.Signal, r.Stderr)
	case r.Stdout != want:
		return fmt.Errorf("%q wrote %d bytes, not the %d expected: %.200q; %s", c.Args, len(r.Stdout), len(want), r.Stdout, r.Stderr)
	}
	return nil
}

// clients starts all six.
func (b *busy) clients() {
	many := b.Raw(manyFQRN, "many")
	b.client("sha256sum over all files", func() error {
		c := exec.Command("sh", "-ec", `find d* -type f -name 'f*' -print0 | sort -z | xargs -0 -n 500 sha256sum`)
		c.Dir = many
		return output(c, b.sums)
	})
	program, random := b.Raw(manyFQRN, "data/busybox"), b.Raw(manyFQRN, "data/random")
	sum := sha256.Sum256(b.random)
	b.client("a program from the mount", func() error {
		if err := evict(program); err != nil {
			return err
		}
		return output(exec.Command("sh", "-c", `exec "$0" sha256sum "$1"`, program, random), hex.EncodeToString(sum[:])+"  "+random+"\n")
	})
	b.client("pages of a mapped file", func() error {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), mapFile+"="+random)
		return output(c, hex.EncodeToString(sum[:])+"\n")
	})
	b.client("bwrap", func() error {
		return output(exec.Command("bwrap", "--ro-bind", b.rootfs, "/", "--unshare-all", "/usr/bin/busy", "x"), "busy x\n")
	})
	b.client("apptainer", func() error {
		return output(exec.Command("apptainer", "--silent", "exec", "--cleanenv", "--contain", "--no-home", "--pwd", "/", b.rootfs, "/usr/bin/busy", "x"), "busy x\n")
	})
	b.client("held descriptors", b.holding())
	b.client("uncached stat and read", func() error { return b.uncached(many) })
}

// evict drops a file's pages.
func evict(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
}

// mapFile is the variable that makes this test's program one that maps the file,
// faults every page in and prints its sum. The test itself must not: a page fault
// stops one of the runtime's processors, and the test's server needs them.
const mapFile = "NEURODESKFS_TEST_MAP"

func sumOfMapped(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 1
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) != nil {
		return 1
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 1
	}
	fmt.Printf("%x\n", sha256.Sum256(mem))
	return 0
}

// holding keeps files and a directory stream open across the lives of workers.
func (b *busy) holding() func() error {
	var fds []int
	for i := range 100 {
		fd, err := unix.Open(b.Raw(manyFQRN, fmt.Sprintf("many/d%03d/f%05d", i, i*100)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	cwd := exec.Command("sh", "-c", "while read -r line; do cat f00100 > /dev/null || exit; ls -ld . ../d002 > /dev/null || exit; echo ok; done")
	cwd.Dir = b.Raw(manyFQRN, "many/d001")
	shell := startConversation(b.t, cwd)
	return func() error {
		d, err := os.Open(b.Raw(manyFQRN, "many/d100"))
		if err != nil {
			return err
		}
		defer d.Close()
		var names []string
		for i, fd := range fds {
			if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
				return err
			}
			buf := make([]byte, 32)
			n, err := unix.Pread(fd, buf, 0)
			if want := string(smallFile(i * 100)[:2]); err != nil || !strings.HasPrefix(string(buf[:n]), want) {
				return fmt.Errorf("descriptor %d: %q, %v", i, buf[:n], err)
			}
			if more, err := d.Readdirnames(1); err == nil {
				names = append(names, more...)
			} else if err != io.EOF {
				return fmt.Errorf("directory stream: %w", err)
			}
		}
		if len(names) != 100 {
			return fmt.Errorf("the directory stream has %d names", len(names))
		}
		return shell()
	}
}

// startConversation starts a program that answers each line by "ok".
func startConversation(t *testing.T, c *exec.Cmd) func() error {
	t.Helper()
	r := settle(t, "the shell in the mount", c)
	return func() error {
		if _, err := io.WriteString(r.in, "\n"); err != nil {
			return err
		}
		if line, err := r.out.ReadString('\n'); line != "ok\n" {
			return fmt.Errorf("the shell in the mount says %q, %v", line, err)
		}
		return nil
	}
}

// uncached asks the worker, whatever the kernel has; absent names too.
func (b *busy) uncached(many string) error {
	for i := range 100 {
		path := filepath.Join(many, fmt.Sprintf("d%03d/f%05d", i, i*100+i%100))
		var st unix.Statx_t
		began := time.Now()
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
			return err
		}
		b.mu.Lock()
		b.worst["one stat"] = max(b.worst["one stat"], time.Since(began))
		b.mu.Unlock()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		buf := make([]byte, 8192)
		n, err := unix.Pread(fd, buf, 0)
		unix.Close(fd)
		if want := string(smallFile(i*100 + i%100)); err != nil || n != int(st.Size) || string(buf[:n]) != want {
			return fmt.Errorf("%s: %d bytes of %d, %v", path, n, st.Size, err)
		}
		if err := unix.Access(filepath.Join(many, fmt.Sprint("absent", i)), unix.F_OK); err != unix.ENOENT {
			return fmt.Errorf("an absent name: %v", err)
		}
	}
	return nil
}

// shortKills is for an ordinary user's mount, where all is the same but for who
// mounts, and who may see it.
func shortKills() bool { return os.Geteuid() != 0 && os.Getenv(soakSeconds) == "" }

// kill ends the worker until the time is over, and returns how often.
func (b *busy) kill(t *testing.T) (kills int) {
	seconds := 15
	if shortKills() {
		seconds = 4
	}
	if s := os.Getenv(soakSeconds); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	end := time.After(time.Duration(seconds) * time.Second)
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return kills
		case <-tick.C:
		}
		if len(b.pauses()) < kills {
			continue // the next one does not serve yet
		}
		if pid := workerOf(b.Dir); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
			kills++
		}
	}
}

// workerOf is the process that serves the mount at dir: of the workers, the one
// that has /dev/fuse open. 0: none is there now.
func workerOf(dir string) int {
	for _, pid := range daemonsOf(dir) {
		if p := readProcess(pid); len(p.args) < 2 || p.args[1] != "worker" {
			continue
		}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, l := range links {
			if target, err := os.Readlink(l); err == nil && target == "/dev/fuse" {
				return pid
			}
		}
	}
	return 0
}

// TestMountSurvivesKilledWorkers kills the worker every 200 ms under six clients:
// no call fails, no byte is wrong. Once with FUSE_NOTIFY_RESEND, once as on
// kernels that lack it.
func TestMountSurvivesKilledWorkers(t *testing.T) {
	needApptainer(t)
	serverProgram(t, "bwrap")
	for name, args := range map[string][]string{"resend": nil, "journal": {"--no-resend"}} {
		if name == "journal" && shortKills() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := newBusy(t, args...)
			before := b.Status().Fuse.Total
			b.clients()
			kills := b.kill(t)
			close(b.done)
			b.wait.Wait()
			s := b.Status()
			if s.IOErrors != 0 || s.Worker.Restarts < uint64(kills) || kills < 3 || s.Fuse.Total < before {
				t.Errorf("%d kills, %d take-overs, %d I/O errors, %d requests, %d before", kills, s.Worker.Restarts, s.IOErrors, s.Fuse.Total, before)
			}
			warm, cold := b.pausesOf("true"), b.pausesOf("false")
			t.Logf("%d kills, %d take-overs; %d requests; %d pauses with a standby: p50 %s, p99 %s; %d without: p50 %s, p99 %s; rounds %v; the longest %v",
				kills, s.Worker.Restarts, s.Fuse.Total, len(warm), quantile(warm, 0.5), quantile(warm, 0.99), len(cold), quantile(cold, 0.5), quantile(cold, 0.99), b.rounds, b.worst)
		})
	}
}
