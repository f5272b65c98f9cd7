package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// heldCopy is the index on its way to a file of its own; emptyTmp removes one that
// never got there.
const heldCopy = "new-index.part"

// errIndexHeld: the index is locked, and could not be copied.
var errIndexHeld = errors.New("another process has it locked")

// freeIndex leaves an index at path that can be locked, by the owner of the
// directory's lock. Who else has the index locked reads it, or is a worker that was
// killed while one of its threads waits in the kernel for its successor
// (fs/session, halted): its descriptors are closed, but bbolt's mapping, and with
// it the lock, stays until that thread is answered. Neither writes any more, so a
// copy takes the file's place at once. An index that is free or not there is left
// alone; an error wraps errIndexHeld.
func freeIndex(path string, mode os.FileMode) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // who opens it next says why
	}
	defer f.Close()
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(path), tmpDir, heldCopy)
	if err := copySynced(tmp, f, mode); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("cache: copy index: %w: %w", errIndexHeld, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("cache: replace index: %w: %w", errIndexHeld, err)
	}
	return nil
}

// copySynced makes the file path of src, on the disk when it returns nil: a rename
// that a power loss keeps must not find it empty.
func copySynced(path string, src io.Reader, mode os.FileMode) error {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
