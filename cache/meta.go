package cache

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	maxMetaValue   = 1 << 20
	maxMetaKey     = 4096
	metaFlushAt    = 8 << 20  // waiting bytes at which PutMeta flushes itself
	maxMetaWaiting = 64 << 20 // and at which it refuses, when they cannot be flushed
)

func newChange() change {
	return change{objs: map[string]*rec{}, pins: map[pinID]bool{}, meta: map[string][]byte{}}
}

// metaKey joins bucket and key; neither may be empty, and a bucket holds no NUL.
func metaKey(bucket, key string) (string, error) {
	if bucket == "" || key == "" || strings.Contains(bucket, "\x00") || len(bucket)+len(key) > maxMetaKey {
		return "", fmt.Errorf("cache: value %q in %q: want a bucket and a key of at most %d bytes together: %w",
			key, bucket, maxMetaKey, ErrSize)
	}
	return bucket + "\x00" + key, nil
}

// PutMeta keeps a small value that the caller can derive again. It is visible
// at once, and lost by a crash within Options.FlushEvery unless Flush is
// called, and with a damaged index; it is never returned altered. Values above
// 1 MiB and bad names are ErrSize. ErrNoRoom: too much waits for a disk that
// fails. value is copied.
func (d *Disk) PutMeta(bucket, key string, value []byte) error {
	if len(value) > maxMetaValue {
		return fmt.Errorf("cache: value %q in %q of %d bytes: %w", key, bucket, len(value), ErrSize)
	}
	return d.setMeta(bucket, key, append(make([]byte, 0, len(value)+4), value...))
}

// DeleteMeta removes a value; one that is not there is no error.
func (d *Disk) DeleteMeta(bucket, key string) error { return d.setMeta(bucket, key, nil) }

func (d *Disk) setMeta(bucket, key string, value []byte) error {
	k, err := metaKey(bucket, key)
	if err != nil {
		return err
	}
	d.mu.Lock()
	size := d.metaSize + int64(len(k)+len(value)-len(d.pending.meta[k]))
	if size > maxMetaWaiting || d.closed {
		err = ErrNoRoom
		if d.closed {
			err = ErrClosed
		}
		d.mu.Unlock()
		return fmt.Errorf("cache: put %q in %q: %w", key, bucket, err)
	}
	d.pending.meta[k] = value
	d.metaSize = size
	d.mu.Unlock()
	if size > metaFlushAt && (d.opts.Joint || d.index.db.Load() != nil) {
		d.Flush() // an error shows in the log, and when nothing more can wait
	}
	return nil
}

// GetMeta returns a value, which the caller may change, or an error wrapping
// ErrNotCached.
func (d *Disk) GetMeta(bucket, key string) ([]byte, error) {
	k, err := metaKey(bucket, key)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	v, waiting := d.pending.meta[k]
	if !waiting {
		v, waiting = d.flushing[k]
	}
	v = bytes.Clone(v)
	d.mu.Unlock()
	if !waiting && d.opts.Joint {
		v, waiting = d.jointMeta(k)
	}
	if !waiting {
		v, _ = d.indexedMeta(k)
	}
	if v == nil {
		return nil, fmt.Errorf("cache: value %q in %q: %w", key, bucket, ErrNotCached)
	}
	return v, nil
}

// indexedMeta reads one value of the index.
func (d *Disk) indexedMeta(k string) (v []byte, ok bool) {
	d.noteIndex(d.index.view(func(tx *bolt.Tx) error {
		var s []byte
		if s, ok = unseal([]byte(k), tx.Bucket(bucketMeta).Get([]byte(k))); ok {
			v = append([]byte{}, s...)
		}
		return nil
	}))
	return v, ok
}

// ForEachMeta calls fn with each value of a bucket, in the order of keys, and
// stops at its first error, which it returns. No lock and no transaction is
// held meanwhile: fn may use the cache, and sees values put after the start or not.
func (d *Disk) ForEachMeta(bucket string, fn func(key string, value []byte) error) error {
	prefix, err := metaKey(bucket, "x")
	if err != nil {
		return err
	}
	prefix = strings.TrimSuffix(prefix, "x")
	keys := map[string]bool{}
	collect := func(m map[string][]byte) {
		for k := range m {
			if strings.HasPrefix(k, prefix) {
				keys[k[len(prefix):]] = true
			}
		}
	}
	d.mu.Lock()
	collect(d.pending.meta)
	collect(d.flushing)
	d.mu.Unlock()
	if d.opts.Joint {
		collect(d.jointMetas())
	}
	err = d.index.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketMeta).Cursor()
		for k, _ := c.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
			keys[string(k[len(prefix):])] = true
		}
		return nil
	})
	d.noteIndex(err)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		v, err := d.GetMeta(bucket, key)
		if errors.Is(err, ErrNotCached) {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(key, v); err != nil {
			return err
		}
	}
	return nil
}

