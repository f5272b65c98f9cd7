package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

const alpha = "alpha.golden.test"

// readme reads a file through the mount.
func (m *mounted) readme() {
	m.t.Helper()
	if b, err := os.ReadFile(m.Raw(alpha, "README.txt")); err != nil || len(b) == 0 {
		m.t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestMountReturnsWhenTheTreeAnswers bounds the time, generously.
func TestMountReturnsWhenTheTreeAnswers(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
	m.readme()
	if m.Took > 2*time.Second {
		t.Errorf("mount took %s", m.Took)
	}
	t.Logf("mount took %s", m.Took)
}

// TestMountDaemonHoldsNothingOfItsCaller starts mount with an open descriptor,
// in a directory and a session of its own, all of which the daemon must leave.
func TestMountDaemonHoldsNothingOfItsCaller(t *testing.T) {
	dir := shortDir(t)
	held, err := os.Create(filepath.Join(dir, "held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s, file := setup{Sources: []source{newStratum(t).Golden(alpha)}}.prepare(t)
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	t.Cleanup(m.cleanUp)
	c := mountCommand(t, s, file)
	c.Dir = dir
	for fd := 3; fd < 9; fd++ {
		c.ExtraFiles = append(c.ExtraFiles, held)
	}
	c.ExtraFiles = append(c.ExtraFiles, held) // descriptor 9
	if r := run(t, c); r.Status != 0 {
		t.Fatalf("exit status %d: %s", r.Status, r.Stderr)
	}
	pid := m.daemon()
	proc := "/proc/" + strconv.Itoa(pid)
	links, err := filepath.Glob(proc + "/fd/*")
	if err != nil || len(links) < 4 {
		t.Fatalf("descriptors %v, %v", links, err)
	}
	for _, l := range links {
		target, err := os.Readlink(l)
		if err != nil {
			continue // closed meanwhile
		}
		own := target == program(t) // which further workers run
		// The Go runtime itself watches its cgroup; what workers hand on has no name.
		for _, top := range []string{s.Cache, "/dev/", "/sys/fs/cgroup/", "/memfd:neurodeskfs-"} {
			own = own || strings.HasPrefix(target, top)
		}
		if strings.HasPrefix(target, "/") && !own {
			t.Errorf("descriptor %s is %s", filepath.Base(l), target)
		}
	}
	if cwd, err := os.Readlink(proc + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("it stands in %s, %v", cwd, err)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d, %v; want its own, %d", sid, err, pid)
	}
}

// TestMountUnmountsOnSIGTERM sends the signal to an idle mount and to one in use.
func TestMountUnmountsOnSIGTERM(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
		m.readme()
		if err := syscall.Kill(m.daemon(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		m.gone()
	})
	t.Run("just upgraded", func(t *testing.T) { // to the same version, which could be taken for the one before
		src := newStratum(t).Golden(alpha)
		for range 5 {
			m := mount(t, setup{Sources: []source{src}})
			pid := m.daemon()
			wantRun(t, 0, "upgrade", m.Dir)
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			m.gone()
		}
	})
	t.Run("busy", func(t *testing.T) {
		m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
		f := m.inUse()
		defer f.Close()
		pid := m.daemon()
		for range 3 { // service managers insist
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the mount is gone from its place", func() bool {
				on, err := session.IsMounted(m.Dir)
				return err == nil && !on
			})
		}
		m.leaveLast(f, pid)
	})
	t.Run("umount of a busy one", func(t *testing.T) {
		m := mount(t, setup{Sources: []source{newStratum(t).Golden(alpha)}})
		f := m.inUse()
		defer f.Close()
		pid := m.daemon()
		if r := neurodeskfs(t, "umount", m.Dir); r.Status != 0 || !strings.Contains(r.Stderr, "in use") {
			t.Errorf("umount: exit status %d, %q", r.Status, r.Stderr)
		}
		m.leaveLast(f, pid)
	})
}

// inUse opens a directory of the mount.
func (m *mounted) inUse() *os.File {
	m.t.Helper()
	f, err := os.Open(m.Raw(alpha))
	if err != nil {
		m.t.Fatal(err)
	}
	return f
}

// leaveLast sees that f can be used after its mount has gone from its place,
// and that the daemon ends when it is closed.
func (m *mounted) leaveLast(f *os.File, pid int) {
	m.t.Helper()
	eventually(m.t, "the mount is gone from its place", func() bool {
		on, err := session.IsMounted(m.Dir)
		return err == nil && !on
	})
	fd, err := unix.Openat(int(f.Fd()), "README.txt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		m.t.Errorf("who uses the mount is cut off: %v", err)
	} else {
		b := make([]byte, 16)
		if n, err := unix.Read(fd, b); err != nil || n == 0 {
			m.t.Errorf("%d bytes, %v", n, err)
		}
		unix.Close(fd)
	}
	if got := daemonsOf(m.Dir); !slices.Contains(got, pid) {
		m.t.Errorf("daemons %v, want %d", got, pid)
	}
	f.Close()
	m.gone()
}

// TestMountOneBadSourceOfSeveral mounts; status tells what is wrong.
func TestMountOneBadSourceOfSeveral(t *testing.T) {
	s := newStratum(t)
	good, bad := s.Golden(alpha), s.Golden("beta.golden.test", goldenCase(t, "beta.golden.test", "whitelist-expired"))
	m := mount(t, setup{Sources: []source{bad, good}})
	m.readme()
	st := m.Status()
	if len(st.Sources) != 2 || st.Sources[1].Error != "" || !strings.Contains(st.Sources[0].Error, "expired") {
		t.Errorf("sources %+v", st.Sources)
	}
	if r := neurodeskfs(t, "status", m.Dir); r.Status != 0 || !strings.Contains(r.Stdout, "expired") {
		t.Errorf("status: %d, %s", r.Status, r.Stdout)
	}
	if _, err := os.ReadDir(m.Raw("beta.golden.test")); !os.IsNotExist(err) {
		t.Errorf("the bad source's directory: %v", err)
	}
}

// TestMountSecondDaemonOnOneCache is refused and told who has it.
func TestMountSecondDaemonOnOneCache(t *testing.T) {
	src := newStratum(t).Golden(alpha)
	m := mount(t, setup{Sources: []source{src}})
	r := refused(t, setup{Sources: []source{src}, Cache: m.Cache})
	const busy = 5
	if pid := strconv.Itoa(m.Status().Worker.PID); r.Status != busy || !strings.Contains(r.Stderr, pid) {
		t.Errorf("exit status %d, want %d; the reason must name process %s: %s", r.Status, busy, pid, r.Stderr)
	}
	again := refusedAt(t, setup{Sources: []source{src}, Dir: m.Dir})
	if again.Status != busy || !strings.Contains(again.Stderr, m.Dir) {
		t.Errorf("a second mount at one place: exit status %d: %s", again.Status, again.Stderr)
	}
	m.readme()
}

// refusedAt is refused for a place where something is mounted already.
func refusedAt(t *testing.T, s setup) result {
	t.Helper()
	s, file := s.prepare(t)
	r := run(t, mountCommand(t, s, file))
	if lines := strings.Count(r.Stderr, "\n"); r.Status == 0 || lines != 1 {
		t.Errorf("exit status %d, %d lines: %s", r.Status, lines, r.Stderr)
	}
	if got := daemonsOf(s.Dir); len(got) > 3 {
		t.Errorf("daemons %v", got)
	}
	return r
}

// TestMountBadPlaces are refused with the reason.
func TestMountBadPlaces(t *testing.T) {
	src := newStratum(t).Golden(alpha)
	top := shortDir(t)
	makeDir := func(parts ...string) string {
		dir := filepath.Join(append([]string{top}, parts...)...)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	link := filepath.Join(top, "link")
	if err := os.Symlink(makeDir("linked"), link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		dir, cache string
		words      []string
	}{
		"over its cache":             {makeDir("one"), filepath.Join(top, "one"), []string{"cache", "mount point"}},
		"cache below the mount":      {makeDir("two"), filepath.Join(top, "two/deep/cache"), []string{"cache", "outside"}},
		"cache below, by a link":     {filepath.Join(top, "linked"), filepath.Join(link, "cache"), []string{"cache", "outside"}},
		"mount in the cache":         {makeDir("three/objects/m"), filepath.Join(top, "three"), []string{"cache", "elsewhere"}},
		"blank in the mount point":   {makeDir("a b"), "", []string{"blank", "#!"}},
		"too long a path":            {makeDir(strings.Repeat("long/", 50)), "", []string{"too long", "#!"}},
		"mount point does not exist": {filepath.Join(top, "none"), "", []string{"does not exist", "mkdir"}},
		"mount point is a file":      {file, "", []string{"not a directory"}},
	} {
		t.Run(what, func(t *testing.T) {
			r := refused(t, setup{Sources: []source{src}, Dir: c.dir, Cache: c.cache})
			t.Logf("%d: %s", r.Status, r.Stderr)
			for _, w := range c.words {
				if !strings.Contains(r.Stderr, w) {
					t.Errorf("the reason does not say %q: %s", w, r.Stderr)
				}
			}
			if c.cache != "" && exists(filepath.Join(c.cache, "index.db")) {
				t.Error("a cache was made all the same")
			}
		})
	}
}

// TestMountAgainAfterTheDaemonWasKilled mounts over what kill -9 left, with the
// same cache.
func TestMountAgainAfterTheDaemonWasKilled(t *testing.T) {
	s := newStratum(t)
	set := setup{Sources: []source{s.Golden(alpha)}, Cache: filepath.Join(shortDir(t), "c"), Dir: shortDir(t)}
	m := mount(t, set)
	m.readme()
	pid := m.daemon()
	if _, err := os.Stat(m.Dir); err != nil { // the kernel keeps these attributes
		t.Fatal(err)
	}
	m.killAll()
	if r := neurodeskfs(t, "status", m.Dir); r.Status != 3 || !strings.Contains(r.Stderr, "gone") {
		t.Errorf("status of a dead mount: %d, %s", r.Status, r.Stderr)
	}
	second := mount(t, set)
	second.readme()
	if second.daemon() == pid {
		t.Error("the daemon is the old one")
	}
	mounts, err := session.FindMounts()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range mounts {
		if m.Mountpoint == set.Dir {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts at the place", n)
	}
	s.Reset()
	second.readme()
	if n := s.Count(cvmfstest.Path("data/")); n != 0 {
		t.Errorf("%d objects that were cached are fetched again", n)
	}
}

// TestMountOffline restarts without any server.
func TestMountOffline(t *testing.T) {
	s := newStratum(t)
	set := setup{Sources: []source{s.Golden(alpha)}, Cache: filepath.Join(shortDir(t), "c")}
	m := mount(t, set)
	m.readme()
	if m.Status().Sources[0].Offline {
		t.Error("offline with a server")
	}
	m.Unmount()
	s.Close()
	second := mount(t, set)
	second.readme()
	if got := second.Status().Sources[0]; !got.Offline || got.Revision != 4 {
		t.Errorf("status %+v", got)
	}
	if r := neurodeskfs(t, "status", second.Dir); !strings.Contains(r.Stdout, "offline") {
		t.Errorf("status does not say that it is offline: %s", r.Stdout)
	}
	// What was never read is not there.
	if _, err := os.ReadFile(second.Raw(alpha, "hard/one")); err == nil {
		t.Error("a file that is nowhere can be read")
	}
}

// TestMountStaysAtTheNewestRevision meets a server that lags behind.
func TestMountStaysAtTheNewestRevision(t *testing.T) {
	s := newStratum(t)
	set := setup{Sources: []source{s.Golden(alpha)}, Cache: filepath.Join(shortDir(t), "c")}
	for i, want := range []uint64{3, 4, 4, 4} {
		layer := []int{2, 3, 2, 1}[i]
		s.Golden(alpha, goldenRevision(t, alpha, layer))
		m := mount(t, set)
		m.readme()
		if got := m.Status().Sources[0]; got.Revision != want {
			t.Errorf("served golden-rev%d: revision %d, want %d", layer, got.Revision, want)
		}
		m.Unmount()
	}
}

// TestMountTwiceSideBySide runs two daemons with caches of their own.
func TestMountTwiceSideBySide(t *testing.T) {
	src := newStratum(t).Golden(alpha)
	one, two := mount(t, setup{Sources: []source{src}}), mount(t, setup{Sources: []source{src}})
	one.readme()
	two.readme()
	if one.daemon() == two.daemon() {
		t.Error("one daemon serves both")
	}
	one.Unmount()
	two.readme()
	if r := run(t, exec.Command(program(t), "status", one.Dir)); r.Status != 3 {
		t.Errorf("status without a mount: %s", fmt.Sprint(r))
	}
}

// TestMountWithoutAServer fails in time when nothing answers, by itself or
// without an end.
func TestMountWithoutAServer(t *testing.T) {
	for what, prepare := range map[string]func(*stratum){
		"nobody listens": func(s *stratum) { s.Close() },
		"no answer":      func(s *stratum) { s.Inject(cvmfstest.All, 0, cvmfstest.Hang(nil)) },
		"a login page":   func(s *stratum) { s.Inject(cvmfstest.All, 0, cvmfstest.Portal()) },
		"server error":   func(s *stratum) { s.Inject(cvmfstest.All, 0, cvmfstest.Status(503)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStratum(t)
			src := s.Golden(alpha)
			prepare(s)
			r := refused(t, setup{Sources: []source{src}})
			t.Logf("%s: %s", r.Took, r.Stderr)
			if r.Status != 4 || !strings.Contains(r.Stderr, alpha) || !strings.Contains(r.Stderr, s.Addr()) {
				t.Errorf("exit status %d; the reason must name the repository and the server: %s", r.Status, r.Stderr)
			}
		})
	}
}
