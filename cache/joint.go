package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Joint use: several processes of one user have the directory open at once, each
// for as long as its job runs, and each may be killed at any instant. They have
// no server, no leader and no database in common, only files, and whatever one
// does to a file is done by one system call or not at all:
//
//	lock           held shared by each; who wants the directory for itself waits for all
//	objects/       as ever: a rename makes an object visible, to all
//	tmp/new-*.part flocked by its writer; without a lock it is a dead one's
//	tmp/KEY.claim  flocked and touched by who is fetching KEY; others wait, then find the object
//	use            the sum of sizes, changed under its lock; counted anew by each removal pass
//	meta/          one file for each derived value, renamed into place
//	boot           which boot of the kernel, and when its first process came
//	index.db       read only, if there is one: values and pins of times of sole use
//
// The kernel gives back the locks of a process that is killed, so that nothing
// has to be noticed, elected or taken over. What a kill can leave is a file in
// tmp/, swept later, and a sum that is off by one object until it is next counted.
//
// An open object's file is flocked too, shared, which is how a removal pass, of
// which there is one at a time, knows that another process has it in use.
const (
	useFile    = "use"
	bootFile   = "boot"
	metaDir    = "meta"
	claimEnd   = ".claim"
	passFile   = "pass" // flocked by the process that removes
	partStale  = time.Minute
	touchAfter = time.Minute
)

// takeJointly opens the directory for use together with others.
func (d *Disk) takeJointly(made bool) error {
	lock, err := os.OpenFile(filepath.Join(d.dir, lockFile), os.O_RDWR|os.O_CREATE, d.opts.FileMode)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	if err := awaitLock(lock, syscall.LOCK_SH); err != nil {
		defer lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("cache: %s is in use by %s, which does not share it: use that mount, or choose another cache directory: %w",
				d.dir, holder(lock), ErrLocked)
		}
		return fmt.Errorf("cache: %s lies on a file system without locks (%w), so jobs cannot share it: choose a cache directory on a local disk", d.dir, err)
	}
	err = makeLayout(d.dir, made, d.opts.FileMode)
	if err == nil {
		err = makeDir(filepath.Join(d.dir, metaDir), d.opts.FileMode)
	}
	if err != nil {
		lock.Close()
		return err
	}
	d.lock = lock
	sweepTmp(d.dir)
	d.index.openReadOnly(filepath.Join(d.dir, indexFile), d.opts.FileMode)
	c, _ := d.index.load()
	d.adoptPins(c) // others change the objects: the folders tell
	d.state = d.jointDoubt(c.state, bootID())
	d.scanning = true
	d.wg.Go(d.countFirst)
	return nil
}

// jointDoubt is doubt where there may be no index to keep the state in: a file
// says when this boot's first process came. What it cannot vouch for is summed
// when it is first opened, and then made younger than that.
func (d *Disk) jointDoubt(last state, boot string) state {
	now := time.Now().UnixNano()
	if last.boot == boot && boot != "" {
		return doubt(last, false, boot, now)
	}
	path := filepath.Join(d.dir, bootFile)
	text, _ := os.ReadFile(path)
	name, since, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	first, err := strconv.ParseInt(since, 10, 64)
	if err != nil || name != boot || first > now {
		first = now
		if f, err := d.createTmp(); err == nil {
			_, err = fmt.Fprintf(f, "%s %d\n", boot, first)
			if err != nil || os.Rename(f.Name(), path) != nil {
				os.Remove(f.Name())
			}
			f.Close()
		}
	}
	return doubt(last, last.boot == "", boot, first)
}

// vouch makes a file that was summed younger than what is in doubt, so that the
// next process need not sum it again.
func (d *Disk) vouch(f *os.File) {
	if d.opts.Joint {
		now := unix.NsecToTimespec(time.Now().UnixNano())
		_ = setTimes(f, now, now)
	}
}

func setTimes(f *os.File, access, modified unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{access, modified}, 0)
}

// sweepTmp removes what dead processes left. A part that was just made may not
// be locked yet, so only old ones go.
func sweepTmp(dir string) {
	old, _ := filepath.Glob(filepath.Join(globQuote(dir), tmpDir, "*"))
	for _, path := range old {
		fi, err := os.Lstat(path)
		claim := strings.HasSuffix(path, claimEnd)
		if err != nil || !fi.Mode().IsRegular() || !claim && time.Since(fi.ModTime()) < partStale {
			continue
		}
		if f, err := lockPath(path, os.O_RDWR); err == nil {
			os.Remove(path)
			f.Close()
		}
	}
}

// lockPath opens path and locks it, without waiting. The error is EWOULDBLOCK
// when another process has it, or took it away meanwhile.
func lockPath(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|openFlags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	have, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(path); err == nil && os.SameFile(have, there) {
			return f, nil
		}
	}
	f.Close()
	return nil, syscall.EWOULDBLOCK
}

// use is the sum of sizes in bytes; counted tells that it is one, and not only
// what came since somebody began to count.
type use struct {
	bytes   int64
	counted bool
}

