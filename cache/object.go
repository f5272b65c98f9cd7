package cache

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// Object is an open object. While it is open it is in use: it is not evicted,
// and it reads on unchanged even when it is removed by Remove, Clear or Verify.
// All methods may be called concurrently; Close ends this handle and no
// other of the same object.
type Object struct {
	s      *shared
	closed atomic.Bool
}

// shared is what all handles of one object have in common. refs is guarded by
// the mutex of the store that made it; the rest never changes.
type shared struct {
	key   string
	path  string   // "" when the object has no name in the file system
	f     *os.File // nil in memory
	data  []byte   // nil on disk
	size  int64
	from  interface{ release(*shared) }
	refs  int
	bytes bool // in memory, even when data is empty
}

// Size is the content's length in bytes.
func (o *Object) Size() int64 { return o.s.size }

// Path is the object's file, "" when it is in memory or larger than the quota.
// It may vanish when the object is not in use. The file carries 64 bytes
// behind the content.
func (o *Object) Path() string { return o.s.path }

// Bytes is the content of an object in memory, nil for one on disk. It must
// not be changed.
func (o *Object) Bytes() []byte {
	if o.s.bytes {
		return o.s.data[:len(o.s.data):len(o.s.data)]
	}
	return nil
}

// ReadAt implements io.ReaderAt over the content; a file that ends before the
// content does gives io.ErrUnexpectedEOF. After Close it returns os.ErrClosed.
func (o *Object) ReadAt(p []byte, off int64) (int, error) {
	if o.closed.Load() {
		return 0, fmt.Errorf("cache: read %s: %w", o.s.key, os.ErrClosed)
	}
	if off < 0 {
		return 0, fmt.Errorf("cache: read %s at %d: negative offset", o.s.key, off)
	}
	if o.s.bytes {
		return bytes.NewReader(o.s.data).ReadAt(p, off)
	}
	if off >= o.s.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	short := int64(len(p)) > o.s.size-off
	if short {
		p = p[:o.s.size-off]
	}
	n, err := o.s.f.ReadAt(p, off)
	switch {
	case err == io.EOF && n < len(p):
		return n, fmt.Errorf("cache: read %s: %w", o.s.key, io.ErrUnexpectedEOF)
	case err != nil && err != io.EOF:
		return n, fmt.Errorf("cache: read %s: %w", o.s.key, err)
	case short:
		return n, io.EOF
	}
	return n, nil
}

// Close ends the use of this handle. It never fails, and may be called again.
func (o *Object) Close() error {
	if o.closed.CompareAndSwap(false, true) {
		o.s.from.release(o.s)
	}
	return nil
}
