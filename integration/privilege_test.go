package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	account "os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestConfine: what root's daemon is started through leaves nothing of root's
// rights, and lets nothing be written but in the one folder.
func TestConfine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	inside, outside := shortDir(t), shortDir(t)
	for _, dir := range []string{inside, outside} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	everybodys := filepath.Join(outside, "everybodys")
	for file, mode := range map[string]os.FileMode{filepath.Join(outside, "secret"): 0o600, everybodys: 0o666} {
		err := os.WriteFile(file, []byte("secret"), mode)
		if err == nil {
			err = os.Chmod(file, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const script = `grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status
mkdir "$1/a" "$1/b" && echo x >"$1/a/x" && mv "$1/a/x" "$1/b/" && echo written; echo >/dev/null && echo null
cat "$2/secret" && echo read; touch "$2/x" && echo escaped; echo bad >"$2/secret" && echo touched; kill -0 1 && echo signalled
for way in 'truncate($ARGV[0], 0)' 'sysopen(F, $ARGV[0], 512)'; do # O_RDONLY|O_TRUNC
	perl -e "$way && print qq(cut\n)" "$2/everybodys"
	echo content >"$1/b/y" && perl -e "$way && print qq(shortened\n)" "$1/b/y"
done`
	for name, args := range map[string][]string{
		"root":           {"--as", "65534:65534"},
		"root of a user": {}, // in a namespace of its own it is the only user there is
	} {
		t.Run(name, func(t *testing.T) {
			command := append([]string{program(t), "confine", "--write", inside}, args...)
			if len(args) == 0 {
				command = append([]string{"unshare", "--user", "--map-root-user", "--mount"}, command...)
			}
			command = append(command, "--", "/bin/sh", "-c", script, "sh", inside, outside)
			r := run(t, exec.Command(command[0], command[1:]...))
			t.Cleanup(func() { os.RemoveAll(filepath.Join(inside, "a")); os.RemoveAll(filepath.Join(inside, "b")) })
			got := strings.Join(strings.Fields(r.Stdout), " ")
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if !strings.Contains(got, set+": 0000000000000000") {
					t.Errorf("%s is not empty: %s", set, got)
				}
			}
			if !strings.Contains(got, "NoNewPrivs: 1") || !strings.Contains(got, "written null") || strings.Contains(got, "escaped") || strings.Contains(got, "touched") ||
				strings.Contains(got, "cut") || !strings.Contains(got, "shortened shortened") {
				t.Errorf("%s %s", got, r.Stderr)
			}
			if b, err := os.ReadFile(everybodys); err != nil || string(b) != "secret" {
				t.Errorf("a file outside is now %q, %v", b, err)
			}
			if len(args) > 0 && (!strings.Contains(got, "Uid: 65534 65534 65534 65534") || strings.Contains(got, "secret") || strings.Contains(got, "signalled")) {
				t.Errorf("%s %s", got, r.Stderr)
			}
			for _, dir := range []string{"a", "b"} {
				os.RemoveAll(filepath.Join(inside, dir))
			}
		})
	}
	if r := neurodeskfs(t, "confine", "--as", "root", "--", "/bin/true"); r.Status != 2 {
		t.Errorf("exit status %d, %s", r.Status, r.Stderr)
	}
}

// rights are the lines of /proc/PID/status about what a process may do.
func rights(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		lines[key] = strings.Join(strings.Fields(value), " ")
	}
	return lines
}

// powerless fails the test unless the process is the user's and can do nothing
// besides.
func powerless(t *testing.T, what string, pid int, u *account.User) {
	t.Helper()
	got := rights(t, pid)
	none := "0000000000000000"
	for key, want := range map[string]string{
		"Uid": strings.TrimSpace(strings.Repeat(u.Uid+" ", 4)), "Gid": strings.TrimSpace(strings.Repeat(u.Gid+" ", 4)), "Groups": "",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1",
	} {
		if got[key] != want {
			t.Errorf("%s, process %d: %s is %q, want %q", what, pid, key, got[key], want)
		}
	}
}

