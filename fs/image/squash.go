package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// squashPrefix begins the key of the tree of a single-file image.
const squashPrefix = "squash\x00"

// squash is the tree in a file. It is opened when something of it is asked for
// the first time, so that a key alone makes it.
type squash struct {
	images *Images
	id     string
	spec   Spec
	key    string
	turn   chan struct{} // holds one token: whoever takes it opens
	opened atomic.Pointer[squashfs.FS]
}

func newSquash(images *Images, id string, spec Spec) *squash {
	s := &squash{images: images, id: id, spec: spec, turn: make(chan struct{}, 1)}
	s.key = squashPrefix + id + "\x00" + string(spec.Format())
	s.turn <- struct{}{}
	return s
}

// takeApart reads a key that consists of prefix, an image's id and its spec.
func takeApart(prefix, key string) (id string, spec Spec, err error) {
	id, text, ok := strings.Cut(strings.TrimPrefix(key, prefix), "\x00")
	if ok {
		spec, err = ParseSpec([]byte(text))
	}
	if !ok || err != nil {
		return "", spec, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
	}
	return id, spec, nil
}

// fs opens the image if nobody did. An attempt that failed is made again.
func (s *squash) fs(ctx context.Context) (*squashfs.FS, error) {
	if f := s.opened.Load(); f != nil {
		return f, nil
	}
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f := s.opened.Load(); f != nil {
		return f, nil
	}
	src, size, name, err := s.images.file(ctx, s.id, s.spec)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.id, err)
	}
	f, err := s.open(ctx, src, size, name)
	if err == nil {
		err = s.images.verifier.admit(ctx, s.id, name, src, size)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	s.opened.Store(f)
	return f, nil
}

// open reads what must be known before anything can be looked up. Over a
// network that takes two round trips: head and end at once, then all tables.
func (s *squash) open(ctx context.Context, src squashfs.Source, size int64, name string) (*squashfs.FS, error) {
	wait := warmEnd(ctx, src, size)
	defer wait()
	e, err := locate(ctx, src, size)
	if err != nil {
		return nil, err
	}
	if e.overlaid {
		s.images.log.Warn("an image has an overlay partition, which only apptainer shows: what was changed in it is not to be seen", "image", name, "hash", s.id)
	}
	f, err := squashfs.Open(ctx, src, e.offset, e.size, squashfs.Options{Cache: s.images.blocks})
	switch {
	case err == nil:
		warmTables(ctx, src, f)
	case errors.Is(err, squashfs.ErrUnsupported):
		err = fmt.Errorf("%w: %w. Build it again: apptainer build NEW.sif OLD", ErrRefused, err)
	case errors.Is(err, squashfs.ErrCorrupt) && s.spec.Kind == KindHostFile: // else the cache may be what is damaged
		err = fmt.Errorf("%w: %w. Fetch or build it again", ErrRefused, err)
	}
	return f, err
}

// Key implements volume.Volume.
func (s *squash) Key() string { return s.key }

func (s *squash) child(ctx context.Context, f *squashfs.FS, e squashfs.Entry) (volume.Child, error) {
	attr, err := f.Stat(ctx, e.Entry)
	return volume.Child{
		Node: volume.Node{Volume: s, Entry: e.Entry}, Name: e.Name, Cookie: e.Cookie, Attr: attr, Valid: volume.Forever,
	}, err
}

// Lookup implements volume.Volume.
func (s *squash) Lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return volume.Child{}, err
	}
	e, err := f.Lookup(ctx, dir, name)
	if err != nil {
		return volume.Child{Valid: volume.Forever}, err
	}
	return s.child(ctx, f, e)
}

// ReadDir implements volume.Volume.
func (s *squash) ReadDir(ctx context.Context, dir, cookie uint64, fn func(volume.Child) bool) error {
	f, err := s.fs(ctx)
	if err != nil {
		return err
	}
	var failed error
	err = f.ReadDir(ctx, dir, cookie, func(e squashfs.Entry) bool {
		var c volume.Child
		c, failed = s.child(ctx, f, e)
		if errors.Is(failed, squashfs.ErrCorrupt) { // the others are none the worse for it
			c.Attr.Mode, c.Valid, failed = e.Mode, 0, nil
		}
		return failed == nil && fn(c)
	})
	if err == nil {
		err = failed
	}
	return err
}

// Stat implements volume.Volume.
func (s *squash) Stat(ctx context.Context, entry uint64) (volume.Attr, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return volume.Attr{}, err
	}
	return f.Stat(ctx, entry)
}

// Readlink implements volume.Volume.
func (s *squash) Readlink(ctx context.Context, entry uint64) (string, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return "", err
	}
	return f.Readlink(ctx, entry)
}

// ReadAt implements volume.Volume.
func (s *squash) ReadAt(ctx context.Context, entry uint64, p []byte, off int64) (int, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return 0, err
	}
	return f.ReadAt(ctx, entry, p, off)
}

// Xattr implements volume.Volume.
func (s *squash) Xattr(ctx context.Context, entry uint64, name string) ([]byte, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return nil, err
	}
	return f.Xattr(ctx, entry, name)
}

// Xattrs implements volume.Volume.
func (s *squash) Xattrs(ctx context.Context, entry uint64) ([]string, error) {
	f, err := s.fs(ctx)
	if err != nil {
		return nil, err
	}
	return f.Xattrs(ctx, entry)
}

// repoFile is a file in a repository as a squashfs source.
type repoFile struct {
	repo  *cvmfs.Repository
	ref   cvmfs.Ref
	watch *watch
}

// ReadAt implements squashfs.Source.
func (f repoFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.repo.ReadAt(f.watch.over(ctx), f.ref, p, off)
}

// Warm implements warmer.
func (f repoFile) Warm(ctx context.Context, off, size int64) error {
	return f.repo.Warm(f.watch.over(ctx), f.ref, off, size)
}

// file opens the file that holds an image, and says how long it is and how it
// is called.
func (s *Images) file(ctx context.Context, id string, spec Spec) (src squashfs.Source, size int64, name string, err error) {
	switch spec.Kind {
	case KindHostFile:
		return s.hostFile(spec)
	case KindBlob:
		return s.blobFile(spec)
	}
	repo, ref, err := s.place(spec)
	if err != nil {
		return nil, 0, "", err
	}
	at := cvmfs.Ref{CatalogRef: ref, Row: spec.Row}
	e, err := repo.Stat(ctx, at)
	return repoFile{repo, at, s.watch(id)}, e.Size, spec.FQRN + ":" + e.Name, err
}

// squash returns the volume of a single-file image, always the same one.
func (s *Images) squash(id string, spec Spec) *squash {
	v := newSquash(s, id, spec)
	known, _ := s.squashes.LoadOrStore(v.key, v)
	return known.(*squash)
}

// squashRoot is Root of a single-file image.
func (s *Images) squashRoot(ctx context.Context, id string, spec Spec) (volume.Child, error) {
	v := s.squash(id, spec)
	f, err := v.fs(ctx)
	if err != nil {
		return volume.Child{}, err
	}
	attr, err := f.Stat(ctx, f.Root())
	r := newRoot(volume.Node{Volume: v, Entry: f.Root()}, s.table, s.points)
	return volume.Child{Node: volume.Node{Volume: r, Entry: rootEntry}, Name: "rootfs", Attr: attr, Valid: volume.Forever}, err
}