// noteIndex has a damaged index replaced soon.
func (d *Disk) noteIndex(err error) {
	if errors.Is(err, errIndexDamaged) {
		d.mu.Lock()
		d.indexBad = true
		d.mu.Unlock()
	}
}

// usesEvery is after how many intervals objects are flushed too. Each costs a page
// of 4 KiB, for keys are spread evenly, and one that is in use costs it each time,
// while the folders tell of all but the last uses.
const usesEvery = 12

// runFlush is the flushing goroutine.
func (d *Disk) runFlush() {
	t := time.NewTicker(d.opts.FlushEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-d.quit:
			return
		case <-t.C:
			d.flush(n%usesEvery == 0) // an error is logged
		}
	}
}

// Flush writes last uses, pins and derived values to the index and syncs it.
// What cannot be written waits for the next flush; the first
// error in a row is also logged. Where Writable says why nothing is, it does nothing.
func (d *Disk) Flush() error { return d.flush(true) }

// flush is Flush, with or without what is known of objects.
func (d *Disk) flush(objects bool) error {
	if d.readOnly != nil {
		return nil
	}
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	d.mu.Lock()
	bad := d.indexBad
	d.indexBad = false
	d.mu.Unlock()
	err := error(nil)
	switch {
	case d.opts.Joint:
		err = d.flushJointly()
	case bad:
		err = errIndexDamaged
	default:
		err = d.flushPending(objects)
	}
	if errors.Is(err, errIndexDamaged) {
		d.log.Warn("cache index is damaged and is made anew; derived data are lost", "dir", d.dir, "err", err)
		if err = d.index.replace(); err == nil {
			d.everythingPending()
			err = d.flushPending(true)
		}
	}
	first := !d.flushFails
	d.flushFails = err != nil
	if err != nil {
		if first {
			d.log.Warn("cache index cannot be written; its changes wait", "dir", d.dir, "err", err)
		}
		return fmt.Errorf("cache: flush index: %w", err)
	}
	return nil
}

// flushPending writes what waits, with or without objects, if anything does. flushMu
// is held.
func (d *Disk) flushPending(objects bool) error {
	if d.index.db.Load() == nil && !d.retryIndex() {
		return nil
	}
	d.mu.Lock()
	ch, later := d.pending, newChange()
	if !objects {
		ch.objs, later.objs = later.objs, ch.objs
	}
	if len(ch.objs)+len(ch.pins)+len(ch.meta) == 0 && !d.newState {
		d.mu.Unlock()
		return nil
	}
	d.pending = later
	d.flushing, d.metaSize = ch.meta, 0
	d.state.beat = time.Now().UnixNano()
	ch.state, d.newState = d.state, d.scanning
	if d.scanning {
		ch.state = d.former // a kill now must not make the next start skip the look
	}
	d.mu.Unlock()
	err := d.index.write(ch)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushing = nil
	if err != nil {
		d.putBack(ch)
		return err
	}
	d.dropForeign()
	return nil
}

// retryIndex tries to make the index that could not be made before. Without
// it memory holds all; only derived values wait.
func (d *Disk) retryIndex() bool {
	if d.index.path != "" && d.index.replace() == nil {
		d.everythingPending()
		return true
	}
	d.mu.Lock()
	d.pending.objs, d.pending.pins = map[string]*rec{}, map[pinID]bool{}
	d.mu.Unlock()
	return false
}

// putBack returns to pending what could not be written and is not changed
// again. mu is held.
func (d *Disk) putBack(ch change) {
	maps.Copy(ch.objs, d.pending.objs)
	maps.Copy(ch.pins, d.pending.pins)
	maps.Copy(ch.meta, d.pending.meta)
	d.pending = ch
	d.metaSize, d.newState = 0, true
	for k, v := range ch.meta {
		d.metaSize += int64(len(k) + len(v))
	}
}

// everythingPending has the next flush write all that memory knows.
func (d *Disk) everythingPending() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, r := range d.objs {
		d.pending.objs[key] = &r
	}
	for id := range d.pins {
		d.pending.pins[id] = true
	}
}
