package integration

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestDamageThatWasFoundIsNotReadOn: what cache verify finds damaged is fetched
// anew by the next read, though the daemon has it open. Past the kernel's cache.
func TestDamageThatWasFoundIsNotReadOn(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	tree.File("file", content, 0o644)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "rot.example.org"}, tree)
	m := mount(t, setup{Sources: []source{src}})
	read := func() []byte { return directly(t, m.Raw(src.FQRN, "file"), len(content)) }
	if !bytes.Equal(read(), content) {
		t.Fatal("wrong from the start")
	}
	if n := m.rot(content[:16]); n != 1 {
		t.Fatalf("%d objects damaged", n)
	}
	wantRun(t, 1, "cache", "verify", "--mount", m.Dir)
	if !bytes.Equal(read(), content) {
		t.Error("the damage is still served after it was found")
	}
}

// rot damages the objects in the cache that hold mark, in the byte behind its
// first, and says how many there were.
func (m *mounted) rot(mark []byte) (damaged int) {
	m.t.Helper()
	err := filepath.WalkDir(filepath.Join(m.Cache, "objects"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		at := bytes.Index(b, mark)
		if at < 0 {
			return nil
		}
		damaged++
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("~"), int64(at)+1)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return damaged
}

// TestWrongPagesAreDropped: what the kernel keeps of an object that rotted before
// it was read goes when cache verify finds the damage: of a file, of one in
// chunks by two names, of files in images that are a file themselves.
func TestWrongPagesAreDropped(t *testing.T) {
	requireTools(t, "mksquashfs")
	s, dir := newStratum(t), shortDir(t)
	tree, content := cvmfstest.NewTree(), map[string][]byte{}
	for i, name := range []string{"whole", "chunked", "image"} {
		b := bytes.Repeat([]byte(name+"--"), 8000*(i+1))
		copy(b[len(b)-20_000:], "the mark of "+name)
		content[name] = b
	}
	image, root := filepath.Join(dir, "image"), filepath.Join(dir, "root")
	if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(root, "file"), content["image"], 0o644)); err != nil {
		t.Fatal(err)
	}
	if r := run(t, exec.Command("mksquashfs", root, image, "-all-root", "-no-progress", "-noD", "-noF")); r.Status != 0 {
		t.Fatal(r.Stdout, r.Stderr)
	}
	packed, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	tree.File("whole", content["whole"], 0o644)
	tree.Put("again", tree.File("chunked", content["chunked"], 0o644))
	tree.File("all/tool:1.0--h_0", packed, 0o755)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "rot.example.org", ChunkSize: 80_000}, tree)
	src.Layout = "flat"
	m := mount(t, setup{Sources: []source{src}, Args: []string{"--no-standby"}})
	m.Indexed()
	wantRun(t, 0, "prefetch", "tool", "--mount", m.Dir)
	for name, want := range map[string]string{"whole": "whole", "chunked": "chunked"} {
		if got := directly(t, m.Raw(src.FQRN, name), len(content[want])); !bytes.Equal(got, content[want]) {
			t.Fatalf("%s is wrong from the start", name)
		}
	}
	files := map[string]string{"whole": m.Raw(src.FQRN, "whole"), "chunked": m.Raw(src.FQRN, "again"), "image": m.Path("apps/tool/default/rootfs/file")}
	for name, path := range files {
		if n := m.rot([]byte("the mark of " + name)); n != 1 {
			t.Fatalf("%s: %d objects damaged", name, n)
		}
		if got, err := os.ReadFile(path); err != nil || bytes.Equal(got, content[name]) {
			t.Fatalf("%s is read right from a damaged object, %v", name, err)
		}
	}
	wantRun(t, 1, "cache", "verify", "--mount", m.Dir)
	for name, path := range files {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content[name]) {
			t.Errorf("%s: the kernel still has the wrong pages, %v", name, err)
		}
	}
}

// directly reads a file of size bytes past the kernel's cache.
func directly(t *testing.T, path string, size int) []byte {
	t.Helper()
	fd := open(t, path, unix.O_RDONLY|unix.O_DIRECT)
	b := alignedBuffer(t, (size+8192)&^4095)
	defer unix.Munmap(b)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b[:n])
}
