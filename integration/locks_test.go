package integration

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// lockSite is a mount of a repository that has two versions of an app, and two directories that are locked to one each.
type lockSite struct {
	*mounted
	t        *testing.T
	src      source
	repo     *cvmfstest.Repository
	tree     *cvmfstest.Tree
	busybox  []byte
	one, two string // directories
}

const lockFQRN = "locks.example.org"

func newLockSite(t *testing.T) *lockSite {
	t.Helper()
	requireTools(t, "apptainer", "bwrap", "busybox")
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	s := &lockSite{t: t, tree: cvmfstest.NewTree(), one: shortDir(t), two: shortDir(t)}
	if s.busybox, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	liveImage(s.tree, s.busybox, "bundle_1.0_20260101", "bundle-1.0", "tool", "alone")
	liveImage(s.tree, s.busybox, "bundle_2.0_20260201", "bundle-2.0", "tool", "alone", "extra")
	liveImage(s.tree, s.busybox, "tool_0.1_20250101", "tool-0.1", "tool") // the namesake owns it
	liveImage(s.tree, s.busybox, "other_1.0_20260101", "other-1.0", "otherc")
	s.repo, _, s.src = newStratum(t).publish(cvmfstest.Options{FQRN: lockFQRN}, s.tree)
	s.src.Layout = "neurodesk"
	s.mounted = mount(t, setup{Sources: []source{s.src}})
	s.Indexed()
	s.ask(0, s.one, "lock", "bundle/1.0")
	s.ask(0, s.two, "lock", "bundle/2.0")
	return s
}

