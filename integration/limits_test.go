package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// limitedFiles publishes n files of 5000 bytes in as many catalogs as directories.
func limitedFiles(t *testing.T, n int) (src source, check func(m *mounted)) {
	t.Helper()
	tree := cvmfstest.NewTree()
	for i := range n {
		tree.File(fmt.Sprintf("d%d/f%d", i%20, i), pattern(i, 5000), 0o644)
	}
	for i := range 20 {
		tree.Nested(fmt.Sprint("d", i))
	}
	_, _, src = newStratum(t).publish(cvmfstest.Options{FQRN: "limits.example.org"}, tree)
	return src, func(m *mounted) {
		t.Helper()
		var readers sync.WaitGroup
		for r := range 16 {
			readers.Go(func() {
				for i := r; i < n; i += 16 {
					b, err := os.ReadFile(m.Raw("limits.example.org", fmt.Sprintf("d%d/f%d", i%20, i)))
					if err != nil || !bytes.Equal(b, pattern(i, 5000)) {
						t.Errorf("file %d: %d bytes, %v", i, len(b), err)
					}
				}
			})
		}
		readers.Wait()
		if st := m.Status(); st.IOErrors > 0 || st.Cache.Degraded {
			t.Errorf("%d I/O errors, %+v", st.IOErrors, st.Cache)
		}
	}
}

// TestMountDescriptorLimit: with as few descriptors as 128 all is read, by many at
// once, and kept on the disk.
func TestMountDescriptorLimit(t *testing.T) {
	src, check := limitedFiles(t, 400)
	s, file := setup{Sources: []source{src}}.prepare(t)
	m := &mounted{Dir: s.Dir, Cache: s.Cache, Config: file, t: t}
	t.Cleanup(m.cleanUp)
	c := mountCommand(t, s, file)
	limited := exec.Command("prlimit", append([]string{"--nofile=128:128"}, c.Args...)...)
	limited.Env = c.Env
	if r := run(t, limited); r.Status != 0 {
		t.Fatalf("exit status %d, %s", r.Status, r.Stderr)
	}
	check(m)
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Status().PID)); err == nil && len(fds) > 128 {
		t.Errorf("%d descriptors", len(fds))
	}
}

// TestMountCacheTakenAway: the cache directory is removed, or another one is put
// in its place, under the daemon: all goes on to be read.
func TestMountCacheTakenAway(t *testing.T) {
	for name, take := range map[string]func(dir string) error{
		"removed":  os.RemoveAll,
		"replaced": func(dir string) error { return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700)) },
		"objects":  func(dir string) error { return os.RemoveAll(filepath.Join(dir, "objects")) },
	} {
		t.Run(name, func(t *testing.T) {
			src, check := limitedFiles(t, 200)
			m := mount(t, setup{Sources: []source{src}})
			check(m)
			if err := take(m.Cache); err != nil {
				t.Fatal(err)
			}
			for i := range 200 { // from the daemon again
				f, err := os.Open(m.Raw("limits.example.org", fmt.Sprintf("d%d/f%d", i%20, i)))
				if err == nil {
					err = errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
				}
				if err != nil {
					t.Error(err)
				}
			}
			st := m.Status()
			for i := range 200 {
				b, err := os.ReadFile(m.Raw("limits.example.org", fmt.Sprintf("d%d/f%d", i%20, i)))
				if err != nil || !bytes.Equal(b, pattern(i, 5000)) {
					t.Errorf("file %d: %d bytes, %v", i, len(b), err)
				}
			}
			if now := m.Status(); now.IOErrors > 0 || now.Fuse.Requests["READ"] == st.Fuse.Requests["READ"] {
				t.Errorf("%d I/O errors; READ %d, then %d", now.IOErrors, st.Fuse.Requests["READ"], now.Fuse.Requests["READ"])
			}
		})
	}
}

// TestMountInotifyLimit: where the user may have no inotify instance, a local
// folder is looked at instead, and what is put there still appears.
func TestMountInotifyLimit(t *testing.T) {
	folder := filepath.Join(shortDir(t), "images")
	image := func(name string) string { return filepath.Join(folder, name, name+".simg", "bin") }
	if err := os.MkdirAll(image("one_1_20240101"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, file := setup{Sources: []source{{Kind: "dir", Path: folder}}}.prepare(t)
	script := `set -e
echo 0 >/proc/sys/user/max_inotify_instances
"$1" mount --config "$2" "$3"
trap '"$1" umount "$3"' EXIT
ls "$3/apps"
mkdir -p "$4"
for i in $(seq 100); do [ ! -e "$3/apps/two" ] || break; read -t 0.1 x || true; done
ls "$3/apps"
`
	c := exec.Command("unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "bash", program(t), file, s.Dir, image("two_1_20240101"))
	r, w, err := os.Pipe() // that nobody writes to: read waits
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c.Stdin = r
	got := run(t, c)
	if got.Status != 0 || strings.Join(strings.Fields(got.Stdout), " ") != "one one two" {
		t.Errorf("exit status %d, %q, %s", got.Status, got.Stdout, got.Stderr)
	}
}
