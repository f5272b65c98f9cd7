package integration

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestDamageThatWasFoundIsNotReadOn: what cache verify finds damaged is fetched
// anew by the next read, though the daemon has it open. Past the kernel's cache,
// which keeps what it has.
func TestDamageThatWasFoundIsNotReadOn(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	tree.File("file", content, 0o644)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "rot.example.org"}, tree)
	m := mount(t, setup{Sources: []source{src}})
	read := func() []byte {
		t.Helper()
		fd := open(t, m.Raw(src.FQRN, "file"), unix.O_RDONLY|unix.O_DIRECT)
		b := alignedBuffer(t, 2*len(content))
		defer unix.Munmap(b)
		n, err := unix.Pread(fd, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(b[:n])
	}
	if !bytes.Equal(read(), content) {
		t.Fatal("wrong from the start")
	}
	damaged := 0
	err := filepath.WalkDir(filepath.Join(m.Cache, "objects"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		head := make([]byte, 16)
		if n, _ := f.ReadAt(head, 0); n == 16 && bytes.Equal(head, content[:16]) {
			damaged++
			_, err = f.WriteAt([]byte("X"), 7)
		}
		return err
	})
	if err != nil || damaged != 1 {
		t.Fatalf("%d objects damaged, %v", damaged, err)
	}
	wantRun(t, 1, "cache", "verify", "--mount", m.Dir)
	if !bytes.Equal(read(), content) {
		t.Error("the damage is still served after it was found")
	}
}
