package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// TestLockReplacesFilesOnly: NEURODESK_LOCK=/dev/null is how a shell does without a lock, root's too.
func TestLockReplacesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	pipe, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "file")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	lock := launch.Lock{Apps: []launch.Locked{{Name: "fsl", Version: "6", Hash: "ab"}}}
	for at, want := range map[string]os.FileMode{pipe: os.ModeNamedPipe | 0o600, file: 0o640, dir + "/new": 0o644} {
		err := writeLock(at, lock)
		fi, statErr := os.Lstat(at)
		if statErr != nil || fi.Mode() != want || (err == nil) != want.IsRegular() {
			t.Errorf("%s: %v; then it is %v, %v", at, err, fi.Mode(), statErr)
		}
	}
}
