package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountNodesOutliveWorkers holds a file or directory of each kind that nodes
// are numbered in, and asks the next workers for it by that number: the kernel
// keeps nothing, and looks no name up again.
func TestMountNodesOutliveWorkers(t *testing.T) {
	const fqrn = "galaxy.golden.test"
	src := newStratum(t).Golden(fqrn)
	src.Layout = "flat"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	packed, unpacked := m.Path("apps/nifti-bin/default/rootfs"), m.Path("apps/busybox/1.35.0--plain_0/rootfs")
	commands, err := os.ReadDir(m.Path("bin"))
	if err != nil || len(commands) == 0 {
		t.Fatalf("%d commands, %v", len(commands), err)
	}

	held := map[string]*heldNode{}
	for kind, path := range map[string]string{
		"raw": m.Raw(fqrn, "all/oldtool:1.0--raw_0"), "image": firstFile(t, unpacked), "squashfs": firstFile(t, packed),
		"generated": m.Path("bin", commands[0].Name()), "launcher": m.Path(".neurodeskfs/launcher"), "frozen": m.Path(".neurodeskfs/status.json"),
		"directory": m.Path("apps"), "directory of an image": unpacked, "directory of a squashfs": packed, "raw directory": m.Raw(fqrn, "all"),
	} {
		h, err := holdNode(path)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		defer unix.Close(h.fd)
		held[kind] = h
	}
	for round := range 3 { // without a look at status.json, of which only the last ones are kept
		eventually(t, "a standby is there", func() bool { return len(daemonsOf(m.Dir)) == 3 })
		if err := syscall.Kill(workerOf(m.Dir), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for kind, h := range held {
			if err := h.check(); err != nil {
				t.Errorf("round %d, %s: %v", round, kind, err)
			}
		}
		eventually(t, "another worker serves", func() bool { return len(m.pauses()) == round+1 })
	}
	if s := m.Status(); s.IOErrors != 0 || s.Worker.Restarts != 3 {
		t.Errorf("%d I/O errors, %d take-overs", s.IOErrors, s.Worker.Restarts)
	}
}

// firstFile is the first regular file below a link to a directory that has bytes.
func firstFile(t *testing.T, dir string) (first string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() == 0 || info.Mode().Perm()&0o444 != 0o444 {
			return err
		}
		first = path
		return filepath.SkipAll
	})
	if err != nil || first == "" {
		t.Fatalf("no file in %s: %v", dir, err)
	}
	return first
}

// heldNode is an open file or directory, with what it was at first.
type heldNode struct {
	fd      int
	stat    unix.Statx_t
	content string
}

func holdNode(path string) (*heldNode, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	h := &heldNode{fd: fd}
	h.stat, h.content, err = h.look()
	return h, err
}

// look asks the worker for attributes, and for all bytes or names.
func (h *heldNode) look() (st unix.Statx_t, content string, err error) {
	if err := unix.Statx(h.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		return st, "", fmt.Errorf("statx: %w", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d", h.fd)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		entries, err := os.ReadDir(name)
		return st, fmt.Sprint(entries), err
	}
	if err := unix.Fadvise(h.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		return st, "", err
	}
	sum := sha256.New()
	f := io.NewSectionReader(readerAt(h.fd), 0, int64(st.Size))
	if n, err := io.Copy(sum, f); err != nil || n != int64(st.Size) {
		return st, "", fmt.Errorf("%d bytes of %d: %w", n, st.Size, err)
	}
	return st, fmt.Sprintf("%x", sum.Sum(nil)), nil
}

func (h *heldNode) check() error {
	st, content, err := h.look()
	if err != nil {
		return err
	}
	when := st.Mtime == h.stat.Mtime || st.Mode&unix.S_IFMT == unix.S_IFDIR // a worker may list anew
	if st.Ino != h.stat.Ino || st.Size != h.stat.Size || st.Mode != h.stat.Mode || !when || content != h.content {
		return fmt.Errorf("inode %d, %d bytes, mode %o, %s; was %d, %d, %o, %s", st.Ino, st.Size, st.Mode, content, h.stat.Ino, h.stat.Size, h.stat.Mode, h.content)
	}
	return nil
}

// readerAt reads a descriptor.
type readerAt int

func (fd readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(fd), p, off)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}