// TestRootsWorkerHasNoRights: root's mount is served by a user without rights,
// from the cache that an earlier version left as root, by the configuration that
// root alone can read; so are take-over, upgrade, reload and the cache commands.
func TestRootsWorkerHasNoRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	nobody, err := account.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	s := newStratum(t)
	setup := setup{Sources: []source{s.Golden(alpha)}, User: "root", Cache: filepath.Join(shortDir(t), "made", "c")}
	m := mount(t, setup)
	content, err := os.ReadFile(m.Raw(alpha, "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	worker := m.Status().Worker.PID
	powerless(t, "root without capabilities", worker, &account.User{Uid: "0", Gid: "0"})
	m.Unmount()
	if err := os.Chmod(filepath.Dir(setup.Cache), 0o700); err != nil { // as earlier versions made it
		t.Fatal(err)
	}

	setup.User = "nobody"
	setup, config := setup.prepare(t)
	for path, mode := range map[string]os.FileMode{config: 0o600, filepath.Dir(config): 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	m = &mounted{Dir: setup.Dir, Cache: setup.Cache, Config: config, t: t}
	t.Cleanup(m.cleanUp)
	if r := run(t, mountCommand(t, setup, config)); r.Status != 0 || r.Stderr != "" {
		t.Fatalf("%+v", r)
	}
	reads := func() {
		t.Helper()
		if b, err := os.ReadFile(m.Raw(alpha, "README.txt")); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if st := m.Status(); st.Cache.Degraded || st.IOErrors != 0 {
			t.Errorf("%+v, %d I/O errors", st.Cache, st.IOErrors)
		}
		// After a take-over the cache's index is read when the mount is served.
		eventually(t, "the cache has objects", func() bool { return m.Status().Cache.Objects > 0 })
	}
	reads()
	worker = m.Status().Worker.PID
	powerless(t, "worker", worker, nobody)
	eventually(t, "a standby is there", func() bool { return m.Status().Worker.Standby != 0 })
	powerless(t, "standby", m.Status().Worker.Standby, nobody)
	if got := rights(t, m.Status().PID); !strings.HasPrefix(got["Uid"], "0 ") {
		t.Errorf("the supervisor is %s: nobody could unmount", got["Uid"])
	}

	syscall.Kill(worker, syscall.SIGKILL)
	eventually(t, "another worker serves", func() bool { return m.Status().Worker.PID != worker })
	powerless(t, "after a take-over", m.Status().Worker.PID, nobody)
	reads()
	path := filepath.Join(t.TempDir(), "neurodeskfs")
	nextVersion(t, path)
	if r := run(t, exec.Command(path, "upgrade", m.Dir)); r.Status != 0 {
		t.Fatalf("upgrade: %+v", r)
	}
	powerless(t, "after an upgrade", m.Status().Worker.PID, nobody)
	reads()
	wantRun(t, 0, "reload", m.Dir)
	wantRun(t, 0, "cache", "verify", "--mount", m.Dir)
	m.Unmount()
	wantRun(t, 0, "cache", "verify", "--cache", m.Cache) // root does it as nobody
	ownedBy(t, m.Cache, nobody)
}

// TestRootOfAContainer: root that lacks what becoming another user takes, as in
// containers with few capabilities, has its mount served by itself without any.
func TestRootOfAContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's worker is that user")
	}
	src := newStratum(t).Golden(alpha)
	for _, lacking := range []string{"-chown", "-setuid,-setgid,-setpcap"} {
		s, config := setup{Sources: []source{src}}.prepare(t)
		m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: config, t: t}
		t.Cleanup(m.cleanUp)
		c := mountCommand(t, s, config)
		if r := run(t, exec.Command("setpriv", append([]string{"--bounding-set=" + lacking}, c.Args...)...)); r.Status != 0 || r.Stderr != "" {
			t.Fatalf("%s: %+v", lacking, r)
		}
		m.readme()
		st := m.Status()
		got := rights(t, st.Worker.PID)
		if st.Worker.User != "root" || st.Cache.Degraded || got["CapEff"] != "0000000000000000" || got["CapPrm"] != got["CapEff"] || got["NoNewPrivs"] != "1" {
			t.Errorf("%s: %+v, %+v, %v", lacking, st.Worker, st.Cache, got)
		}
	}
}

// ownedBy fails the test unless all in a directory is the user's.
func ownedBy(t *testing.T, dir string, u *account.User) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &st)
		}
		if fmt.Sprint(st.Uid) != u.Uid {
			t.Errorf("%s belongs to %d", path, st.Uid)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRootsJobsAndMountsInTurn: root's jobs are served as root's mounts are, in
// turn from the same cache.
func TestRootsJobsAndMountsInTurn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's worker is that user")
	}
	s, config := jobSite(t)
	s.User = "nobody"
	nobody, err := account.Lookup(s.User)
	if err == nil {
		err = os.WriteFile(config, []byte(s.config()), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: config, t: t}
	t.Cleanup(m.cleanUp)
	for range 2 {
		if r := run(t, mountCommand(t, s, config)); r.Status != 0 {
			t.Fatalf("%+v", r)
		}
		powerless(t, "worker", m.Status().Worker.PID, nobody)
		readAll(t, m)
		if st := m.Status(); st.Cache.Degraded || st.IOErrors != 0 {
			t.Errorf("%+v, %d I/O errors", st.Cache, st.IOErrors)
		}
		m.Unmount()
		ownedBy(t, m.Cache, nobody)
		const job = "cat */*/README.md >/dev/null; ls -R ../modules >/dev/null; cat ../.neurodeskfs/status.json"
		r := wantRun(t, 0, "run", "--config", config, s.Dir, "--", "sh", "-ec", "cd "+s.Dir+"/apps; "+job)
		var st status
		if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil || st.Worker.User != s.User || st.Cache.Degraded || st.IOErrors != 0 {
			t.Errorf("%+v, %v", st, err)
		}
		ownedBy(t, m.Cache, nobody)
	}
}

