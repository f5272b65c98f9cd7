package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMountPrefetchIntoAFullDisk: what only memory has kept is not told as fetched; once there is room, the same command
// goes on.
func TestMountPrefetchIntoAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system for the cache")
	}
	w := newSharedSite(t)
	disk := shortDir(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=700k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	s := setup{Sources: []source{w.src}, Cache: filepath.Join(disk, "c")}
	_, config := s.prepare(t)
	r := neurodeskfs(t, "prefetch", "tool", "--config", config)
	if r.Status != 1 || !strings.Contains(r.Stderr, "in memory only") || strings.Contains(r.Stdout, "all of it") {
		t.Errorf("exit status %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if again := w.prefetch(config).Images[0]; again.Fetched == 0 {
		t.Errorf("again: %+v", again)
	}
	w.stratum.Close()
	m := mount(t, s)
	w.read(m)
}
