package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a tmpfs of size (as of mount -o size=) for the test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatalf("mount: %v", err)
		}
		t.Skipf("needs root: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	mnt := smallDisk(t, "1m")
	var log records
	d := openDisk(t, filepath.Join(mnt, "cache"), Options{Logger: log.logger(), RetryAfter: time.Nanosecond})
	// Somebody else fills the disk; then a single object passes what is left
	// in mid-write, and is carried over.
	big := contentFor(keyFor(0), 3<<20)
	w, err := d.Create(keyFor(0), -1)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(big); at += 100_000 {
		if _, err := w.Write(big[at:min(at+100_000, len(big))]); err != nil {
			t.Fatal(err)
		}
	}
	if !d.Stats().Degraded {
		t.Error("not degraded")
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if o.Bytes() == nil || !bytes.Equal(o.Bytes(), big) {
		t.Error("content not carried over")
	}
	wantContent(t, d, keyFor(0), big)
	o.Close()
	// Much more than fits goes through; never an error, never a wrong byte.
	for i := 1; i < 60; i++ {
		key := keyFor(i)
		store(t, d, key, contentFor(key, 50_000)).Close()
		wantContent(t, d, key, contentFor(key, 50_000))
	}
	if n := log.count("cache disk fails"); n != 1 {
		t.Errorf("warned %d times: %s", n, log.String())
	}
	if d.Stats().Objects == 0 {
		t.Error("nothing on disk")
	}
	eventually(t, "the disk is used again once there is room", func() bool {
		store(t, d, keyFor(70), contentFor(keyFor(70), 10)).Close()
		if d.Stats().Degraded {
			d.mem.remove(keyFor(70))
		}
		return !d.Stats().Degraded
	})
	checkAccounts(t, d)
}

// TestFullDiskInOneWrite: the disk takes a part of what a single Write brings.
func TestFullDiskInOneWrite(t *testing.T) {
	d := openDisk(t, filepath.Join(smallDisk(t, "1m"), "cache"), Options{})
	for i, size := range []int{3 << 20, 3<<20 + 1, 5*writeStep - 1} {
		content := contentFor(keyFor(i), size)
		w, err := d.Create(keyFor(i), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.Write(content); n != size || err != nil {
			t.Errorf("%d of %d bytes, %v", n, size, err)
		}
		o, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, d, keyFor(i), content)
		o.Close()
	}
	if !d.Stats().Degraded {
		t.Error("all went to a disk that has no room for it")
	}
}

// A disk that is full of other people's data before we come.
func TestNoRoomAtAll(t *testing.T) {
	mnt := smallDisk(t, "64k")
	if err := os.WriteFile(filepath.Join(mnt, "other"), make([]byte, 64<<10), 0o600); err == nil {
		t.Log("tmpfs gave more than asked for")
	}
	d, err := Open(filepath.Join(mnt, "cache"), Options{RetryAfter: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range 5 {
		store(t, d, keyFor(i), contentFor(keyFor(i), 5000)).Close()
		wantContent(t, d, keyFor(i), contentFor(keyFor(i), 5000))
	}
	if err := d.PutMeta("b", "k", []byte("v")); err != nil {
		t.Error(err)
	}
	d.Flush()
	if v, err := d.GetMeta("b", "k"); string(v) != "v" {
		t.Error(err)
	}
}

func TestDiskTurnsReadOnly(t *testing.T) {
	mnt := smallDisk(t, "4m")
	dir := filepath.Join(mnt, "cache")
	var log records
	opts := Options{Logger: log.logger(), RetryAfter: time.Nanosecond}
	d := openDisk(t, dir, opts)
	fill(t, d, 0, 3, 1000)
	d.PutMeta("head", "repo", []byte("manifest"))
	d.mu.Lock()
	d.state.boot, d.newState = "another boot", true // that ended by a power loss
	d.mu.Unlock()
	d.Close()
	flip(t, onlyFile(d, keyFor(2)))
	before := time.Now().Add(-time.Minute)
	os.Chtimes(onlyFile(d, keyFor(2)), before, before)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", mnt, "tmpfs", syscall.MS_REMOUNT|flags, "size=4m"); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	d, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, d, keyFor(1), contentFor(keyFor(1), 1000))
	if cached(t, d, keyFor(2)) {
		t.Error("altered content served after a power loss")
	}
	if v, err := d.GetMeta("head", "repo"); string(v) != "manifest" {
		t.Errorf("what was known: %q, %v", v, err)
	}
	fill(t, d, 5, 6, 1000)
	wantContent(t, d, keyFor(5), contentFor(keyFor(5), 1000))
	if s := d.Stats(); !s.Degraded || s.MemoryBytes != 1000 {
		t.Errorf("%+v", s)
	}
	if log.count("cannot be written") != 1 {
		t.Error(log.String())
	}
	_, verified := d.Verify(t.Context(), nil)
	_, pruned := d.Prune(t.Context(), 0)
	_, cleared := d.Clear(t.Context(), false)
	for name, err := range map[string]error{"verify": verified, "prune": pruned, "clear": cleared, "pin": d.Pin(keyFor(1), "app"), "list": d.Writable()} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.Close()
	remount(0)
	os.Remove(onlyFile(d, keyFor(2)))
}

func TestDiskVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var log records
	d, err := Open(dir, Options{Logger: log.logger(), RetryAfter: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fill(t, d, 0, 3, 1000)
	held, _ := d.Open(keyFor(0))
	defer held.Close()
	w, _ := d.Create(keyFor(8), -1)
	w.Write(contentFor(keyFor(8), 500))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := held.ReadAt(make([]byte, 1000), 0); err != nil {
		t.Error(err)
	}
	if cached(t, d, keyFor(1)) {
		t.Error("served from nowhere")
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	wantContent(t, d, keyFor(8), contentFor(keyFor(8), 500))
	fill(t, d, 1, 3, 1000)
	wantContent(t, d, keyFor(1), contentFor(keyFor(1), 1000))
	if !d.Stats().Degraded || log.count("cache disk fails") != 1 {
		t.Error(log.String())
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("cache directory made again: it may be a disk that is no longer mounted")
	}
	if err := os.Mkdir(dir, 0o700); err != nil { // it comes back, empty
		t.Fatal(err)
	}
	fill(t, d, 10, 12, 1000)
	if d.Stats().Degraded || !cached(t, d, keyFor(10)) || log.count("works again") != 1 {
		t.Errorf("%+v\n%s", d.Stats(), log.String())
	}
}

func TestRetryWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	d, err := Open(dir, Options{RetryAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tmp := filepath.Join(dir, tmpDir)
	os.Remove(tmp)
	os.WriteFile(tmp, nil, 0o600)
	fill(t, d, 0, 1, 10)
	os.Remove(tmp)
	fill(t, d, 1, 2, 10)
	if s := d.Stats(); !s.Degraded || s.Objects != 0 || s.MemoryBytes != 20 {
		t.Errorf("%+v", s)
	}
	d.mu.Lock()
	d.fail.until = time.Now()
	d.mu.Unlock()
	fill(t, d, 2, 3, 10)
	if s := d.Stats(); s.Degraded || s.Objects != 1 {
		t.Errorf("%+v", s)
	}
}