// readAll reads what each app says of itself.
func readAll(t *testing.T, m *mounted) {
	t.Helper()
	files, err := filepath.Glob(m.Path("apps/*/*/README.md"))
	if err != nil || len(files) == 0 {
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", f, len(b), err)
		}
	}
}

// TestRootsWorkerIsRefused: what the worker's user may not read is named in one
// line, when it is mounted and in status; what else there is is served.
func TestRootsWorkerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's worker is that user")
	}
	closed := shortDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(closed, "images")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	says := func(text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), part) { // tables are broken to 80 columns
				t.Errorf("%q lacks %q", text, part)
			}
		}
	}
	private := []string{"--allow-other=false"}
	folder := source{Kind: "dir", Path: inside}
	says(refused(t, setup{Sources: []source{folder}, User: "nobody"}).Stderr, "chmod o+rx "+closed)
	says(refused(t, setup{Sources: []source{folder}, Args: private, User: "nobody"}).Stderr, inside, "permission denied", "serves as the user nobody", "user =")
	says(refused(t, setup{Sources: []source{folder}, User: "no-such-user"}).Stderr, "no-such-user", "user =")
	good := newStratum(t).Golden(alpha)
	locked := good
	locked.Keys = filepath.Join(closed, "key.pub")
	key, err := os.ReadFile(good.Keys)
	if err == nil {
		err = os.WriteFile(locked.Keys, key, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	says(refused(t, setup{Sources: []source{locked}, User: "nobody"}).Stderr, locked.Keys, "permission denied", "serves as the user nobody")
	unreachable := filepath.Join(closed, "cache")
	says(refused(t, setup{Sources: []source{good}, Cache: unreachable, User: "nobody"}).Stderr, unreachable, "permission denied", "serves as the user nobody")

	m := mount(t, setup{Sources: []source{good, folder}, Args: private, User: "nobody"})
	m.readme()
	says(m.Status().Sources[1].Error, inside, "permission denied", "serves as the user nobody")
	says(wantRun(t, 0, "status", m.Dir).Stdout, "permission denied")
	mount(t, setup{Sources: []source{folder}, Args: private, User: "root"})

	// Who names no user gets the mount all the same, by root without capabilities.
	for _, set := range []setup{{Sources: []source{good, folder}, Args: private}, {Sources: []source{locked}}, {Sources: []source{good}, Cache: unreachable}} {
		m := mount(t, set)
		if _, err := os.ReadFile(m.Raw(alpha, "README.txt")); err != nil {
			t.Error(err)
		}
		st := m.Status()
		powerless(t, "root's worker", st.Worker.PID, &account.User{Uid: "0", Gid: "0"})
		if st.Worker.User != "root" || st.Cache.Degraded {
			t.Errorf("%+v, %+v", st.Worker, st.Cache)
		}
		says(m.Log(), "root without capabilities", "user =")
	}
}

// TestCacheIsTheOwnersAlone: no file of a cache can be written, nor the objects
// read, by others, and nothing that make install installs runs setuid.
func TestCacheIsTheOwnersAlone(t *testing.T) {
	src, check := limitedFiles(t, 40)
	m := mount(t, setup{Sources: []source{src}})
	check(m)
	n := 0
	err := filepath.WalkDir(m.Cache, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&os.ModeSymlink == 0 && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", p, info.Mode())
		}
		n++
		return err
	})
	if err != nil || n < 40 {
		t.Errorf("%d files, %v", n, err)
	}
	if info, err := os.Stat(program(t)); err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if script, err := os.ReadFile(filepath.Join(sourceRoot(t), "Makefile")); err != nil || strings.Contains(string(script), "setcap") || strings.Contains(string(script), "4755") {
		t.Errorf("make install gives rights: %v", err)
	}
}