// changeUse changes the sum under its lock and returns what it is then. A
// disk that fails leaves it as it was, and so does a process that was stopped
// while it had the lock; the next pass counts.
func (d *Disk) changeUse(change func(use) use) (use, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, useFile), os.O_RDWR|os.O_CREATE|openFlags, d.opts.FileMode)
	if err != nil {
		return use{}, err
	}
	defer f.Close()
	if err := awaitLock(f, syscall.LOCK_EX); err != nil {
		return use{}, err
	}
	var b [16]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		b = [16]byte{}
	}
	was := use{int64(binary.LittleEndian.Uint64(b[:])), b[8] == 1}
	now := change(was)
	now.bytes = max(now.bytes, 0)
	if now != was {
		binary.LittleEndian.PutUint64(b[:], uint64(now.bytes))
		b[8] = 0
		if now.counted {
			b[8] = 1
		}
		if _, err := f.WriteAt(b[:], 0); err != nil {
			return was, err
		}
	}
	d.mu.Lock()
	d.total = now.bytes
	d.mu.Unlock()
	return now, nil
}

// addUse adds the size of an object that was made, and of those before it that could
// not be added.
func (d *Disk) addUse(size int64) {
	if !d.opts.Joint {
		return
	}
	d.mu.Lock()
	size += d.owed
	d.owed = 0
	d.mu.Unlock()
	if _, err := d.changeUse(func(u use) use { u.bytes += size; return u }); err != nil {
		d.mu.Lock()
		d.owed += size
		d.mu.Unlock()
	}
}

// leaveUse leaves the sum for joint use, at the end of sole use.
func (d *Disk) leaveUse() {
	d.mu.Lock()
	u := use{d.used, !d.scanning}
	d.mu.Unlock()
	if u.counted {
		_, _ = d.changeUse(func(use) use { return u })
	}
}

// countFirst counts what is there, unless somebody has.
func (d *Disk) countFirst() {
	defer close(d.scanned)
	defer d.scanDone()
	u, err := d.changeUse(func(u use) use { return u })
	if err != nil || u.counted {
		return
	}
	_ = d.alone(func() {
		if u, err := d.changeUse(func(u use) use { return u }); err == nil && !u.counted {
			d.recount(func() {}) // till then what is there does not count against the quota
		}
	})
}

// alone runs a removal pass while no other process does, save one that was stopped,
// or gives up when the cache is closed.
func (d *Disk) alone(pass func()) error {
	path := filepath.Join(d.dir, passFile)
	var seen claimLife
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		f, err := lockPath(path, os.O_RDWR|os.O_CREATE)
		if err == nil {
			defer keepClaim(f)()
			pass()
			return nil
		}
		if errors.Is(err, syscall.EWOULDBLOCK) && seen.stale(path) {
			pass()
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-d.quit:
			return ErrClosed
		case <-time.After(wait):
		}
	}
}

// recount brings the records in line with the folders, lets pass remove some,
// and writes the sum. What others add meanwhile may count twice until the next
// count, but never not at all.
func (d *Disk) recount(pass func()) {
	start, err := d.changeUse(func(u use) use {
		if !u.counted {
			return use{} // from here on it says what comes meanwhile
		}
		return u
	})
	if err != nil {
		return
	}
	d.look(false)
	if d.interrupted(context.Background()) != nil {
		return
	}
	d.refreshUses()
	pass()
	d.mu.Lock()
	sum := d.used
	d.mu.Unlock()
	_, _ = d.changeUse(func(u use) use { return use{sum + max(0, u.bytes-start.bytes), true} })
}

// evictJointly is a removal pass over what all processes have made.
func (d *Disk) evictJointly() {
	removed, due, shrink := 0, false, false
	err := d.alone(func() {
		if _, err := d.changeUse(func(u use) use { return u }); err != nil {
			d.log.Warn("the cache's sum of sizes cannot be read", "dir", d.dir, "err", err)
		}
		d.mu.Lock()
		due = d.overHigh()
		d.mu.Unlock()
		if !due {
			return // another process has removed enough
		}
		d.recount(func() {
			var target int64
			_, shrink, target = d.evictTarget()
			done, _ := d.evictTo(context.Background(), target)
			removed = done.Objects
		})
	})
	if err != nil && !errors.Is(err, ErrClosed) {
		d.log.Warn("cache objects cannot be removed", "dir", d.dir, "err", err)
	}
	d.passEnded(shrink && removed > 0)
}

// refreshUses takes over when others last used an object.
func (d *Disk) refreshUses() {
	var keys []string
	for key := range d.records() {
		keys = append(keys, key)
	}
	for _, key := range keys {
		fi, err := os.Lstat(objectPath(d.dir, key))
		if err != nil {
			continue
		}
		d.mu.Lock()
		if r, ok := d.objs[key]; ok && lastUse(fi) > r.used {
			r.used = lastUse(fi)
			d.setRec(key, r)
		}
		d.mu.Unlock()
	}
}

// mark tells other processes that an object is in use, as long as f is open, and
// when that began.
func (d *Disk) mark(f *os.File, fi os.FileInfo) {
	if !d.opts.Joint {
		return
	}
	_ = flock(f, syscall.LOCK_SH|syscall.LOCK_NB) // refused by who is removing it just now
	if fi != nil && time.Since(time.Unix(0, lastUse(fi))) > touchAfter {
		_ = setTimes(f, unix.NsecToTimespec(time.Now().UnixNano()), unix.Timespec{Nsec: unix.UTIME_OMIT})
	}
}

// elsewhere reports whether another process has the object at path in use.
func (d *Disk) elsewhere(path string) bool {
	if !d.opts.Joint {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
