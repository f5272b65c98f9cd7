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
	pipe, file, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	lock := launch.Lock{Apps: []launch.Locked{{Name: "fsl", Version: "6", Hash: "ab"}}}
	for at, want := range map[string]os.FileMode{pipe: os.ModeNamedPipe | 0o600, file: 0o640, link: os.ModeSymlink | 0o777, dir + "/new": 0o644} {
		err := writeLock(at, lock)
		info, statErr := os.Lstat(at)
		if statErr != nil || info.Mode() != want || (err == nil) != (at != pipe) {
			t.Errorf("%s: %v; then it is %v, %v", at, err, info.Mode(), statErr)
		}
	}
	if left, err := os.ReadDir(dir); len(left) != 4 || err != nil {
		t.Errorf("what is there: %v, %v", left, err)
	}
	if info, err := os.Stat(link); err != nil || info.Mode() != 0o640 || info.Size() == 0 {
		t.Errorf("behind the link: %v, %v", info, err)
	}
}
