package cache

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// holdIndex locks dir's index until the test ends or held is closed, as the mapping
// of a killed process can.
func holdIndex(t *testing.T, dir string) (held *os.File) {
	t.Helper()
	held, err := os.Open(filepath.Join(dir, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	if err := flock(held, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return held
}

// TestAnIndexThatIsHeldIsCopied: it is used at once, and keeps what is put into it.
func TestAnIndexThatIsHeldIsCopied(t *testing.T) {
	dir := filledDir(t, 20) // one is pinned
	holdIndex(t, dir)
	var log records
	d := openDisk(t, dir, Options{Logger: log.logger()})
	if log.count("level=WARN") != 0 || len(d.Pins()) != 1 || d.Stats().Objects != 20 {
		t.Errorf("pins %v, %+v, %s", d.Pins(), d.Stats(), log.String())
	}
	if err := errors.Join(d.Pin(keyFor(5), "app"), d.Close()); err != nil {
		t.Error(err)
	}
	if d = openDisk(t, dir, Options{}); len(d.Pins()) != 2 || d.Stats().Objects != 20 {
		t.Errorf("then: pins %v, %+v", d.Pins(), d.Stats())
	}
	if left, err := os.ReadDir(filepath.Join(dir, tmpDir)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
