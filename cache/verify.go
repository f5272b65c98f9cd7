package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Progress is how far Verify is. Bytes are of content.
type Progress struct {
	Checked, Objects int
	Bytes            int64
}

// Report is what Verify found.
type Report struct {
	Progress
	Damaged    []string // keys removed, sorted
	Unreadable []string // keys whose file could not be read, and stays
}

// Verify reads every object on disk and compares it with its sums. Damaged
// ones are removed and named; who has one open reads on. progress, which may
// be nil, is called after each object. The cache serves meanwhile. Verify
// fails with ctx's error, Writable's or ErrClosed; the report then covers what was
// done.
func (d *Disk) Verify(ctx context.Context, progress func(Progress)) (Report, error) {
	var r Report
	if err := cmp.Or(d.Writable(), d.Settle(ctx)); err != nil {
		return r, err
	}
	list := d.List()
	r.Objects = len(list)
	for _, e := range list {
		if err := d.interrupted(ctx); err != nil {
			return r, err
		}
		n, err := d.verifyOne(e.Key)
		switch {
		case errors.Is(err, errDamaged):
			r.Damaged = append(r.Damaged, e.Key)
		case err != nil && !isGone(err): // gone: evicted meanwhile
			r.Unreadable = append(r.Unreadable, e.Key)
		}
		r.Checked++
		r.Bytes += n
		if progress != nil {
			progress(r.Progress)
		}
	}
	if len(r.Unreadable) == 0 {
		// Nothing is left that a power loss may have cut.
		d.mu.Lock()
		d.state.since, d.state.until = 0, 0
		d.newState = true
		d.mu.Unlock()
	}
	return r, nil
}

// verifyOne sums key's object. A damaged one is removed, if it is still the
// file that was read, and no longer handed out.
func (d *Disk) verifyOne(key string) (int64, error) {
	path := objectPath(d.dir, key)
	t, err := openTrailer(key, path)
	if err == nil {
		defer t.f.Close()
		err = sumContent(t.f, t.length, t.sum)
	}
	if err == nil {
		d.mu.Lock()
		if r, ok := d.objs[key]; ok {
			r.sound = true
			d.objs[key] = r
		}
		d.mu.Unlock()
	}
	if !errors.Is(err, errDamaged) {
		return t.length, err
	}
	st := d.stripe(key)
	st.Lock()
	defer st.Unlock()
	if now, nerr := openTrailer(key, path); nerr == nil {
		now.f.Close()
		if t.fi == nil || !os.SameFile(t.fi, now.fi) {
			return now.length, nil // replaced by a good one meanwhile
		}
	}
	d.refused(key, path, err)
	d.mu.Lock()
	delete(d.live, key)
	d.mu.Unlock()
	return t.length, err
}

// Entry is one object on disk.
type Entry struct {
	Key      string
	Size     int64 // of the content, bytes
	LastUsed time.Time
	InUse    bool
	Owners   []string // of its pins, sorted
}

// List is what is on disk, most recently used first.
func (d *Disk) List() []Entry {
	owners := map[string][]string{}
	d.mu.Lock()
	for id := range d.pins {
		owners[id.key] = append(owners[id.key], id.owner)
	}
	d.mu.Unlock()
	for _, o := range owners {
		slices.Sort(o)
	}
	var list []Entry
	for key, r := range d.records() {
		list = append(list, Entry{Key: key, Size: r.size - trailerSize, LastUsed: time.Unix(0, r.used),
			InUse: d.live[key] != nil, Owners: owners[key]})
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), cmp.Compare(a.Key, b.Key))
	})
	return list
}

// DirInfo is what Info sees of a cache directory.
type DirInfo struct {
	Dir     string
	Objects int
	Bytes   int64 // of the files, trailers included
	Held    bool  // a process has it open
	Holder  int   // its pid, 0 when there is none or it is not known
}

// Info looks at a cache directory from outside, whether or not a process has
// it open, and changes nothing. ErrLayout: it is none; else ctx's error or the
// file system's.
func Info(ctx context.Context, dir string) (DirInfo, error) {
	info := DirInfo{Dir: dir}
	made, err := checkLayout(dir)
	if err != nil {
		return info, err
	}
	if !made {
		return info, fmt.Errorf("cache: %s holds no cache yet: %w", dir, ErrLayout)
	}
	info.Held, info.Holder = held(dir, func(f *os.File) error { return flock(f, syscall.LOCK_SH|syscall.LOCK_NB) })
	err = filepath.WalkDir(filepath.Join(dir, objectsDir), func(_ string, e fs.DirEntry, err error) error {
		if isGone(err) {
			return nil // evicted meanwhile
		}
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !e.Type().IsRegular() {
			return nil
		}
		if fi, err := e.Info(); err == nil {
			info.Objects++
			info.Bytes += fi.Size()
		}
		return nil
	})
	if err != nil {
		return info, fmt.Errorf("cache: look at %s: %w", dir, err)
	}
	return info, nil
}

// Free reports why the files in dir may not be given to another user: ErrLayout,
// it is somebody's own directory, or of a newer version; ErrLocked, a process
// has it open. A directory that is empty or missing is free.
func Free(dir string) error {
	if _, err := checkLayout(dir); err != nil {
		return err
	}
	if held, _ := held(dir, func(f *os.File) error { return awaitLock(f, syscall.LOCK_EX) }); held {
		return fmt.Errorf("cache: %s is in use by another process: unmount there, or choose another cache directory: %w", dir, ErrLocked)
	}
	return nil
}

// held looks whether a process has the directory so that take is refused its
// lock, and which process, 0 if that is not known.
func held(dir string, take func(*os.File) error) (bool, int) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return false, 0
	}
	defer f.Close()
	if !errors.Is(take(f), syscall.EWOULDBLOCK) {
		return false, 0
	}
	return true, holderPID(f)
}
