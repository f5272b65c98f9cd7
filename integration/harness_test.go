package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// commandPatience bounds every program that a test runs.
const commandPatience = 90 * time.Second

// source is a [[source]] of a configuration; empty keys are left out.
type source struct {
	Kind        string // default cvmfs
	At, FQRN    string
	Servers     []string
	Proxies     string
	Keys        string
	Layout      string
	Path, Name  string
	Tag, Date   string
	RootHash    string
	Revision    uint64
	ExternalURL string
	Refresh     string
	Blacklist   string
	Timeout     string // by proxy and direct
	URL, Index  string // kind http
	CABundle    string
}

// setup says what to mount, where and how. Only Sources must be set.
type setup struct {
	Sources []source
	User    string // whom root's worker becomes
	CVMFSAt string
	Site    string // cvmfs_config
	Verify  string // the text of [verify_sif]
	Quota   string
	Shared  []string // cache.shared
	Mount   string   // the text of [mount]
	Apps    string   // tables [app."NAME"]
	Cache   string   // default: a new directory
	Dir     string   // mount point; default: a new directory
	Env     []string // besides the test's own
	Args    []string // further arguments of mount
}

// config is the text of the configuration file.
func (s setup) config() string {
	var b strings.Builder
	text := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %q\n", key, value)
		}
	}
	text("user", s.User)
	text("cvmfs_at", s.CVMFSAt)
	text("cvmfs_config", s.Site)
	fmt.Fprintf(&b, "[cache]\ndir = %q\n", s.Cache)
	text("quota", s.Quota)
	if len(s.Shared) > 0 {
		fmt.Fprintf(&b, "shared = [\"%s\"]\n", strings.Join(s.Shared, `", "`))
	}
	if s.Mount != "" {
		fmt.Fprintf(&b, "[mount]\n%s", s.Mount)
	}
	if s.Verify != "" {
		fmt.Fprintf(&b, "[verify_sif]\n%s", s.Verify)
	}
	b.WriteString(s.Apps)
	for _, src := range s.Sources {
		fmt.Fprintf(&b, "[[source]]\n")
		text("kind", cmp.Or(src.Kind, "cvmfs"))
		text("at", src.At)
		text("url", src.URL)
		text("index", src.Index)
		text("name", src.Name)
		text("fqrn", src.FQRN)
		text("proxies", src.Proxies)
		text("layout", src.Layout)
		text("path", src.Path)
		text("tag", src.Tag)
		text("root_hash", src.RootHash)
		text("date", src.Date)
		text("blacklist", src.Blacklist)
		text("external_url", src.ExternalURL)
		text("refresh", src.Refresh)
		text("timeout", src.Timeout)
		text("ca_bundle", src.CABundle)
		text("timeout_direct", src.Timeout)
		if src.Revision != 0 {
			fmt.Fprintf(&b, "revision = %d\n", src.Revision)
		}
		var servers []string
		for _, url := range src.Servers {
			servers = append(servers, fmt.Sprintf("%q", url))
		}
		if src.Kind != "" {
			continue // it has no servers
		}
		fmt.Fprintf(&b, "servers = [%s]\n", strings.Join(servers, ", "))
		fmt.Fprintf(&b, "public_keys = [%q]\n", src.Keys)
	}
	return b.String()
}

// prepare makes what setup leaves open, and the configuration file.
func (s setup) prepare(t testing.TB) (setup, string) {
	t.Helper()
	if s.Cache == "" {
		s.Cache = filepath.Join(shortDir(t), "c")
	}
	if s.Dir == "" {
		s.Dir = shortDir(t)
	}
	file := filepath.Join(shortDir(t), "config.toml")
	if err := os.WriteFile(file, []byte(s.config()), 0o644); err != nil {
		t.Fatal(err)
	}
	return s, file
}

// shortDir is a new directory with a short name, removed when the test ends.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(runDir, "")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		noRaces(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return dir
}

// result is how a program ended.
type result struct {
	Stdout, Stderr string
	Status         int // exit status, -1 after a signal
	Signal         syscall.Signal
	Took           time.Duration
}

// run runs a program to its end, in its own time limit, stdin being /dev/null
// unless it is set.
func run(t testing.TB, c *exec.Cmd) result {
	t.Helper()
	r, err := runCommand(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runCommand is run for goroutines, which may not end a test.
func runCommand(c *exec.Cmd) (result, error) {
	var out, diag bytes.Buffer
	c.Stdout, c.Stderr = &out, &diag
	c.WaitDelay = time.Second
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	started := time.Now()
	if err := c.Start(); err != nil {
		return result{}, err
	}
	defer context.AfterFunc(ctx, func() { c.Process.Kill() })()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return result{}, err
	}
	if ctx.Err() != nil {
		return result{}, fmt.Errorf("%q did not end within %s; stderr: %s", c.Args, commandPatience, diag.String())
	}
	if strings.Contains(diag.String(), raceReport) {
		return result{}, fmt.Errorf("%q has a race: %s", c.Args, diag.String())
	}
	r := result{Stdout: out.String(), Stderr: diag.String(), Status: c.ProcessState.ExitCode(), Took: time.Since(started)}
	if ws := c.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.Signal = ws.Signal()
	}
	return r, nil
}

