package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestErrorsOfTheDisk: each that a failing or full disk gives makes new objects go
// to memory; those that mean "full" make room as well; none is the caller's.
func TestErrorsOfTheDisk(t *testing.T) {
	for cause, full := range map[syscall.Errno]bool{
		syscall.ENOSPC: true, syscall.EDQUOT: true, syscall.EIO: false, syscall.EROFS: false, syscall.ESTALE: false, syscall.ENOTCONN: false,
	} {
		t.Run(cause.Error(), func(t *testing.T) {
			var log records
			d := openDisk(t, filepath.Join(t.TempDir(), "c"), Options{Quota: 1 << 20, Logger: log.logger(), RetryAfter: time.Hour})
			fill(t, d, 0, 8, 10_000)
			wrapped := &os.PathError{Op: "write", Path: "x", Err: cause}
			if !isDiskFailure(wrapped) {
				t.Error("not taken for a failure of the disk")
			}
			d.degrade(fmt.Errorf("x: %w", wrapped), 100)
			d.mu.Lock()
			for full && d.passes == 0 { // for ever, if no pass is made
				d.room.Wait()
			}
			shrinks := d.shrink || d.passes > 0
			d.mu.Unlock()
			if shrinks != full || !full && !d.Stats().Degraded { // a full disk is fit again as soon as there is room
				t.Errorf("makes room: %v, want %v; degraded %v", shrinks, full, d.Stats().Degraded)
			}
			o := store(t, d, keyFor(100), contentFor(keyFor(100), 5000))
			defer o.Close()
			if !full && o.Bytes() == nil {
				t.Error("a new object went to the disk")
			}
			wantContent(t, d, keyFor(100), contentFor(keyFor(100), 5000))
		})
	}
}

// TestClockJumps: a clock that was a year ahead when objects were used, and is put
// right, neither freezes the order of removal nor throws away what is new.
func TestClockJumps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 10, 1000)
	d.mu.Lock()
	for key, r := range d.objs {
		r.used += int64(365 * 24 * time.Hour)
		d.setRec(key, r)
	}
	d.clock += int64(365 * 24 * time.Hour)
	d.mu.Unlock()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	future := time.Now().AddDate(1, 0, 0)
	for i := range 10 {
		os.Chtimes(objectPath(dir, keyFor(i)), future, future)
	}
	d = openDisk(t, dir, Options{})
	if err := d.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	ahead := time.Duration(d.clock - time.Now().UnixNano())
	d.mu.Unlock()
	if ahead > time.Minute {
		t.Errorf("the order's clock is %v ahead", ahead)
	}
	for i := range 10 {
		wantContent(t, d, keyFor(i), contentFor(keyFor(i), 1000))
	}
}

// TestUsesOfATimeToComeGoFirst, in their order, and not what is used now.
func TestUsesOfATimeToComeGoFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	d := openDisk(t, dir, Options{})
	d.mu.Lock()
	d.clock = time.Now().AddDate(1, 0, 0).UnixNano()
	d.mu.Unlock()
	fill(t, d, 0, 6, 1000-trailerSize)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, dir, Options{})
	fill(t, d, 6, 10, 1000-trailerSize)
	if _, err := d.Prune(t.Context(), 6000); err != nil || present(d, 10) != "....456789" {
		t.Errorf("%s, %v", present(d, 10), err)
	}
}
