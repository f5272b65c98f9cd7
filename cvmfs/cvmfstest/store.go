package cvmfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zlib"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A Store is a web root of one repository, in memory or in a directory. It is an
// fs.FS for what was put in it. Safe for concurrent use.
type Store struct {
	dir string // empty: memory

	mu    sync.RWMutex // guards files
	files map[string][]byte
}

// NewStore returns an empty store in memory.
func NewStore() *Store { return &Store{files: make(map[string][]byte)} }

// NewDirStore returns a store in a directory, which must exist; what is in it
// stays.
func NewDirStore(dir string) *Store { return &Store{dir: dir} }

// A Format says how an object is stored.
type Format struct {
	Algorithm hash.Algorithm
	Suffix    hash.Suffix
	Plain     bool // as it is; otherwise a zlib stream
	Level     int  // of zlib, 1 to 9; 0 is 6
}

// Put stores content under the hash of its stored form, which it returns with
// the bytes as stored.
func (s *Store) Put(content []byte, f Format) (hash.Hash, []byte, error) {
	stored := content
	if !f.Plain {
		level := f.Level
		if level == 0 {
			level = 6
		}
		var err error
		if stored, err = deflate(content, level); err != nil {
			return hash.Hash{}, nil, err
		}
	}
	h := hash.Sum(f.Algorithm, stored)
	return h, stored, s.WriteFile(h.Path(f.Suffix), stored)
}

func deflate(content []byte, level int) ([]byte, error) {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: deflate: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("cvmfstest: deflate: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cvmfstest: deflate: %w", err)
	}
	return b.Bytes(), nil
}

// WriteFile puts b under name, in place of what was there; a reader sees the old
// or the new. The store keeps b, which must not be changed afterwards.
func (s *Store) WriteFile(name string, b []byte) error {
	if !validName(name) {
		return fmt.Errorf("cvmfstest: store %q: %w", name, fs.ErrInvalid)
	}
	if s.dir == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.files[name] = b
		return nil
	}
	p := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return fmt.Errorf("cvmfstest: store: %w", err)
	}
	t, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("cvmfstest: store: %w", err)
	}
	_, err = t.Write(b)
	if err = errors.Join(err, t.Chmod(0o644), t.Close()); err == nil {
		err = os.Rename(t.Name(), p)
	}
	if err != nil {
		return fmt.Errorf("cvmfstest: store %s: %w", name, errors.Join(err, os.Remove(t.Name())))
	}
	return nil
}

// validName is fs.ValidPath for names in any bytes, as external files have them.
func validName(name string) bool {
	return name != "" && "/"+name == path.Clean("/"+name)
}

// Remove takes name out of the store.
func (s *Store) Remove(name string) error {
	if !validName(name) {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrInvalid}
	}
	if s.dir != "" {
		return os.Remove(filepath.Join(s.dir, name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.files[name]; !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(s.files, name)
	return nil
}

// Open opens a file; directories are not to be seen in memory. It is what makes
// a Store an fs.FS.
func (s *Store) Open(name string) (fs.File, error) {
	if !validName(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if s.dir != "" {
		return os.Open(filepath.Join(s.dir, name))
	}
	s.mu.RLock()
	b, ok := s.files[name]
	s.mu.RUnlock()
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{Reader: bytes.NewReader(b), name: path.Base(name)}, nil
}

// A memFile is an open file in memory, and its own fs.FileInfo. Its embedded
// Reader seeks, as a web server needs it.
type memFile struct {
	*bytes.Reader
	name string
}

func (f *memFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *memFile) Close() error               { return nil }
func (f *memFile) Name() string               { return f.name }
func (f *memFile) Mode() fs.FileMode          { return 0o444 }
func (f *memFile) ModTime() time.Time         { return time.Time{} }
func (f *memFile) IsDir() bool                { return false }
func (f *memFile) Sys() any                   { return nil }

// Overlay shows the first of layers that has a file of that name, as an overlay
// of a faulty object over a good repository needs it.
func Overlay(layers ...fs.FS) fs.FS { return overlay(layers) }

type overlay []fs.FS

func (o overlay) Open(name string) (fs.File, error) {
	for _, l := range o {
		f, err := l.Open(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

var (
	_ fs.FS         = (*Store)(nil)
	_ io.ReadSeeker = (*memFile)(nil)
)
