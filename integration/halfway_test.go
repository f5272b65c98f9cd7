package integration

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// failedReload asks for the newest revision, of which something is missing.
func (m *mounted) failedReload(t *testing.T) {
	t.Helper()
	if r := neurodeskfs(t, "reload", m.Dir); r.Status != 1 || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("reload of a revision with a hole: exit status %d, %s", r.Status, r.Stderr)
	}
}

// TestRefreshWithAHole: what the kernel knows is shown whole, as it was, until
// all that is needed to tell it of the new revision is there, by the next worker too.
func TestRefreshWithAHole(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	fill := func(content string) {
		tree.File("top", []byte(content), 0o644)
		tree.File("nested/"+content, []byte(content), 0o644)
	}
	fill("one")
	tree.Nested("nested")
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "hole.example.org"}, tree)
	m := mount(t, setup{Sources: []source{src}})
	shows := func(content, other string) {
		t.Helper()
		for _, p := range []string{"top", "nested/" + content} {
			if b, err := os.ReadFile(m.Raw(repo.FQRN, p)); err != nil || string(b) != content {
				t.Errorf("%s: %q, %v, want %s", p, b, err, content)
			}
		}
		if _, err := os.Lstat(m.Raw(repo.FQRN, "nested", other)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("nested/%s: %v", other, err)
		}
	}
	shows("one", "two")
	tree.Remove("nested/one")
	fill("two")
	second, err := repo.Publish(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	hole := s.Inject(cvmfstest.Path(second.Objects("nested")[0]), 0, cvmfstest.Status(404))
	m.failedReload(t)
	if hole.Hits() == 0 {
		t.Fatal("nobody asked for what is missing")
	}
	shows("one", "two")
	m.killWorker(t)
	shows("one", "two")
	m.failedReload(t)
	hole.Remove()
	m.reload(t)
	shows("two", "one")
}

// killWorker waits until another worker serves in the place of the one that it kills.
func (m *mounted) killWorker(t *testing.T) {
	t.Helper()
	before := m.Status().Worker.PID
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker serves", func() bool { return m.Status().Worker.PID != before })
}

// TestRefreshIndexLater: an index that cannot be made of the new revision is made
// by the next look, though that finds no newer one.
func TestRefreshIndexLater(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	app := func(name string) {
		tree.File("containers/"+name+"/commands.txt", []byte(strings.SplitN(name, "_", 2)[0]+"\n"), 0o644)
		tree.File("containers/"+name+"/"+name+".simg/etc/x", nil, 0o644)
	}
	app("one_1_20260101")
	tree.Nested("containers")
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "later.example.org"}, tree)
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	app("two_1_20260101")
	second, err := repo.Publish(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	hole := s.Inject(cvmfstest.Path(second.Objects("containers")[0]), 0, cvmfstest.Status(404))
	m.failedReload(t)
	for command, want := range map[string]error{"one": nil, "two": syscall.ENOENT} {
		if _, err := os.Lstat(m.Path("bin", command)); !errors.Is(err, want) {
			t.Errorf("bin/%s: %v", command, err)
		}
	}
	hole.Remove()
	m.reload(t)
	for _, command := range []string{"one", "two"} {
		if _, err := os.Lstat(m.Path("bin", command)); err != nil {
			t.Error(err)
		}
	}
}
