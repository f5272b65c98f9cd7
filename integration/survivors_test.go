package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// held are open files with what they must say.
type held struct {
	files []*os.File
	want  [][]byte
}

// holdFiles opens files that change, and reads a little of each.
func holdFiles(t *testing.T, l *liveSite) *held {
	t.Helper()
	h := &held{}
	image := "containers/" + liveName + "/" + liveName + ".simg/usr/data/"
	for path, want := range map[string][]byte{
		l.Raw(l.repo.FQRN, "data/changing"):          []byte("revision 0\n"),
		l.Raw(l.repo.FQRN, "data/inside/same"):       []byte("same\n"),
		l.Raw(l.repo.FQRN, image+"part"):             l.part,
		l.Raw(l.repo.FQRN, image+"stamp"):            []byte(l.mark),
		l.Path("apps/live/1.0/rootfs/usr/data/part"): l.part,
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		h.files, h.want = append(h.files, f), append(h.want, bytes.Clone(want))
	}
	return h
}

// check reads all from the daemon again, not from the kernel's pages.
func (h *held) check(t *testing.T) {
	t.Helper()
	for i, f := range h.files {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Error(err)
		}
		got := make([]byte, len(h.want[i])+1)
		n, err := f.ReadAt(got, 0)
		if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], h.want[i]) {
			t.Errorf("%s: %d bytes, %v; not what was opened", f.Name(), n, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != int64(len(h.want[i])) {
			t.Errorf("fstat of %s: size %d, %v", f.Name(), st.Size, err)
		}
	}
}

// stream is an open directory of which some was read.
type stream struct {
	dir  *os.File
	seen map[string]int
}

func openStream(t *testing.T, path string) *stream {
	t.Helper()
	d, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	s := &stream{dir: d, seen: map[string]int{}}
	s.some(t, 50)
	return s
}

func (s *stream) some(t *testing.T, n int) {
	t.Helper()
	names, err := s.dir.Readdirnames(n)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the open directory: %v", err)
	}
	for _, name := range names {
		s.seen[name]++
	}
}

// end reads the rest: every name that was there all the time came once.
func (s *stream) end(t *testing.T) {
	t.Helper()
	s.some(t, -1)
	for i := range 1500 {
		if name := fmt.Sprintf("stays%04d", i); s.seen[name] != 1 {
			t.Errorf("%s came %d times", name, s.seen[name])
			return
		}
	}
}

// overlay is one over an image's root, if we may mount one.
type overlay struct{ dir, lower string }

func (l *liveSite) overlay(rootfs string) *overlay {
	l.t.Helper()
	if syscall.Geteuid() != 0 {
		return nil
	}
	base := shortDir(l.t)
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	o := &overlay{dir: filepath.Join(base, "merged"), lower: rootfs}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", rootfs, base, base)
	if err := unix.Mount("overlay", o.dir, "overlay", 0, options); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := unix.Unmount(o.dir, 0); err != nil {
			l.t.Errorf("overlay: %v", err)
		}
	})
	return o
}

// check reads through the overlay, what was looked at before and what was not,
// and copies a file up.
func (o *overlay) check(t *testing.T, n int) {
	t.Helper()
	if o == nil {
		return
	}
	if b, err := os.ReadFile(filepath.Join(o.dir, "usr/data/stamp")); err != nil || string(b) != "mark0" {
		t.Errorf("overlay: stamp %q, %v", b, err)
	}
	fresh := filepath.Join(o.dir, fmt.Sprintf("usr/data/many/f%d", n))
	if b, err := os.ReadFile(fresh); err != nil || string(b) != fmt.Sprint(n) {
		t.Errorf("overlay: %s is %q, %v", fresh, b, err)
	}
	if err := os.WriteFile(fresh, []byte("copied up"), 0o644); err != nil {
		t.Errorf("overlay: %v", err)
	}
	names, err := os.ReadDir(filepath.Join(o.dir, "usr/data/many"))
	if err != nil || len(names) != 50 {
		t.Errorf("overlay: %d names, %v", len(names), err)
	}
}
