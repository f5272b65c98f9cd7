package image

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// maxBlobName bounds the name of an image on object storage, bytes: it is part
// of its volume's key.
const maxBlobName = 512

// AddBucket makes a bucket's files images too. It is to be called before
// anything is opened.
func (s *Images) AddBucket(b *blob.Bucket) { s.blobs[b.Name()] = b }

// IdentifyBlob names the image in a file of a bucket by URL, version and length,
// so that a file that was replaced is another image. It asks the server unless
// the file is known; io/fs.ErrNotExist: the server does not have it.
func (s *Images) IdentifyBlob(ctx context.Context, b *blob.Bucket, name string) (id string, spec Spec, err error) {
	if len(name) > maxBlobName {
		return "", spec, fmt.Errorf("%w: its name has more than %d bytes", ErrRefused, maxBlobName)
	}
	f, err := b.Find(ctx, name)
	if err != nil {
		return "", spec, err
	}
	return b.ID(f), Spec{Kind: KindBlob, FQRN: b.Name(), Size: f.Size, Blob: f}, nil
}

// blobFile opens the version that spec means.
func (s *Images) blobFile(spec Spec) (squashfs.Source, int64, string, error) {
	b := s.blobs[spec.FQRN]
	if b == nil {
		return nil, 0, "", fmt.Errorf("no source is named %s any more", spec.FQRN)
	}
	return b.Open(spec.Blob), spec.Blob.Size, b.Place(spec.Blob.Name), nil
}

// wholePrefix begins the key of a volume that is an image's file itself.
const wholePrefix = "whole\x00"

// wholeEntry is the file.
const wholeEntry = 1

// whole is the file of an image that the mount shows nowhere else. It has one
// node, which is no directory.
type whole struct {
	images *Images
	id     string
	spec   Spec
	key    string
}

func newWhole(images *Images, id string, spec Spec) *whole {
	return &whole{images: images, id: id, spec: spec, key: wholePrefix + id + "\x00" + string(spec.Format())}
}

// Whole is the file of a single-file image.
func (s *Images) Whole(id string, spec Spec) volume.Child {
	w := newWhole(s, id, spec)
	return volume.Child{Node: volume.Node{Volume: w, Entry: wholeEntry}, Name: "image.sif", Attr: w.attr(), Valid: volume.Forever}
}

// Key implements volume.Volume.
func (w *whole) Key() string { return w.key }

func (w *whole) attr() volume.Attr {
	return volume.Attr{Mode: unix.S_IFREG | 0o444, Nlink: 1, Size: uint64(w.spec.Size)}
}

func (w *whole) check(entry uint64) error {
	if entry != wholeEntry {
		return fmt.Errorf("entry %d of an image's file: %w", entry, volume.ErrStale)
	}
	return nil
}

// Lookup implements volume.Volume; there is no directory.
func (w *whole) Lookup(context.Context, uint64, string) (volume.Child, error) {
	return volume.Child{}, volume.ErrNotDir
}

// ReadDir implements volume.Volume; there is no directory.
func (w *whole) ReadDir(context.Context, uint64, uint64, func(volume.Child) bool) error {
	return volume.ErrNotDir
}

// Stat implements volume.Volume.
func (w *whole) Stat(_ context.Context, entry uint64) (volume.Attr, error) {
	return w.attr(), w.check(entry)
}

// Readlink implements volume.Volume.
func (w *whole) Readlink(context.Context, uint64) (string, error) { return "", volume.ErrNotLink }

// ReadAt implements volume.Volume.
func (w *whole) ReadAt(ctx context.Context, entry uint64, p []byte, off int64) (int, error) {
	if err := w.check(entry); err != nil {
		return 0, err
	}
	src, _, _, err := w.images.file(ctx, w.id, w.spec)
	if err != nil {
		return 0, err
	}
	return src.ReadAt(ctx, p, off)
}

// Xattr implements volume.Volume; there is none.
func (w *whole) Xattr(context.Context, uint64, string) ([]byte, error) {
	return nil, volume.ErrNoXattr
}

// Xattrs implements volume.Volume; there is none.
func (w *whole) Xattrs(context.Context, uint64) ([]string, error) { return nil, nil }

// Guarded implements volume.Guarded: reading it means fetching all of it.
func (w *whole) Guarded(uint64) bool { return true }
