package cache

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Open implements Store. A hit costs a look into a map while the object is in
// use, else an open, an fstat and a read of 64 bytes; no database transaction.
// A damaged file is removed and counts as not cached.
func (d *Disk) Open(key string) (*Object, error) {
	o, err := d.Recheck(key)
	if errors.Is(err, ErrNotCached) {
		d.misses.Add(1)
	}
	return o, err
}

// Recheck implements Store.
func (d *Disk) Recheck(key string) (*Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	o, err := d.openLive(key)
	if o != nil {
		d.hits.Add(1)
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	st := d.stripe(key)
	st.Lock()
	o, err = d.openFile(key)
	st.Unlock()
	if err != nil {
		o = d.mem.lookup(key)
	}
	if o == nil {
		return nil, fmt.Errorf("cache: %s: %w", key, ErrNotCached)
	}
	d.hits.Add(1)
	return o, nil
}

// openLive is one more handle of an object in use, or nil; ErrClosed after Close.
func (d *Disk) openLive(key string) (*Object, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("cache: open %s: %w", key, ErrClosed)
	}
	s := d.live[key]
	if s == nil {
		return nil, nil
	}
	s.refs++
	d.touch(key)
	return &Object{s: s}, nil
}

// touch marks key as used now. mu is held.
func (d *Disk) touch(key string) {
	if r, ok := d.objs[key]; ok {
		r.used = d.tick()
		d.setRec(key, r)
	}
}

// setRec puts or replaces what is known of key. mu is held.
func (d *Disk) setRec(key string, r rec) {
	if d.readOnly != nil {
		return
	}
	d.keepRec(key, r)
	d.pending.objs[key] = &r
}

// keepRec is setRec for what the index says already. mu is held.
func (d *Disk) keepRec(key string, r rec) {
	more := r.size - d.objs[key].size
	d.used += more
	if d.pinned[key] > 0 {
		d.pinnedSize += more
	}
	d.objs[key] = r
}

// records are all records, in no order, with mu held. It is let go now and then, so
// that a reader waits for a small part of a large cache only; what comes or goes
// meanwhile may be among them or not.
func (d *Disk) records() iter.Seq2[string, rec] {
	return func(yield func(string, rec) bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		n := 0
		for key, r := range d.objs {
			if n++; n%4096 == 0 {
				d.mu.Unlock()
				d.mu.Lock()
			}
			if !yield(key, r) {
				return
			}
		}
	}
}

// dropRec forgets key's file. mu is held.
func (d *Disk) dropRec(key string) {
	r, ok := d.objs[key]
	if !ok {
		return
	}
	d.used -= r.size
	if d.pinned[key] > 0 {
		d.pinnedSize -= r.size
	}
	delete(d.objs, key)
	d.pending.objs[key] = nil
	d.room.Broadcast()
}

// openFile opens key's file, checks it and puts it in use; it also adopts a
// file that was not known. The stripe is held.
func (d *Disk) openFile(key string) (*Object, error) {
	if o, err := d.openLive(key); o != nil || err != nil {
		return o, err // opened while we waited for the stripe
	}
	path := objectPath(d.dir, key)
	t, err := d.openChecked(key, path)
	if err != nil {
		d.refused(key, path, err)
		return nil, err
	}
	d.mark(t.f, t.fi)
	return d.enlist(key, t.f, path, t.length), nil
}

// refused draws the consequence of a file that could not be opened as key's.
// The stripe is held.
func (d *Disk) refused(key, path string, err error) {
	switch {
	case isGone(err):
	case errors.Is(err, errDamaged) && d.readOnly == nil:
		d.log.Warn("damaged object removed from the cache", "hash", key, "err", err)
		if err := os.Remove(path); err != nil && !isGone(err) {
			return // still there: it goes on counting
		}
	default:
		d.log.Debug("object cannot be opened", "hash", key, "err", err)
		return
	}
	d.mu.Lock()
	d.dropRec(key)
	d.mu.Unlock()
}

// trailed is an open file whose length and trailer are key's.
type trailed struct {
	f      *os.File
	fi     os.FileInfo
	length int64 // of the content
	sum    sums
}

// openTrailer opens path and checks kind, length and trailer. Errors that wrap
// errDamaged condemn the file, others do not.
func openTrailer(key, path string) (t trailed, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return t, fmt.Errorf("a link or a device: %w", errDamaged)
	}
	if err != nil {
		return t, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return t, err
	}
	if !fi.Mode().IsRegular() {
		return t, fmt.Errorf("%v: %w", fi.Mode().Type(), errDamaged)
	}
	var b [trailerSize]byte
	if fi.Size() >= trailerSize {
		if _, err := f.ReadAt(b[:], fi.Size()-trailerSize); err != nil {
			return t, err
		}
	}
	length, sum, err := parseTrailer(b[:], key, fi.Size())
	if err != nil {
		return t, err
	}
	return trailed{f, fi, length, sum}, nil
}

