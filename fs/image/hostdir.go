package image

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// maxHostName bounds the path of an image on the host, bytes: it is part of its
// volume's key.
const maxHostName = 2 << 10

// IdentifyHost names the image in the host's file name by device, inode, size
// and modification time, so that a file that was replaced is another image.
// name is absolute. It opens nothing.
func IdentifyHost(name string) (id string, spec Spec, err error) {
	if len(name) > maxHostName {
		return "", spec, fmt.Errorf("%w: its path has more than %d bytes", ErrRefused, maxHostName)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", spec, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", spec, fmt.Errorf("%w: %s is no regular file", ErrRefused, name)
	}
	spec = hostSpec(name, &st)
	sum := sha1.Sum([]byte("host\x00" + spec.identity()))
	return hex.EncodeToString(sum[:]), spec, nil
}

func hostSpec(name string, st *unix.Stat_t) Spec {
	return Spec{Kind: KindHostFile, Host: name, Dev: st.Dev, Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano()}
}

// maxHostFiles is how many images of the host are open at one time.
const maxHostFiles = 128

// hostFile is an image file of the host. It stays open, whatever takes its
// name, as long as no maxHostFiles others were read since; then it is opened by
// its name again, or by the one that it was given since, and must be the same still.
type hostFile struct {
	images *Images
	spec   Spec
}

// hostHandle is an open file. Readers hold mu shared; whoever closes it, alone.
type hostHandle struct {
	mu sync.RWMutex
	f  *os.File // nil: closed
}

func (h *hostHandle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.f != nil {
		h.f.Close()
		h.f = nil
	}
}

func newHostFiles() *lru.Cache[Spec, *hostHandle] {
	c, err := lru.NewWithEvict(maxHostFiles, func(_ Spec, h *hostHandle) { h.close() })
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}

// hostFile opens the very file that spec means.
func (s *Images) hostFile(spec Spec) (squashfs.Source, int64, string, error) {
	h := &hostFile{s, spec}
	if err := h.with(func(*os.File) error { return nil }); err != nil {
		return nil, 0, "", err
	}
	return h, spec.Size, spec.Host, nil
}

// with calls fn with the open file, and reports an error too if the file is not
// what it was when it was named.
func (h *hostFile) with(fn func(*os.File) error) error {
	for {
		handle, ok := h.images.hostFiles.Get(h.spec)
		if !ok {
			f, err := h.openAt(h.spec.Host)
			if at := h.images.placeOf(h.spec); err != nil && at != "" {
				if moved, movedErr := h.openAt(at); movedErr == nil {
					f, err = moved, nil
				}
			}
			if err != nil {
				return err
			}
			handle = &hostHandle{f: f}
			if known, ok, _ := h.images.hostFiles.PeekOrAdd(h.spec, handle); ok {
				handle.close() // another opened it meanwhile
				handle = known
			}
		}
		handle.mu.RLock()
		if handle.f == nil { // closed before we held it
			handle.mu.RUnlock()
			continue
		}
		err := fn(handle.f)
		if err == nil {
			err = h.same(handle.f)
		}
		handle.mu.RUnlock()
		return err
	}
}

// openAt opens the file that was named, if it is the one at the path.
func (h *hostFile) openAt(at string) (*os.File, error) {
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := h.same(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// placeMemo is the memo's bucket of where files of the host were seen last.
const placeMemo = "host-place"

// identity names a file of the host whatever its path.
func (p Spec) identity() string { return fmt.Sprintf("%x.%x.%x.%x", p.Dev, p.Inode, p.Size, p.MTime) }

// Remember keeps in m where files of the host were seen, and their hashes, for daemons to come.
// It is to be called before anything is opened.
func (s *Images) Remember(m cvmfs.Memo) { s.memo = m }

// SeenAt notes where an image of the host lies now. One that was renamed stays the
// image that it was to all that know it by its first path.
func (s *Images) SeenAt(spec Spec) {
	if spec.Kind != KindHostFile {
		return
	}
	if was, known := s.places.Swap(spec.identity(), spec.Host); s.memo != nil && (!known || was != spec.Host) {
		s.memo.Put(placeMemo, spec.identity(), []byte(spec.Host))
	}
}

// placeOf is where an image of the host was seen last, "" if it is not known.
func (s *Images) placeOf(spec Spec) string {
	if at, ok := s.places.Load(spec.identity()); ok {
		return at.(string)
	}
	if s.memo == nil {
		return ""
	}
	at, _ := s.memo.Get(placeMemo, spec.identity())
	return string(at)
}

// same reports an error if f is not the file that was named.
func (h *hostFile) same(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: h.spec.Host, Err: err}
	}
	if hostSpec(h.spec.Host, &st) != h.spec {
		return fmt.Errorf("%s was changed: %w", h.spec.Host, volume.ErrStale)
	}
	return nil
}

// ReadAt implements squashfs.Source. A file that was written to in place gives
// no more bytes: they would not fit to what was read before.
func (h *hostFile) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err = h.with(func(f *os.File) (err error) {
		n, err = f.ReadAt(p, off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
	if errors.Is(err, iofs.ErrNotExist) { // which would be said of the name that is looked up in the image
		err = fmt.Errorf("%s is gone: %w", h.spec.Host, volume.ErrStale)
	}
	return n, err
}