// ask runs neurodeskfs in a directory and gives what it printed.
func (s *lockSite) ask(status int, dir string, args ...string) string {
	s.t.Helper()
	c := s.Command(program(s.t), args...)
	c.Dir = dir
	r := run(s.t, c)
	if r.Status != status {
		s.t.Errorf("neurodeskfs %q in %s: exit status %d, want %d: %s%s", args, dir, r.Status, status, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// types types a command in a directory.
func (s *lockSite) types(dir, command string, env ...string) result {
	s.t.Helper()
	c := s.Command("/bin/sh", "-c", command)
	c.Dir = dir
	c.Env = append(append(c.Env, "NEURODESK_RUNTIME=bwrap"), env...)
	return run(s.t, c)
}

func (s *lockSite) prints(dir, command, want string, env ...string) {
	s.t.Helper()
	if r := s.types(dir, command, env...); r.Status != 0 || r.Stdout != want+"\n" || r.Stderr != "" {
		s.t.Errorf("%s in %s with %q: exit status %d, %q, want %q; %s", command, dir, env, r.Status, r.Stdout, want, r.Stderr)
	}
}

func (s *lockSite) refuses(dir, command string, status int, says string, env ...string) {
	s.t.Helper()
	r := s.types(dir, command, env...)
	if r.Status != status || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, says) {
		s.t.Errorf("%s in %s with %q: exit status %d, want %d; %q, want %q", command, dir, env, r.Status, status, r.Stdout+r.Stderr, says)
	}
}

// TestLaunchPins goes through what decides on the image that a name in M/bin means.
func TestLaunchPins(t *testing.T) {
	s := newLockSite(t)
	plain, below := shortDir(t), filepath.Join(s.one, "a b", "c")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, command, want string
		env                []string
	}{
		{plain, "tool x", "tool-0.1 x", nil},
		{plain, "alone", "bundle-2.0", nil},
		{s.one, "tool x", "bundle-1.0 x", nil}, // the lock's app has it, whatever M/bin says
		{s.one, "alone", "bundle-1.0", nil},
		{below, "alone", "bundle-1.0", nil},
		{s.two, "alone", "bundle-2.0", nil},
		{s.one, "otherc", "other-1.0", nil}, // not of a locked app
		{s.one, s.Path("apps/bundle/2.0/bin/alone"), "bundle-2.0", nil},
		{plain, "alone", "bundle-1.0", []string{"NEURODESK_PIN=bundle=1.0"}},
		{plain, "tool", "bundle-1.0", []string{"NEURODESK_PIN=other=1.0, bundle=1.0_20260101"}},
		{s.two, "alone", "bundle-2.0", []string{"NEURODESK_PIN=bundle=1.0"}},
		{plain, "alone", "bundle-1.0", []string{"NEURODESK_LOCK=" + s.one + "/neurodesk.lock"}},
		{s.one, "alone", "bundle-2.0", []string{"NEURODESK_LOCK=/dev/null"}},
		// two versions of one tool, side by side in one pipeline
		{plain, fmt.Sprintf("(cd %s && alone) | (cd %s && alone $(cat))", s.one, s.two), "bundle-2.0 bundle-1.0", nil},
	} {
		s.prints(c.dir, c.command, c.want, c.env...)
	}
	link := filepath.Join(shortDir(t), "alone")
	if err := os.Symlink(s.Path("bin/alone"), link); err != nil {
		t.Fatal(err)
	}
	s.prints(s.one, link, "bundle-1.0")
	s.prints(s.one, "alone", "bundle-1.0", "NEURODESK_RUNTIME=apptainer")

	// A pin that cannot be followed does not stop what is none of its business.
	if r := s.types(plain, "otherc", "NEURODESK_PIN=bundle=9"); r.Status != 0 || r.Stdout != "other-1.0\n" || !strings.Contains(r.Stderr, "whether it has this command is not known") {
		t.Errorf("otherc: %+v", r)
	}
	s.refuses(s.one, "extra", 127, "has no such command")
	s.refuses(plain, "extra", 127, "pinned by NEURODESK_PIN", "NEURODESK_PIN=bundle=1.0")
	s.refuses(plain, "alone", 125, "no version 9", "NEURODESK_PIN=bundle=9")
	for _, bad := range []string{"bundle", "bundle=../x", "a/b=1", "=1", "bundle=1 bundle=2", "--bind=/"} {
		s.refuses(plain, "alone", 125, "NEURODESK_PIN", "NEURODESK_PIN="+bad)
	}
	s.refuses(plain, "alone", 125, "no such file", "NEURODESK_LOCK=nowhere.lock")
}

// TestLaunchPinsAreExplained compares what which, pin, search and exec say of pins.
func TestLaunchPinsAreExplained(t *testing.T) {
	s := newLockSite(t)
	plain := shortDir(t)
	lock := filepath.Join(s.one, "neurodesk.lock")
	for _, c := range []struct {
		dir  string
		args []string
		want []string
	}{
		{plain, []string{"which", "--all", "tool"}, []string{"tool/0.1_20250101    the app has the command's own name\n", "bundle/2.0_20260201\n", "bundle/1.0_20260101\n"}},
		{s.one, []string{"which", "--all", "tool"}, []string{"bin/tool ", "bundle/1.0_20260101  locked by " + lock + "\n", "tool/0.1_20250101    bin's without the pin: the app has", "bundle/2.0_20260201\n"}},
		{s.one, []string{"which", "otherc"}, []string{"other/1.0_20260101  the only image that has it\n"}},
		{s.one, []string{"pin"}, []string{"locked by " + lock + "\n  bundle  1.0_20260101\n"}},
		{plain, []string{"pin"}, []string{"nothing is pinned here"}},
		{plain, []string{"search", "tool"}, []string{"tool in bin is tool's: the app has the command's own name\n"}},
		{s.one, []string{"exec", "bundle", "--", "alone", "x"}, []string{"bundle-1.0 x\n"}},
		{s.one, []string{"exec", "bundle/2.0", "--", "alone"}, []string{"bundle-2.0\n"}},
		{plain, []string{"exec", "--lock", lock, "bundle", "--", "alone"}, []string{"bundle-1.0\n"}},
		{s.one, []string{"lock", "--check"}, []string{"bundle  1.0_20260101  the same\n"}},
	} {
		got := s.ask(0, c.dir, c.args...)
		for _, want := range c.want {
			at := strings.Index(got, want)
			if at < 0 {
				t.Errorf("neurodeskfs %q in %s: %q, want %q in this order", c.args, c.dir, got, c.want)
				break
			}
			got = got[at+len(want):]
		}
	}
	for _, c := range []struct {
		status int
		args   []string
		says   string
	}{
		{2, []string{"lock"}, "name the apps"},
		{2, []string{"lock", "--check", "--update"}, "exclude"},
		{1, []string{"lock", "nosuch"}, "no app"},
		{125, []string{"exec", "--lock", lock, "other", "--", "otherc"}, "does not name other"},
		{125, []string{"exec", "--lock", lock, "bundle/2.0", "--", "alone"}, "locks bundle to 1.0_20260101"},
	} {
		if got := s.ask(c.status, plain, c.args...); !strings.Contains(got, c.says) {
			t.Errorf("neurodeskfs %q: %q, want %q", c.args, got, c.says)
		}
	}
	if got := s.ask(1, s.one, "lock", "bundle"); !strings.Contains(got, "lock --update bundle") {
		t.Errorf("locking what is locked: %q", got)
	}
}

// TestLaunchLockedImageThatIsGone: what is locked runs on, byte for byte, after the repository has dropped or rebuilt it.
func TestLaunchLockedImageThatIsGone(t *testing.T) {
	s := newLockSite(t)
	s.tree.Remove("containers/bundle_1.0_20260101")
	s.tree.Remove("containers/bundle_2.0_20260201")
	liveImage(s.tree, s.busybox, "bundle_2.0_20260201", "bundle-2.0-new", "tool", "alone", "fresh")
	liveImage(s.tree, s.busybox, "bundle_3.0_20260301", "bundle-3.0", "tool", "alone", "fresh")
	if _, err := s.repo.Publish(t.Context(), s.tree); err != nil {
		t.Fatal(err)
	}
	s.reload(t)
	checks := func() {
		t.Helper()
		for _, runtime := range []string{"bwrap", "apptainer"} {
			s.prints(s.one, "alone x", "bundle-1.0 x", "NEURODESK_RUNTIME="+runtime)
			s.prints(s.one, "tool x", "bundle-1.0 x", "NEURODESK_RUNTIME="+runtime)
			s.prints(s.two, "alone x", "bundle-2.0 x", "NEURODESK_RUNTIME="+runtime)
		}
		s.prints(shortDir(t), "alone", "bundle-3.0")
		s.refuses(s.one, "fresh", 127, "has no such command")
		if got := s.ask(0, s.one, "exec", "bundle", "--", "cat", "/usr/bin/alone"); !strings.Contains(got, "bundle-1.0") {
			t.Errorf("exec: %q", got)
		}
		for dir, want := range map[string]string{s.one: "gone; runs from its revision", s.two: "rebuilt; runs from its revision"} {
			if got := s.ask(1, dir, "lock", "--check"); !strings.Contains(got, want) {
				t.Errorf("lock --check in %s: %q, want %q", dir, got, want)
			}
		}
		var list []struct {
			State string
			Runs  bool
		}
		if err := json.Unmarshal([]byte(strings.SplitAfter(s.ask(1, s.one, "lock", "--check", "--json"), "\n]\n")[0]), &list); err != nil || len(list) != 1 || list[0].State != "gone" || !list[0].Runs {
			t.Errorf("lock --check --json: %+v, %v", list, err)
		}
	}
	checks()
	// A daemon that never saw the old revision finds it by the lock alone.
	s.Unmount()
	s.mounted = mount(t, setup{Sources: []source{s.src}})
	s.Indexed()
	checks()

	file := filepath.Join(s.one, "neurodesk.lock")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(key string) {
		t.Helper()
		var out []string
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, key+" = ") {
				line = fmt.Sprintf("%s = %q\n", key, strings.Repeat("ab", 20))
			}
			out = append(out, line)
		}
		if err := os.WriteFile(file, []byte(strings.Join(out, "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit("hash") // the revision's image has another one
	s.refuses(s.one, "alone", 69, "nor in revision 1")
	edit("root_hash") // no server has that
	s.refuses(s.one, "alone", 69, "no server gives revision 1 of "+lockFQRN)
	if got := s.ask(1, s.one, "lock", "--check"); !strings.Contains(got, "gone; cannot be had any more") || !strings.Contains(got, "for a copy of") {
		t.Errorf("lock --check: %q", got)
	}
	s.ask(0, s.one, "lock", "--update", "bundle")
	s.prints(s.one, "alone", "bundle-3.0")
}

// TestMountPrefetchOfALock: prefetch means the image that exec would run, the locked one also after the repository has
// dropped it, by a daemon, without one and into a shared tier; a start needs no network then.
func TestMountPrefetchOfALock(t *testing.T) {
	s := newLockSite(t)
	s.tree.Remove("containers/bundle_1.0_20260101")
	if _, err := s.repo.Publish(t.Context(), s.tree); err != nil {
		t.Fatal(err)
	}
	s.reload(t)
	plain, tier := shortDir(t), shortDir(t)
	for _, c := range []struct {
		status int
		dir    string
		args   []string
		says   string
	}{
		{0, s.one, []string{"bundle"}, "bundle/1.0_20260101: "},
		{0, s.one, []string{"bundle/2.0"}, "bundle/2.0_20260201: "}, // a version that is named is meant
		{0, s.two, nil, "bundle/2.0_20260201: "},
		{0, plain, []string{"--lock", filepath.Join(s.one, "neurodesk.lock")}, "bundle/1.0_20260101: "},
		{0, s.one, []string{"--config", s.Config, "--to", tier}, "bundle/1.0_20260101: "},
		{1, plain, []string{"--lock", filepath.Join(s.one, "neurodesk.lock"), "other"}, "does not name other"},
		{2, plain, nil, "name the apps to be fetched"},
	} {
		if got := s.ask(c.status, c.dir, append([]string{"prefetch"}, c.args...)...); !strings.Contains(got, c.says) {
			t.Errorf("prefetch %q in %s: %q, want %q", c.args, c.dir, got, c.says)
		}
	}
	s.Unmount()
	offline := setup{Sources: []source{s.src}, Cache: filepath.Join(shortDir(t), "c")}
	_, config := offline.prepare(t)
	s.ask(0, s.one, "prefetch", "--config", config)
	s.src.Servers = []string{"http://127.0.0.1:1/cvmfs/@fqrn@"} // nobody listens there
	offline.Sources = []source{s.src}
	for _, set := range []setup{offline, {Sources: []source{s.src}, Shared: []string{tier}}} {
		s.mounted = mount(t, set)
		s.prints(s.one, "alone x", "bundle-1.0 x")
		s.Unmount()
	}
}

// TestLaunchLockedLocalImage: the lock of a single-file image in a folder holds for a copy of that file, on another
// computer or in another folder, and for no other bytes.
func TestLaunchLockedLocalImage(t *testing.T) {
	requireTools(t, "apptainer", "bwrap", "mksquashfs", "busybox")
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(mark string) []byte {
		tree := shortDir(t)
		for _, dir := range []string{"bin", "usr/local/bin", "etc", "tmp", "proc", "sys", "dev"} {
			if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string][]byte{"bin/busybox": busybox, "usr/local/bin/tool": []byte("#!/bin/busybox sh\necho " + mark + "\n")} {
			if err := os.WriteFile(filepath.Join(tree, name), text, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(shortDir(t), "image")
		if r := run(t, exec.Command("mksquashfs", tree, file, "-all-root", "-no-progress")); r.Status != 0 {
			t.Fatal(r.Stderr)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	work, image := shortDir(t), pack("locked")
	site := func(content []byte) *lockSite {
		folder := shortDir(t)
		if err := os.WriteFile(filepath.Join(folder, "tool_1_20240101.simg"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		s := &lockSite{t: t, mounted: mount(t, setup{Sources: []source{{Kind: "dir", Path: folder}}})}
		s.Indexed()
		return s
	}
	first := site(image)
	if said := first.ask(0, work, "lock", "tool"); !strings.Contains(said, "a copy of this file") {
		t.Errorf("lock: %s", said)
	}
	text, err := os.ReadFile(filepath.Join(work, "neurodesk.lock"))
	if want := fmt.Sprintf("sha256 = \"%x\"\n", sha256.Sum256(image)); err != nil || !strings.Contains(string(text), want) {
		t.Errorf("%v; the lock lacks %q: %s", err, want, text)
	}
	first.prints(work, first.Path("bin/tool"), "locked")
	copied := site(image)
	copied.prints(work, copied.Path("bin/tool"), "locked")
	if said := copied.ask(0, work, "lock", "--check"); !strings.Contains(said, "the same") {
		t.Errorf("lock --check of a copy: %s", said)
	}
	other := site(pack("another"))
	other.refuses(work, other.Path("bin/tool"), 69, "is not among the images of today")
	if said := other.ask(1, work, "lock", "--check"); !strings.Contains(said, "rebuilt") {
		t.Errorf("lock --check of another image: %s", said)
	}
}

// TestLaunchThroughABind: a mount that is seen at another place too, through a bind, works from there; where only that
// other place is left, a start fails with one clear line.
func TestLaunchThroughABind(t *testing.T) {
	s := newLockSite(t)
	at := shortDir(t)
	script := `mount --bind "$1" "$2" && cd "$3" && "$2/bin/alone" x && umount -l "$1" && exec "$2/bin/alone" x`
	args := []string{"--mount", "--propagation", "private", "sh", "-c", script, "sh", s.Dir, at, s.two}
	if os.Getuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
		script = `mount --bind "$1" "$2" && cd "$3" && "$2/bin/alone" x && mount --bind "$4" "$1" && exec "$2/bin/alone" x`
		args[len(args)-5] = script
		args = append(args, shortDir(t))
	}
	c := s.Command("unshare", args...)
	c.Env = append(c.Env, "NEURODESK_RUNTIME=bwrap")
	r := run(t, c)
	if r.Stdout != "bundle-2.0 x\n" || r.Status == 0 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, at+"/bin/alone") {
		t.Errorf("%+v", r)
	}
}