// openChecked is openTrailer, and a look at the whole content where a power
// loss may have cut it.
func (d *Disk) openChecked(key, path string) (trailed, error) {
	t, err := openTrailer(key, path)
	if err != nil {
		return t, err
	}
	d.mu.Lock()
	mt := t.fi.ModTime().UnixNano()
	doubtful := !d.objs[key].sound && mt >= d.state.since && mt <= d.state.until
	d.mu.Unlock()
	if doubtful {
		if err := sumContent(t.f, t.length, t.sum); err != nil {
			t.f.Close()
			return t, err
		}
		d.vouch(t.f)
	}
	return t, nil
}

// enlist puts an open file in use and on record, now used.
func (d *Disk) enlist(key string, f *os.File, path string, length int64) *Object {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &shared{key: key, path: path, f: f, size: length, from: d, refs: 1}
	d.live[key] = s
	if path != "" {
		d.setRec(key, rec{size: length + trailerSize, used: d.tick(), sound: true})
	}
	return &Object{s: s}
}

func (d *Disk) release(s *shared) {
	d.mu.Lock()
	s.refs--
	last := s.refs == 0
	if last && d.live[s.key] == s {
		delete(d.live, s.key)
		d.touch(s.key) // it was in use till now
	}
	over := last && d.overHigh()
	d.mu.Unlock()
	if last {
		s.f.Close()
	}
	if over {
		d.kickEvict()
	}
}

// Create implements Store.
func (d *Disk) Create(key string, size int64) (*Writer, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	d.mu.Lock()
	closed, usable := d.closed, d.readOnly == nil && time.Now().After(d.fail.until)
	d.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("cache: create %s: %w", key, ErrClosed)
	}
	if !usable {
		w := newWriter(key, size, nil, d.mem)
		return w, nil
	}
	w := newWriter(key, size, d, d.mem)
	f, err := d.createTmp()
	if err != nil {
		d.degrade(err, size)
		return newWriter(key, size, nil, d.mem), nil
	}
	w.f = f
	return w, nil
}

func (d *Disk) createTmp() (*os.File, error) {
	dir := filepath.Join(d.dir, tmpDir)
	f, err := os.CreateTemp(dir, tmpPattern)
	if isGone(err) {
		// Somebody removed the folder. The cache directory itself is not made
		// again: it may be a disk that is no longer mounted.
		if err := makeDir(dir, d.opts.FileMode); err != nil {
			return nil, err
		}
		f, err = os.CreateTemp(dir, tmpPattern)
	}
	if err != nil {
		return nil, err
	}
	if d.opts.Joint {
		_ = flock(f, syscall.LOCK_EX|syscall.LOCK_NB) // so that nobody sweeps it
	}
	if d.opts.FileMode != 0o600 {
		if err := f.Chmod(d.opts.FileMode); err != nil {
			discard(f)
			return nil, err
		}
	}
	return f, nil
}

// commit completes w's file and gives it its name. On an error w.f is still
// open for reading, and in tmp/.
func (d *Disk) commit(w *Writer) (*Object, error) {
	t := makeTrailer(w.key, w.n, w.sum)
	if _, err := w.f.Write(t[:]); err != nil {
		return nil, err
	}
	// The object is read through a file that cannot write. Closing the other
	// one first shows what a network file system reports only then.
	r, err := os.OpenFile(w.f.Name(), os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	err = w.f.Close()
	w.f = r
	if err != nil {
		return nil, err
	}
	o, err := d.install(w)
	if err != nil {
		return nil, err
	}
	d.healthy()
	d.makeRoom()
	return o, nil
}

// install renames w's file to its final name and opens it, or opens what is
// there. It takes over w.f, or leaves it to w.Abort.
func (d *Disk) install(w *Writer) (*Object, error) {
	st := d.stripe(w.key)
	st.Lock()
	defer st.Unlock()
	if o, err := d.openFile(w.key); err == nil || errors.Is(err, ErrClosed) {
		return o, err
	}
	if q := d.opts.Quota; q > 0 && w.n+trailerSize > q {
		// Larger than the whole quota: it lives, without a name, while in use.
		if err := os.Remove(w.f.Name()); err != nil {
			return nil, err
		}
		return d.takeOver(w, ""), nil
	}
	path := objectPath(d.dir, w.key)
	err := os.Rename(w.f.Name(), path)
	if isGone(err) {
		// The first object with this beginning, or objects/ was removed.
		for _, dir := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path)} {
			if err := makeDir(dir, d.opts.FileMode); err != nil {
				return nil, err
			}
		}
		err = os.Rename(w.f.Name(), path)
	}
	if err != nil {
		return nil, err
	}
	return d.takeOver(w, path), nil
}

func (d *Disk) takeOver(w *Writer, path string) *Object {
	f := w.f
	w.f, w.done = nil, true
	if path != "" {
		d.mark(f, nil)
		d.addUse(w.n + trailerSize)
	}
	return d.enlist(w.key, f, path, w.n)
}
