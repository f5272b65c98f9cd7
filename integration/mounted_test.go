package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// TestMountOfTheSitesOwn: where the host has the repository mounted (here by
// another mount of ours in its raw view), that is the source: its commands run
// from there, and nothing is fetched a second time.
func TestMountOfTheSitesOwn(t *testing.T) {
	needApptainer(t)
	const fqrn = "neurodesk.golden.test"
	site := mount(t, setup{Sources: []source{newStratum(t).Golden(fqrn)}})
	m := mount(t, setup{Sources: []source{{Kind: "cvmfs-mounted", FQRN: fqrn, At: site.Path("cvmfs", "@fqrn@")}}})
	m.Indexed()
	if link, err := os.Readlink(m.Path("cvmfs", fqrn)); err != nil || link != site.Path("cvmfs", fqrn) {
		t.Errorf("the raw view is a link to %q, %v", link, err)
	}
	rootfs, err := os.Readlink(m.Path("apps/mrtrix3/3.0.3_20240515/rootfs"))
	if err != nil || !strings.HasPrefix(rootfs, site.Path("cvmfs", fqrn, "containers")+"/") {
		t.Errorf("the image's tree is a link to %q, %v", rootfs, err)
	}
	image := golden.Path(t, "neurodesk", "samples", "image.nii")
	r := m.Run(m.Path("bin/mrinfo"), "-size", image)
	if r.Status != 0 || r.Stdout != "32 32 8\n" {
		t.Errorf("mrinfo: %+v", r)
	}
	r = m.Run(m.Path("bin/retiredtool"))
	if r.Status != 69 {
		t.Errorf("a retired tool: %+v", r)
	}
	s := m.Status()
	if s.Sources[0].HTTPRequests != 0 || s.Cache.Objects != 0 {
		t.Errorf("something was fetched: %+v", s)
	}
	if r := neurodeskfs(t, "reload", m.Path()); r.Status != 0 || !strings.Contains(r.Stdout, "as it is mounted at") {
		t.Errorf("reload: %+v", r)
	}
}

// TestMountedNowhere: a source that the host has not mounted is named.
func TestMountedNowhere(t *testing.T) {
	r := refused(t, setup{Sources: []source{{Kind: "cvmfs-mounted", FQRN: "neurodesk.golden.test", At: shortDir(t) + "/@fqrn@"}}})
	if r.Status != 4 || !strings.Contains(r.Stderr, "is not mounted at") {
		t.Errorf("%+v", r)
	}
}

// TestRawViewElsewhere: root shows M/cvmfs at a second place, for scripts that
// name /cvmfs; it goes with the mount, and takes nothing's place.
func TestRawViewElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount at a second place")
	}
	const fqrn = "delta.golden.test"
	src := newStratum(t).Golden(fqrn)
	at := shortDir(t)
	m := mount(t, setup{Sources: []source{src}, CVMFSAt: at})
	want, err := os.ReadFile(m.Raw(fqrn, "data/.cvmfscatalog"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(at, fqrn, "data/.cvmfscatalog")); err != nil || string(got) != string(want) {
		t.Errorf("at the second place: %q, %v", got, err)
	}
	r := refused(t, setup{Sources: []source{src}, CVMFSAt: at})
	if r.Status != 5 || !strings.Contains(r.Stderr, "is mounted at "+at) {
		t.Errorf("a place that is taken: %+v", r)
	}
	m.killAll() // the next mount clears both places
	again := mount(t, setup{Sources: []source{src}, CVMFSAt: at, Dir: m.Dir, Cache: m.Cache})
	if got, err := os.ReadFile(filepath.Join(at, fqrn, "data/.cvmfscatalog")); err != nil || string(got) != string(want) {
		t.Errorf("at the second place of the second mount: %q, %v", got, err)
	}
	again.Unmount()
	if entries, err := os.ReadDir(at); err != nil || len(entries) != 0 {
		t.Errorf("after umount: %v, %v", entries, err)
	}
}

// TestMountPointBehindALink: a path with a link in it, as /home is one in many
// places, is the same mount to umount, to the next supervisor and to run.
func TestMountPointBehindALink(t *testing.T) {
	const fqrn = "delta.golden.test"
	dir := shortDir(t)
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "real"), 0o755), os.Mkdir(filepath.Join(dir, "real/m"), 0o755), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	s := setup{Sources: []source{newStratum(t).Golden(fqrn)}, Dir: filepath.Join(link, "m")}
	if os.Getuid() == 0 {
		s.CVMFSAt = shortDir(t)
	}
	m := mount(t, s)
	r := run(t, exec.Command(program(t), "run", "--config", m.Config, m.Dir, "--", "ls", m.Raw(fqrn)))
	if r.Status != 0 || !strings.Contains(r.Stdout, "data\n") {
		t.Errorf("run: %+v", r)
	}
	m.killSupervisor()
	wantRun(t, 0, "mount", "--config", m.Config, m.Dir) // starts another
	syscall.Kill(m.daemon(), syscall.SIGTERM)
	m.gone()
	wantRun(t, 0, "mount", "--config", m.Config, m.Dir)
	if r := wantRun(t, 0, "umount", m.Dir); r.Stderr != "" {
		t.Errorf("umount: %s", r.Stderr)
	}
	if s.CVMFSAt == "" {
		return
	}
	if entries, err := os.ReadDir(s.CVMFSAt); err != nil || len(entries) != 0 {
		t.Errorf("at the second place after umount: %v, %v", entries, err)
	}
}
