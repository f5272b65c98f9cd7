package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// goldenImages are the golden repositories whose images are no Neurodesk
// containers.
var goldenImages = []struct {
	fqrn, layout string
	app          func(image string) string // M/apps/...
}{
	{"galaxy.golden.test", "flat", func(image string) string {
		return strings.Replace(path.Base(image), ":", "/", 1)
	}},
	{"unpacked.golden.test", "unpacked", func(image string) string {
		return strings.Replace(path.Base(image), ":", "/", 1)
	}},
}

// TestGoldenImagesRunCommands types each command of the golden lists, as root
// and as an ordinary user.
func TestGoldenImagesRunCommands(t *testing.T) {
	needApptainer(t)
	for _, g := range goldenImages {
		t.Run(g.fqrn, func(t *testing.T) {
			src := newStratum(t).Golden(g.fqrn)
			src.Layout = g.layout
			m := mount(t, setup{Sources: []source{src}})
			m.Indexed()
			t.Run("rows", func(t *testing.T) { // parallel ones end before the mount does
				for i, row := range goldenCommands(t, g.fqrn) {
					for _, uid := range []int{0, 1000} {
						t.Run(fmt.Sprintf("%02d %s as %d", i+1, path.Base(row.command), uid), func(t *testing.T) {
							t.Parallel()
							checkAs(t, row, m.imageCommand(t, row, g.app(row.image)), uid)
						})
					}
				}
			})
			if s := m.Status(); s.IOErrors != 0 {
				t.Errorf("%d I/O errors", s.IOErrors)
			}
		})
	}
}

// imageCommand is how a row's command is typed: by the app's bin, or by exec
// where that does not have it.
func (m *mounted) imageCommand(t *testing.T, row commandRow, app string) *exec.Cmd {
	t.Helper()
	if p := m.Path("apps", app, "bin", path.Base(row.command)); exists(p) {
		return exec.Command(p, row.args...)
	}
	return exec.Command(program(t), append([]string{"exec", "--mount", m.Dir, app, "--", row.command}, row.args...)...)
}

// checkAs runs a row's command as a user. Who is not root here runs all as
// himself, once.
func checkAs(t *testing.T, row commandRow, c *exec.Cmd, uid int) {
	t.Helper()
	if uid == 0 && strings.Contains(strings.Join(row.args, " "), "/opt/odd/none") {
		t.Skip("nobody but root may read a file without any permission")
	}
	if uid != 0 && os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	} else if uid != os.Geteuid() {
		t.Skip("the other user's turn")
	}
	row.checkIn(t, c, sampleDirOf(t, uid))
}

