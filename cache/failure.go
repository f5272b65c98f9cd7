package cache

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// openFlags keeps a pipe that somebody put among the objects from blocking us,
// and a link from leading elsewhere.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

// warnAgain keeps a disk that fails and recovers from filling the log.
const warnAgain = 10 * time.Minute

// failure is the state of a disk that could not take an object. Guarded by Disk.mu.
type failure struct {
	since  time.Time // zero: the disk works
	until  time.Time // it is left alone till then
	warned time.Time
}

// degrade notes that the disk could not take an object of about size bytes.
// New objects go to memory for a while. A full file system also makes the
// cache give up some of what it holds, since others' data grew into its quota.
func (d *Disk) degrade(cause error, size int64) {
	if errors.Is(cause, ErrClosed) {
		return
	}
	full := errors.Is(cause, syscall.ENOSPC) || errors.Is(cause, syscall.EDQUOT)
	now := time.Now()
	d.mu.Lock()
	if d.fail.since.IsZero() {
		d.fail.since = now
	}
	d.fail.until = now.Add(d.opts.RetryAfter)
	warn := d.fail.warned.IsZero() || now.Sub(d.fail.warned) > warnAgain
	if warn {
		d.fail.warned = now
	}
	d.shrink = d.shrink || full
	d.mu.Unlock()
	if warn {
		d.log.Warn("cache disk fails; new objects are kept in memory meanwhile", "dir", d.dir, "size", size,
			"retry", d.opts.RetryAfter, "err", cause)
	}
	if full {
		d.kickEvict()
	}
}

// healthy notes that the disk took an object.
func (d *Disk) healthy() {
	d.mu.Lock()
	since := d.fail.since
	d.fail.since, d.fail.until = time.Time{}, time.Time{}
	d.mu.Unlock()
	if !since.IsZero() {
		d.log.Info("cache disk works again", "dir", d.dir, "dur", time.Since(since))
	}
}

// lastUse is what a file tells of its last use: reads where the mount records
// them, else the time it was written. Ns since 1970.
func lastUse(fi os.FileInfo) int64 {
	t := fi.ModTime().UnixNano()
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		t = max(t, st.Atim.Nano())
	}
	return t
}
