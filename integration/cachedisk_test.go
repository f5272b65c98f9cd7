package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// That a second daemon on one cache directory is told who holds it is shown by
// TestMountSecondDaemonOnOneCache; bit rot in the cache by TestKilledDaemon's and
// the commands' cache verify.

const (
	diskFQRN  = "disk.example.org"
	diskFiles = 120
	diskFile  = 50_000 // bytes
)

// diskSite is a repository of some megabytes that is mounted with its cache on a
// small file system of its own.
type diskSite struct {
	*mounted
	*stratum
	t     *testing.T
	disk  string // the file system
	files [][]byte
	next  int
}

func newDiskSite(t *testing.T, size string) *diskSite {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system for the cache")
	}
	w := &diskSite{t: t, stratum: newStratum(t), disk: shortDir(t)}
	random := rand.NewChaCha8([32]byte{4})
	tree := cvmfstest.NewTree()
	for i := range diskFiles {
		content := make([]byte, diskFile)
		random.Read(content)
		tree.File(diskName(i), content, 0o644)
		w.files = append(w.files, content)
	}
	for i := range 4 {
		tree.Nested(fmt.Sprintf("dir%d", i))
	}
	_, _, src := w.publish(cvmfstest.Options{FQRN: diskFQRN}, tree)
	w.tmpfs(0, size)
	t.Cleanup(func() {
		if err := syscall.Unmount(w.disk, 0); err != nil {
			t.Errorf("the cache's disk is in use: %v", err)
			syscall.Unmount(w.disk, syscall.MNT_DETACH)
		}
	})
	w.mounted = mount(t, setup{Sources: []source{src}, Cache: filepath.Join(w.disk, "c")})
	return w
}

func diskName(i int) string { return fmt.Sprintf("dir%d/file%d", i%4, i) }

func (w *diskSite) tmpfs(flags uintptr, size string) {
	w.t.Helper()
	if err := syscall.Mount("tmpfs", w.disk, "tmpfs", flags, "size="+size); err != nil {
		w.t.Fatal(err)
	}
}

// read reads the next n files that have not been read.
func (w *diskSite) read(n int) {
	w.t.Helper()
	for range n {
		w.again(w.next)
		w.next++
	}
}

// again reads file i.
func (w *diskSite) again(i int) {
	w.t.Helper()
	if b, err := os.ReadFile(w.Raw(diskFQRN, diskName(i))); err != nil || !bytes.Equal(b, w.files[i]) {
		w.t.Errorf("file %d: %d bytes, %v, or another content", i, len(b), err)
	}
}

// wantState compares what status says; nothing was ever answered with an error.
func (w *diskSite) wantState(degraded bool) {
	w.t.Helper()
	st := w.Status()
	if st.Cache.Degraded != degraded || st.IOErrors != 0 {
		w.t.Errorf("degraded %v, want %v; %d I/O errors", st.Cache.Degraded, degraded, st.IOErrors)
	}
	r := neurodeskfs(w.t, "status", w.Dir)
	if said := strings.Contains(r.Stdout, "the cache disk fails"); said != degraded || r.Status != 0 {
		w.t.Errorf("status says %s%s", r.Stdout, r.Stderr)
	}
}

// verified wants nothing wrong in the cache.
func (w *diskSite) verified() {
	w.t.Helper()
	if r := neurodeskfs(w.t, "cache", "verify", "--config", w.Config); r.Status != 0 {
		w.t.Errorf("verify: exit status %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// recovers reads on until the disk is tried again, which it is after half a minute.
func (w *diskSite) recovers() {
	w.t.Helper()
	pace := time.NewTicker(time.Second)
	defer pace.Stop()
	for end := time.Now().Add(commandPatience); time.Now().Before(end) && w.next < diskFiles; <-pace.C {
		w.read(1)
		if !w.Status().Cache.Degraded {
			return
		}
	}
	w.t.Error("the disk is not used again")
}

// TestCacheDisk breaks the disk of the cache under a live mount: all is read all
// the same, by way of memory, and the disk is used again when it works.
func TestCacheDisk(t *testing.T) {
	for name, c := range map[string]struct{ broken, mended func(w *diskSite) error }{
		"full": {
			func(w *diskSite) error {
				err := os.WriteFile(filepath.Join(w.disk, "others"), make([]byte, 4<<20), 0o600)
				if !errors.Is(err, unix.ENOSPC) {
					return fmt.Errorf("the disk is not full: %w", err)
				}
				return nil
			},
			func(w *diskSite) error { return os.Remove(filepath.Join(w.disk, "others")) },
		},
		"read-only": {
			func(w *diskSite) error {
				return errors.Join(syscall.Mount(w.disk, w.disk, "", syscall.MS_BIND, ""),
					syscall.Mount("", w.disk, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
			},
			func(w *diskSite) error { return syscall.Unmount(w.disk, syscall.MNT_DETACH) },
		},
		"gone": {
			func(w *diskSite) error { return syscall.Mount("tmpfs", w.disk, "tmpfs", 0, "size=4m") },
			func(w *diskSite) error { return syscall.Unmount(w.disk, syscall.MNT_DETACH) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newDiskSite(t, "4m")
			w.read(10)
			w.wantState(false)
			if err := c.broken(w); err != nil {
				t.Fatal(err)
			}
			w.read(40)
			for i := range w.next {
				w.again(i)
			}
			w.wantState(true)
			if err := c.mended(w); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(w.Log(), "cache disk fails"); n != 1 && name == "full" {
				t.Errorf("warned %d times", n)
			}
			w.recovers()
			w.read(3)
			w.wantState(false)
			w.verified()
			if log := w.Log(); strings.Count(log, "cache disk works again") != 1 || strings.Contains(log, "level=ERROR") {
				t.Errorf("logged:\n%s", log)
			}
		})
	}
}

// TestObjectLargerThanTheQuota reads one piece by piece: it is fetched once, and
// leaves nothing in the cache.
func TestObjectLargerThanTheQuota(t *testing.T) {
	const quota = 1 << 20
	content := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{5}).Read(content)
	tree := cvmfstest.NewTree()
	tree.File("large", content, 0o644)
	tree.File("small", content[:1000], 0o644)
	s := newStratum(t)
	_, rev, src := s.publish(cvmfstest.Options{FQRN: diskFQRN}, tree)
	m := mount(t, setup{Sources: []source{src}, Quota: fmt.Sprint(quota)})
	for name, want := range map[string][]byte{"large": content, "small": content[:1000]} {
		if b, err := os.ReadFile(m.Raw(diskFQRN, name)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes, %v, or another content", name, len(b), err)
		}
	}
	if n := s.Count(cvmfstest.Path(rev.Objects("large")[0])); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	st := m.Status()
	if st.IOErrors != 0 || st.Cache.Degraded || st.Cache.Used > quota || st.Cache.Objects < 3 {
		t.Errorf("status %+v", st)
	}
	if onDisk := objectBytes(t, m.Cache); onDisk != st.Cache.Used {
		t.Errorf("%d bytes in the files, status says %d", onDisk, st.Cache.Used)
	}
}
