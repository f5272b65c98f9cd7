package integration

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// reload asks the daemon for the newest revision and fails the test if that fails.
func (m *mounted) reload(t testing.TB) {
	t.Helper()
	if r := neurodeskfs(t, "reload", m.Dir); r.Status != 0 || r.Stderr != "" {
		t.Errorf("reload: exit status %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// TestGoldenRefresh moves each golden repository through all its revisions in
// one mount, which is read as a whole at each.
func TestGoldenRefresh(t *testing.T) {
	for _, g := range goldenRevisions {
		t.Run(g.fqrn, func(t *testing.T) {
			t.Parallel()
			s := newStratum(t)
			m := mount(t, setup{Sources: []source{s.Golden(g.fqrn, goldenRevision(t, g.fqrn, g.revisions[0]))}})
			for _, n := range g.revisions {
				s.Golden(g.fqrn, goldenRevision(t, g.fqrn, n))
				m.reload(t)
				checkTree(t, m.Raw(g.fqrn), goldenListing(t, g.fqrn, n, nil))
			}
			last := g.revisions[len(g.revisions)-1]
			revision := m.Status().Sources[0].Revision
			s.Golden(g.fqrn, goldenRevision(t, g.fqrn, g.revisions[0]))
			m.reload(t)
			checkTree(t, m.Raw(g.fqrn), goldenListing(t, g.fqrn, last, nil))
			if got := m.Status(); got.Sources[0].Revision != revision || got.IOErrors != 0 {
				t.Errorf("offered an older one: revision %d, was %d; %d I/O errors", got.Sources[0].Revision, revision, got.IOErrors)
			}
		})
	}
}

// TestGoldenRefreshOfApps compares M/bin and M/apps after a refresh with those of
// a mount that never saw the first revision.
func TestGoldenRefreshOfApps(t *testing.T) {
	const fqrn = "neurodesk.golden.test"
	s := newStratum(t)
	src := s.Golden(fqrn, goldenRevision(t, fqrn, 1))
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	first := appNames(t, m)
	s.Golden(fqrn)
	m.reload(t)
	fresh := mount(t, setup{Sources: []source{src}})
	fresh.Indexed()
	got, want := appNames(t, m), appNames(t, fresh)
	if !slices.Equal(got, want) {
		t.Errorf("after the refresh %v, want %v", got, want)
	}
	if slices.Equal(got, first) {
		t.Error("the revisions do not differ")
	}
	for _, name := range []string{"dcm2niix", "dcm2niibatch", "mrconvert"} {
		if got, want := commandOf(t, m, name), commandOf(t, fresh, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// appNames lists all that is in M/bin and M/apps.
func appNames(t *testing.T, m *mounted) (names []string) {
	t.Helper()
	for _, top := range []string{"bin", "apps"} {
		err := filepath.WalkDir(m.Path(top), func(p string, d iofs.DirEntry, err error) error {
			names = append(names, strings.TrimPrefix(p, m.Dir))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	return names
}

// commandOf is what a command file says of the image, less the mount point.
func commandOf(t *testing.T, m *mounted, name string) string {
	t.Helper()
	b, err := os.ReadFile(m.Path("bin", name))
	if err != nil {
		t.Error(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(strings.ToLower(line), "revision") { // it says when this mount saw it first
			lines = append(lines, strings.ReplaceAll(line, m.Dir, ""))
		}
	}
	return strings.Join(lines, "")
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return st.Ino
}

// TestRefreshInodes looks at which files are new ones after a refresh.
func TestRefreshInodes(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	at := time.Unix(1700000000, 0)
	put := func(path, content string) {
		tree.File(path, []byte(content), 0o644).MTime = at
	}
	for _, path := range []string{"d/same", "d/changed", "d/gone", "d/turns", "nested/same", "nested/changed"} {
		put(path, "one "+path)
	}
	tree.Symlink("d/link", "same").MTime = at
	tree.Symlink("d/moved", "same").MTime = at
	tree.File("d/mode", nil, 0o644).MTime = at
	tree.Dir("d/stays", 0o755)
	tree.Nested("nested")
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "inodes.example.org"}, tree)
	m := mount(t, setup{Sources: []source{src}})
	at0 := func(p string) string { return m.Raw(repo.FQRN, p) }
	paths := []string{"d", "d/same", "d/changed", "d/turns", "d/link", "d/moved", "d/mode", "d/stays", "nested", "nested/same", "nested/changed"}
	before := map[string]uint64{}
	for _, p := range paths {
		before[p] = inode(t, at0(p))
	}
	if _, err := os.ReadFile(at0("d/new")); !errors.Is(err, syscall.ENOENT) { // an absence that the kernel keeps
		t.Error(err)
	}

	put("d/changed", "two")
	put("nested/changed", "two")
	put("d/new", "new")
	tree.Remove("d/gone")
	tree.Remove("d/turns")
	tree.Dir("d/turns", 0o755)
	tree.Remove("d/moved")
	tree.Symlink("d/moved", "changed").MTime = at
	tree.Get("d/mode").Mode = unix.S_IFREG | 0o600
	if _, err := repo.Publish(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	m.reload(t)
	changed := []string{"d/changed", "d/turns", "d/moved", "d/mode", "nested/changed"}
	for _, p := range paths {
		if got, isNew := inode(t, at0(p)), slices.Contains(changed, p); (got != before[p]) != isNew {
			t.Errorf("%s: st_ino was %#x, is %#x; changed: %v", p, before[p], got, isNew)
		}
	}
	for p, want := range map[string]string{"d/changed": "two", "nested/changed": "two", "d/new": "new", "d/same": "one d/same", "d/moved": "two"} {
		if b, err := os.ReadFile(at0(p)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	if _, err := os.Lstat(at0("d/gone")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("d/gone: %v", err)
	}
	names, err := os.ReadDir(at0("d"))
	got := map[string]bool{}
	for _, n := range names {
		got[n.Name()] = true
	}
	if want := strings.Fields("changed link mode moved new same stays turns"); err != nil || !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
		t.Errorf("d lists %v, %v", got, err)
	}
}

// liveImage adds an image with a root tree that runtimes can start, whose commands
// print mark.
func liveImage(tree *cvmfstest.Tree, busybox []byte, name, mark string, commands ...string) {
	dir := "containers/" + name
	root := dir + "/" + name + ".simg"
	tree.Nested(dir)
	tree.Nested(root)
	tree.File(dir+"/commands.txt", []byte(strings.Join(commands, "\n")+"\n"), 0o644)
	tree.File(dir+"/README.md", []byte("about "+name+"\n"), 0o644)
	tree.File(root+"/bin/busybox", busybox, 0o755)
	for _, applet := range strings.Fields("sh ls cat sha256sum echo find grep pwd mount") {
		tree.Symlink(root+"/bin/"+applet, "busybox")
	}
	for _, c := range commands {
		tree.File(root+"/usr/bin/"+c, []byte("#!/bin/sh\necho "+mark+" \"$@\"\n"), 0o755)
	}
	tree.Symlink(root+"/usr/bin/env", "../../bin/busybox")
	for _, d := range strings.Fields("dev proc sys tmp etc root var home data") {
		tree.Dir(root+"/"+d, 0o755)
	}
	tree.File(root+"/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\n"), 0o644)
	tree.File(root+"/etc/group", []byte("root:x:0:\n"), 0o644)
}

func busyboxBinary(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(installed(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLaunchAfterRefresh runs commands that changed their owner, came or went.
func TestLaunchAfterRefresh(t *testing.T) {
	needApptainer(t)
	s := newStratum(t)
	busybox := busyboxBinary(t)
	tree := cvmfstest.NewTree()
	liveImage(tree, busybox, "bundle_1.0_20260101", "bundle-1.0", "tool", "goes", "alone")
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "owners.example.org"}, tree)
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	runs := func(command, want string) {
		t.Helper()
		if r := m.Run(m.Path("bin", command), "x"); r.Status != 0 || r.Stdout != want+" x\n" {
			t.Errorf("%s: exit status %d, %q, want %q; %s", command, r.Status, r.Stdout, want, r.Stderr)
		}
	}
	absent := func(command string) {
		t.Helper()
		if _, err := os.Lstat(m.Path("bin", command)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: %v, want ENOENT", command, err)
		}
	}
	runs("tool", "bundle-1.0")
	runs("goes", "bundle-1.0")
	runs("alone", "bundle-1.0")
	absent("comes")
	old := inode(t, m.Path("bin/alone"))

	tree.Remove("containers/bundle_1.0_20260101")
	liveImage(tree, busybox, "bundle_1.0_20260101", "bundle-1.0", "tool", "alone") // "goes" went
	liveImage(tree, busybox, "bundle_2.0_20260201", "bundle-2.0", "tool", "comes")
	liveImage(tree, busybox, "tool_0.1_20250101", "tool-0.1", "tool") // the namesake owns it
	if _, err := repo.Publish(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	m.reload(t)
	runs("tool", "tool-0.1")
	runs("comes", "bundle-2.0")
	runs("alone", "bundle-1.0")
	absent("goes")
	if got := inode(t, m.Path("bin/alone")); got == old {
		t.Error("bin/alone: its image was published anew, and the file is the old one")
	}
	if target, err := os.Readlink(m.Path("apps/bundle/default")); err != nil || target != "2.0" {
		t.Errorf("apps/bundle/default is %q, %v", target, err)
	}
	if r := m.Run(m.Path("apps/bundle/1.0/bin/tool"), "x"); r.Stdout != "bundle-1.0 x\n" {
		t.Errorf("%+v", r)
	}
}

// TestRefreshByTimeAndOffline waits for the time to live, once, and takes the
// servers away.
func TestRefreshByTimeAndOffline(t *testing.T) {
	t.Parallel()
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	tree.File("number", []byte("1"), 0o644)
	tree.File("cold", []byte("cold"), 0o644)
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "ttl.example.org"}, tree)
	src.Refresh = "10s"
	m := mount(t, setup{Sources: []source{src}})
	shows := func(want string) bool {
		b, err := os.ReadFile(m.Raw(repo.FQRN, "number"))
		if err != nil {
			t.Errorf("number: %v", err)
		}
		return string(b) == want
	}
	if !shows("1") {
		t.Error("not the first revision")
	}
	publish := func(n int) {
		tree.File("number", []byte(fmt.Sprint(n)), 0o644)
		if _, err := repo.Publish(t.Context(), tree); err != nil {
			t.Fatal(err)
		}
	}
	publish(2)
	if !poll(commandPatience, func() bool { return shows("2") }) {
		t.Error("the second revision did not come by itself")
	}
	down := s.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
	publish(3)
	r := neurodeskfs(t, "reload", m.Dir)
	if r.Status == 0 || !strings.Contains(r.Stderr, "no server") {
		t.Errorf("reload with the server down: exit status %d, %s", r.Status, r.Stderr)
	}
	if got := m.Status().Sources[0]; !got.Offline || got.Revision != 2 || !shows("2") {
		t.Errorf("with the server down: %+v", got)
	}
	if r := neurodeskfs(t, "status", m.Dir); !strings.Contains(r.Stdout, "offline") {
		t.Errorf("status does not say that it is offline: %s", r.Stdout)
	}
	down.Remove()
	m.reload(t)
	if got := m.Status().Sources[0]; got.Offline || got.Revision != 3 || !shows("3") {
		t.Errorf("with the server back: %+v", got)
	}
	if b, err := os.ReadFile(m.Raw(repo.FQRN, "cold")); err != nil || string(b) != "cold" {
		t.Errorf("%q, %v", b, err)
	}
}