// neurodeskfs runs the program under test.
func neurodeskfs(t testing.TB, args ...string) result {
	t.Helper()
	return run(t, exec.Command(program(t), args...))
}

// mountCommand is the command that mounts as s says.
func mountCommand(t testing.TB, s setup, configFile string) *exec.Cmd {
	t.Helper()
	args := append([]string{"mount", "--config", configFile}, s.Args...)
	c := exec.Command(program(t), append(args, s.Dir)...)
	c.Env = append(os.Environ(), s.Env...)
	return c
}

// mounted is a mount that a test made.
type mounted struct {
	Dir, Cache, Config string
	Took               time.Duration // how long mount ran
	t                  testing.TB
}

// mount mounts, and takes the mount away when the test ends, with all checks
// that nothing of it is left.
func mount(t testing.TB, s setup) *mounted {
	t.Helper()
	s, file := s.prepare(t)
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	t.Cleanup(m.cleanUp)
	r := run(t, mountCommand(t, s, file))
	if r.Status != 0 || r.Stdout+r.Stderr != "" {
		t.Fatalf("mount: exit status %d, stdout %q, stderr %q", r.Status, r.Stdout, r.Stderr)
	}
	m.Took = r.Took
	return m
}

// refused tries to mount and fails the test unless it is refused, within 20 s,
// with one line of reason, and nothing is left of the try.
func refused(t testing.TB, s setup) result {
	t.Helper()
	s, file := s.prepare(t)
	r := run(t, mountCommand(t, s, file))
	if on, err := session.IsMounted(s.Dir); err != nil && !errors.Is(err, os.ErrNotExist) || on {
		t.Errorf("something is mounted: %v, %v", on, err)
		neurodeskfs(t, "umount", s.Dir)
	}
	if left := daemonsOf(s.Dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if r.Status == 0 || r.Took > 20*time.Second || r.Stdout != "" {
		t.Errorf("exit status %d after %s, stdout %q", r.Status, r.Took, r.Stdout)
	}
	line, rest, _ := strings.Cut(r.Stderr, "\n")
	if !strings.HasPrefix(line, "neurodeskfs: ") || rest != "" {
		t.Errorf("stderr is not one line of reason: %q", r.Stderr)
	}
	return r
}

// Unmount unmounts and waits until the daemon has ended. A mount in use goes
// lazily: then only the former.
func (m *mounted) Unmount() {
	m.t.Helper()
	if r := neurodeskfs(m.t, "umount", m.Dir); r.Status != 0 {
		m.t.Errorf("umount: exit status %d: %s", r.Status, r.Stderr)
	}
}

// cleanUp ends what is left of a mount and checks that it went as it should.
func (m *mounted) cleanUp() {
	if on, _ := session.IsMounted(m.Dir); on {
		m.Unmount()
	}
	if !poll(10*time.Second, func() bool { return len(daemonsOf(m.Dir)) == 0 }) {
		for _, pid := range daemonsOf(m.Dir) {
			m.t.Errorf("daemon %d has not ended", pid)
			syscall.Kill(pid, syscall.SIGQUIT) // its log, below, then says what it waits for
			poll(5*time.Second, func() bool { return !slices.Contains(daemonsOf(m.Dir), pid) })
		}
		m.killAll()
	}
	if on, err := session.IsMounted(m.Dir); err != nil || on {
		m.t.Errorf("still mounted: %v, %v", on, err)
	}
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) > 0 {
		m.t.Errorf("the mount point is not empty: %v, %v", entries, err)
	}
	for _, pattern := range []string{"tmp/*", "nodes-*"} {
		if left, _ := filepath.Glob(filepath.Join(m.Cache, pattern)); len(left) > 0 {
			m.t.Errorf("left in the cache: %v", left)
		}
	}
	if m.t.Failed() {
		m.t.Logf("log of the daemon:\n%s", m.Log())
	}
}

// Path is a path in the mount.
func (m *mounted) Path(parts ...string) string {
	return filepath.Join(append([]string{m.Dir}, parts...)...)
}

// Raw is a path in the raw view of a repository.
func (m *mounted) Raw(fqrn string, parts ...string) string {
	return m.Path(append([]string{"cvmfs", fqrn}, parts...)...)
}

// Run runs a program with the mount's commands in PATH.
func (m *mounted) Run(name string, args ...string) result {
	m.t.Helper()
	return run(m.t, m.Command(name, args...))
}

// Command is a program with the mount's commands in PATH; a plain name is looked
// up in M/bin first.
func (m *mounted) Command(name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		if _, err := os.Lstat(m.Path("bin", name)); err == nil {
			name = m.Path("bin", name)
		}
	}
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "PATH="+m.Path("bin")+":"+os.Getenv("PATH"), "NEURODESK_MOUNT="+m.Dir)
	return c
}

// Log is what the daemon wrote.
func (m *mounted) Log() string {
	b, err := os.ReadFile(filepath.Join(m.Cache, "neurodeskfs.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
