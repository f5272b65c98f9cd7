package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountBlacklist forbids the revision that is served, before and during a
// mount.
func TestMountBlacklist(t *testing.T) {
	const fqrn = "forbidden.example.org"
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	tree.File("number", []byte("1"), 0o644)
	repo, _, src := s.publish(cvmfstest.Options{FQRN: fqrn}, tree)
	src.Blacklist = filepath.Join(shortDir(t), "blacklist")
	forbid := func(line string) {
		t.Helper()
		if err := os.WriteFile(src.Blacklist, []byte(line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	forbid("<" + fqrn + " 2")
	if r := refused(t, setup{Sources: []source{src}}); r.Status != 4 || !strings.Contains(r.Stderr, "blacklist forbids "+fqrn+" below revision 2") {
		t.Errorf("exit status %d, %s", r.Status, r.Stderr)
	}
	forbid("# nothing")
	m := mount(t, setup{Sources: []source{src}})
	shows := func(want int) {
		t.Helper()
		if b, err := os.ReadFile(m.Raw(fqrn, "number")); err != nil || string(b) != fmt.Sprint(want) {
			t.Errorf("%q, %v, want %d", b, err, want)
		}
	}
	shows(1)
	forbid("<" + fqrn + " 2")
	if r := neurodeskfs(t, "reload", m.Dir); r.Status == 0 || !strings.Contains(r.Stderr, "blacklist") {
		t.Errorf("reload: exit status %d, %s", r.Status, r.Stderr)
	}
	shows(1)
	if got := m.Status().Sources[0]; !strings.Contains(got.Error, "blacklist") || got.Offline {
		t.Errorf("status %+v", got)
	}
	if log := m.Log(); strings.Count(log, "unmount to end its use") != 1 {
		t.Errorf("logged %s", log)
	}
	tree.File("number", []byte("2"), 0o644)
	if _, err := repo.Publish(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	m.reload(t)
	shows(2)
	if got := m.Status().Sources[0]; got.Error != "" || got.Revision != 2 {
		t.Errorf("status %+v", got)
	}
}

// TestGoldenDatePin mounts the tag of a time.
func TestGoldenDatePin(t *testing.T) {
	const fqrn = "alpha.golden.test"
	src := newStratum(t).Golden(fqrn)
	src.Date = "2099-01-01T00:00:00Z"
	m := mount(t, setup{Sources: []source{src}})
	checkTree(t, m.Raw(fqrn), goldenListing(t, fqrn, 3, nil))
	src.Date = "2001-01-01T00:00:00Z"
	if r := refused(t, setup{Sources: []source{src}}); !strings.Contains(r.Stderr, "choose a later date") {
		t.Errorf("%s", r.Stderr)
	}
}