// sampleDirOf is a sampleDir that a user may write to.
func sampleDirOf(t *testing.T, uid int) string {
	t.Helper()
	dir := sampleDir(t)
	err := filepath.Walk(dir, func(p string, _ os.FileInfo, err error) error {
		if err == nil && os.Geteuid() == 0 {
			err = os.Lchown(p, uid, uid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// imageRow is a line of the list of single-file images.
type imageRow struct{ path, format string }

func goldenImageRows(t *testing.T) (rows []imageRow) {
	t.Helper()
	f, err := os.Open(golden.Path(t, "neurodesk", "expected", "galaxy.golden.test", "images.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if c := strings.Split(lines.Text(), "\t"); c[0][0] != '#' {
			rows = append(rows, imageRow{c[0], c[1]})
		}
	}
	if len(rows) < 10 {
		t.Fatalf("%d rows only", len(rows))
	}
	return rows
}

// goldenImageListing is what lies in a single-file image.
func goldenImageListing(t *testing.T, name string) listing {
	t.Helper()
	return readGoldenListing(t, golden.Path(t, "neurodesk", "expected", "galaxy.golden.test", "images", name+".tsv"), nil)
}

// TestGoldenImagesTrees compares the tree in each single-file image with what
// unsquashfs makes of it.
func TestGoldenImagesTrees(t *testing.T) {
	src := newStratum(t).Golden("galaxy.golden.test")
	src.Layout = "flat"
	m := mount(t, setup{Sources: []source{src}})
	for _, row := range goldenImageRows(t) {
		app := strings.Replace(path.Base(row.path), ":", "/", 1)
		root, err := filepath.EvalSymlinks(m.Path("apps", app, "rootfs"))
		if err != nil {
			t.Error(err)
			continue
		}
		if images := m.Path(".neurodeskfs", "images"); path.Dir(path.Dir(root)) != images {
			t.Errorf("%s: rootfs is %s, not below %s", app, root, images)
		}
		got, err := readListing(root, -1)
		if err != nil {
			t.Error(err)
			continue
		}
		want := goldenImageListing(t, path.Base(row.path))
		for p := range got { // the host's directories that the image lacks
			if _, ok := want[p]; !ok && path.Dir(p) == "/" && exists(p) {
				delete(got, p)
			}
		}
		sameListing(t, app, got, want)
		sif, err := hashFile(m.Path("apps", app, "image.sif"))
		raw, rawErr := hashFile(m.Raw("galaxy.golden.test", row.path))
		if err != nil || rawErr != nil || sif != raw {
			t.Errorf("%s: image.sif is not the image: %v, %v", app, err, rawErr)
		}
	}
}

// imageFolder makes a folder of images out of the golden ones: a SIF, a bare
// squashfs, a sandbox directory and a container as neurocommand makes them.
func imageFolder(t *testing.T) (dir string, raw *mounted) {
	t.Helper()
	src := newStratum(t).Golden("galaxy.golden.test")
	src.Layout = "flat"
	raw = mount(t, setup{Sources: []source{src}})
	dir = filepath.Join(shortDir(t), "shelf")
	const container = "dcm2niix_1.0.20220720_20240101"
	for _, d := range []string{dir, filepath.Join(dir, container)} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyImage(t, raw, "nifti-bin:3.0.1--h84994c4_1", filepath.Join(dir, "nifti-bin_3.0.1.sif"))
	copyImage(t, raw, "oldtool:1.0--raw_0", filepath.Join(dir, "oldtool.simg"))
	copyImage(t, raw, "dcm2niix:1.0.20220720--h2bc3f7f_1", filepath.Join(dir, container, container+".simg"))
	if err := os.WriteFile(filepath.Join(dir, container, "commands.txt"), []byte("dcm2niix\ndcm2niix-build\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("no image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := run(t, exec.Command("cp", "-a", raw.Path("apps/busybox/1.35.0--plain_0/rootfs")+"/.", filepath.Join(dir, "busybox_1.35.0")))
	if r.Status != 0 {
		t.Fatal(r.Stderr)
	}
	return dir, raw
}

// copyImage copies a file of the golden flat repository.
func copyImage(t *testing.T, raw *mounted, name, to string) {
	t.Helper()
	b, err := os.ReadFile(raw.Raw("galaxy.golden.test", "all", name))
	if err == nil {
		err = os.WriteFile(to+".part", b, 0o644)
	}
	if err == nil {
		err = os.Rename(to+".part", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// names are the entries of a directory in one line.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

// TestGoldenImagesInFolder runs commands of images in a folder of the host, and
// changes the folder.
func TestGoldenImagesInFolder(t *testing.T) {
	needApptainer(t)
	dir, raw := imageFolder(t)
	m := mount(t, setup{Sources: []source{{Kind: "dir", Path: dir}}})
	m.Indexed()
	for at, want := range map[string]string{
		"apps":           "busybox dcm2niix nifti-bin oldtool",
		"apps/dcm2niix":  "1.0.20220720 1.0.20220720_20240101 default",
		"apps/nifti-bin": "3.0.1 default",
		"apps/oldtool":   "default latest",
		"cvmfs":          "",
	} {
		if got := names(t, m.Path(at)); got != want {
			t.Errorf("ls %s: %q, want %q", at, got, want)
		}
	}
	root, err := filepath.EvalSymlinks(m.Path("apps/busybox/default/rootfs"))
	if err != nil || root != filepath.Join(dir, "busybox_1.35.0") {
		t.Errorf("the sandbox's rootfs is %s, %v", root, err)
	}
	t.Run("rows", func(t *testing.T) {
		for _, row := range goldenCommands(t, "galaxy.golden.test") {
			app := map[string]string{
				"nifti-bin:3.0.1--h84994c4_1": "nifti-bin/3.0.1", "oldtool:1.0--raw_0": "oldtool/latest",
				"dcm2niix:1.0.20220720--h2bc3f7f_1": "dcm2niix/1.0.20220720_20240101", "busybox:1.35.0--plain_0": "busybox/1.35.0",
			}[path.Base(row.image)]
			if app == "" {
				continue
			}
			for _, uid := range []int{0, 1000} {
				t.Run(fmt.Sprintf("%s %s as %d", app, path.Base(row.command), uid), func(t *testing.T) {
					t.Parallel()
					checkAs(t, row, m.imageCommand(t, row, app), uid)
				})
			}
		}
	})
	before, _ := os.Readlink(m.Path("apps/nifti-bin/3.0.1/rootfs"))
	copyImage(t, raw, "nifti-bin:3.0.1--h84994c4_2", filepath.Join(dir, "nifti-bin_3.0.1.sif"))
	copyImage(t, raw, "mrtrix3:3.0.3--h4bd325d_0", filepath.Join(dir, "mrtrix3_3.0.3.sif"))
	if err := os.Remove(filepath.Join(dir, "oldtool.simg")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the folder's changes are shown", func() bool {
		now, _ := os.Readlink(m.Path("apps/nifti-bin/3.0.1/rootfs"))
		return names(t, m.Path("apps")) == "busybox dcm2niix mrtrix3 nifti-bin" && now != before
	})
	if _, err := os.ReadDir(m.Path("apps/nifti-bin/3.0.1/rootfs/usr")); err != nil {
		t.Error(err)
	}
}

// TestGoldenImagesInPrivateFolder: what not everybody may read is no source of
// a mount that everybody may use.
func TestGoldenImagesInPrivateFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's mount is his own")
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := refused(t, setup{Sources: []source{{Kind: "dir", Path: dir}}}); !strings.Contains(r.Stderr, "chmod o+rx "+dir) {
		t.Errorf("stderr %q", r.Stderr)
	}
}

// TestGoldenImagesTellTheirCommands: images without a list of commands are asked
// themselves, and not before.
func TestGoldenImagesTellTheirCommands(t *testing.T) {
	needApptainer(t)
	s := newStratum(t)
	src := s.Golden("galaxy.golden.test")
	src.Layout = "flat"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	before := s.Stats().Bytes
	for _, at := range []string{"apps", "bin", "apps/nifti-bin"} {
		if got := names(t, m.Path(at)); !strings.Contains(got, "nifti-bin") && at != "apps/nifti-bin" {
			t.Errorf("ls %s: %s", at, got)
		}
	}
	if n := s.Stats().Bytes; n != before {
		t.Errorf("%d bytes were fetched for listings", n-before)
	}
	for app, want := range map[string]string{
		"nifti-bin/default": "nifti_tool", "dcm2niix/default": "dcm2niix", "mrtrix3/default": "mrinfo", "pytools/default": "pytool",
	} {
		got := strings.Fields(names(t, m.Path("apps", app, "bin")))
		t.Logf("%s: %s", app, got)
		if !slices.Contains(got, want) {
			t.Errorf("%s/bin lacks %s: %s", app, want, got)
		}
	}
	if exists(m.Path("bin", "dcm2niix-build")) {
		t.Error("a command that is not the app's own name stands in bin")
	}
	if r := m.Run(m.Path("apps/dcm2niix/default/bin/dcm2niix-build")); r.Status != 0 || !strings.Contains(r.Stdout, "build") {
		t.Errorf("dcm2niix-build: %+v", r)
	}
}

// TestGoldenImagesFetchWhatIsRead lists a directory in the largest image: its
// head and the tables at its end come, not the rest.
func TestGoldenImagesFetchWhatIsRead(t *testing.T) {
	s := newStratum(t)
	src := s.Golden("galaxy.golden.test")
	src.Layout = "flat"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	names(t, m.Path("apps"))
	before := s.Stats().Bytes
	if _, err := os.ReadDir(m.Path("apps/mrtrix3/default/rootfs/usr")); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(m.Path("apps/mrtrix3/default/image.sif"))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Bytes - before; n == 0 || n > st.Size()*35/100 {
		t.Errorf("%d of %d bytes were fetched", n, st.Size())
	}
}
