package cache

import (
	"fmt"
	"io"
	"math"
	"os"
)

// writeStep is how many bytes go to the disk by one write(2). For a larger one ext4
// takes memory in pieces of up to 2 MiB, which on a virtual machine is memory that
// nobody has used for long: all the time goes into the copy, that is into its first
// touch. A daemon that took in 32 objects of 8 MiB was in the kernel for 400 to 820
// ms when each came by one write, and for 160 to 290 ms by 128 KiB, 512 KiB or 1 MiB
// (six runs each, in turn; Linux 6.18, two AMD EPYC cores). And the sums are made of
// what the processor's cache still has.
const writeStep = 128 << 10

// Writer takes an object's content, in order. It is used by one goroutine and
// ends with Commit or Abort:
//
//	w, err := store.Create(key, -1)
//	...
//	defer w.Abort()
//	... io.Copy(w, body), verify ...
//	obj, err := w.Commit()
type Writer struct {
	key  string
	size int64 // announced, or -1
	n    int64 // written
	sum  sums
	disk *Disk // nil: memory only
	mem  *Memory
	f    *os.File // in tmp/; nil: the content is in buf
	buf  []byte
	done bool
}

func newWriter(key string, size int64, d *Disk, m *Memory) *Writer {
	if size < 0 {
		size = -1
	}
	w := &Writer{key: key, size: size, disk: d, mem: m}
	if d == nil && size > 0 {
		w.buf = make([]byte, 0, min(size, maxPrealloc))
	}
	return w
}

// Write takes the next bytes. It fails with ErrSize beyond the announced size,
// with ErrNoRoom when neither disk nor memory can take the object, and with
// os.ErrClosed after Commit or Abort. A failing disk is no error: the object
// goes on in memory.
func (w *Writer) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("cache: write %s: %w", w.key, os.ErrClosed)
	}
	limit := w.size
	if limit < 0 {
		limit = math.MaxInt64 - trailerSize
	}
	if int64(len(p)) > limit-w.n {
		return 0, fmt.Errorf("cache: write %s: more than %d bytes: %w", w.key, limit, ErrSize)
	}
	done := 0
	for w.f != nil && done < len(p) {
		step := p[done:min(len(p), done+writeStep)]
		if _, err := w.f.Write(step); err != nil {
			if err := w.toMemory(err); err != nil {
				return done, err
			}
			break
		}
		w.n += int64(len(step))
		w.sum.add(step)
		done += len(step)
	}
	if w.f != nil {
		return done, nil
	}
	rest := p[done:]
	if w.n+int64(len(rest)) > w.mem.objectLimit() {
		return done, fmt.Errorf("cache: write %s: %d bytes: %w", w.key, w.n+int64(len(rest)), ErrNoRoom)
	}
	w.buf = append(w.buf, rest...)
	w.n += int64(len(rest))
	return len(p), nil
}

// toMemory carries what is written over from a disk that failed with cause.
func (w *Writer) toMemory(cause error) error {
	w.disk.degrade(cause, w.n)
	f := w.f
	w.f = nil
	defer discard(f)
	if w.n > w.mem.objectLimit() {
		return fmt.Errorf("cache: write %s: %w: %w", w.key, ErrNoRoom, cause)
	}
	w.buf = make([]byte, w.n, max(w.n, min(w.size, maxPrealloc)))
	// The bytes are in the page cache as a rule, even when the disk is full.
	if _, err := f.ReadAt(w.buf, 0); err != nil && (w.n > 0 || err != io.EOF) {
		return fmt.Errorf("cache: carry %s over to memory after %w: %w", w.key, cause, err)
	}
	var got sums
	got.add(w.buf)
	if got != w.sum {
		return fmt.Errorf("cache: carry %s over to memory: %w: %w", w.key, errDamaged, cause)
	}
	return nil
}

// Commit completes the object and opens it. When another writer has committed
// the same key meanwhile, theirs is kept and opened. It fails with ErrSize when
// fewer bytes came than announced, and as Write does; then nothing is kept.
// The Writer is done in any case.
func (w *Writer) Commit() (*Object, error) {
	if w.done {
		return nil, fmt.Errorf("cache: commit %s: %w", w.key, os.ErrClosed)
	}
	defer w.Abort()
	if w.size >= 0 && w.n != w.size {
		return nil, fmt.Errorf("cache: commit %s: %d of %d bytes: %w", w.key, w.n, w.size, ErrSize)
	}
	if w.f != nil {
		o, err := w.disk.commit(w)
		if err == nil {
			return o, nil
		}
		if err := w.toMemory(err); err != nil {
			return nil, err
		}
	}
	w.done = true
	o := w.mem.commit(w.key, w.buf)
	w.buf = nil
	return o, nil
}

// Abort drops what was written. It may be called more than once, and after
// Commit, when it does nothing. It never fails.
func (w *Writer) Abort() error {
	w.done = true
	w.buf = nil
	if w.f != nil {
		discard(w.f)
		w.f = nil
	}
	return nil
}

// discard closes and removes a file in tmp/. Errors are of no use here: what
// stays behind is removed at the next start.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}
