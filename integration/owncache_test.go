package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAnothersCacheIsRefused needs root, to be two other users. Who takes the name
// of a cache in a place that all may write to, or puts something into one that is
// open to the group, does not choose what a mount or a job runs.
func TestAnothersCacheIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const attacker, victim = 65533, 65532
	_, config := setup{Sources: []source{newStratum(t).Golden(alpha)}}.prepare(t)
	make := func(name string, uid, below int, mode os.FileMode) string {
		dir := filepath.Join(shortDir(t), name)
		err := os.MkdirAll(filepath.Join(dir, "objects"), 0o777)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "VERSION"), []byte("1\n"), 0o666)
		}
		for path, uid := range map[string]int{dir: uid, filepath.Join(dir, "objects"): below, filepath.Join(dir, "VERSION"): uid} {
			if err == nil {
				err = os.Chown(path, uid, uid)
			}
			if err == nil {
				err = os.Chmod(path, mode)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, dir := range []string{make("taken", attacker, attacker, 0o777), make("planted", victim, attacker, 0o775)} {
		for command, status := range map[string]int{"mount": 1, "mount --foreground": 1, "run": 125} {
			m := shortDir(t)
			if err := os.Chown(m, victim, victim); err != nil {
				t.Fatal(err)
			}
			args := append(strings.Split(command, " "), "--config", config, "--cache", dir, "--", m)
			c := exec.Command("setpriv", append([]string{"--reuid=65532", "--regid=65532", "--clear-groups", program(t)}, args...)...)
			r := run(t, c)
			if r.Status != status || !strings.Contains(r.Stderr, "another user (uid 65533)") || strings.Count(r.Stderr, "\n") != 1 {
				t.Errorf("%s with a cache that is %s: exit status %d, %q", command, filepath.Base(dir), r.Status, r.Stderr)
			}
			if exists(filepath.Join(dir, "neurodeskfs.log")) || exists(filepath.Join(dir, "lock")) {
				t.Errorf("%s wrote into it", command)
			}
		}
	}
	own := make("own", victim, victim, 0o777)
	r := run(t, exec.Command("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", program(t), "run", "--config", config, "--cache", own, "--", "true"))
	if r.Status != 0 {
		t.Errorf("its owner's job: exit status %d, %q", r.Status, r.Stderr)
	}
	if info, err := os.Stat(own); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("others may still write to it: %v, %v", info.Mode(), err)
	}
	rootsCaches(t, config, map[string]string{
		make("taken", attacker, attacker, 0o755): "another user (uid 65533)", make("planted", 0, attacker, 0o755): "another user (uid 65533)", make("open", 0, 0, 0o777): "(mode 777)",
	})
}

// rootsCaches: root, who would give the cache to its daemon's user and let
// everybody run what is in it, takes none that somebody else could have filled.
func rootsCaches(t *testing.T, config string, refused map[string]string) {
	for dir, why := range refused {
		for command, status := range map[string]int{"mount": 1, "mount --foreground": 1, "run": 125} {
			args := append(strings.Split(command, " "), "--config", config, "--cache", dir, "--", shortDir(t))
			before, _ := os.Stat(dir)
			r := run(t, exec.Command(program(t), args...))
			if r.Status != status || !strings.Contains(r.Stderr, why) || strings.Count(r.Stderr, "\n") != 1 {
				t.Errorf("root's %s with a cache that is %s: exit status %d, %q", command, filepath.Base(dir), r.Status, r.Stderr)
			}
			after, err := os.Stat(dir)
			if err != nil || exists(filepath.Join(dir, "neurodeskfs.log")) || exists(filepath.Join(dir, "lock")) || after.Sys().(*syscall.Stat_t).Uid != before.Sys().(*syscall.Stat_t).Uid {
				t.Errorf("root's %s made it its own", command)
			}
		}
	}
}
