package image

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
)

// Damage is a set of objects of the cache that turned out to be damaged.
type Damage struct {
	objects cvmfs.Damage
	keys    []string
}

// NewDamage makes the set of these keys of the cache.
func NewDamage(keys []string) Damage { return Damage{cvmfs.NewDamage(keys), keys} }

// Suspects lists the entries of the volume key that may have been shown from
// damaged objects, and forgets what is kept of them. Directories that are numbered
// by their path, whose listings come from catalogs, are not among them.
func (s *Images) Suspects(ctx context.Context, key string, d Damage) ([]uint64, error) {
	for _, prefix := range []string{squashPrefix, wholePrefix} {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		id, spec, err := takeApart(prefix, key)
		if err != nil || !s.Holds(spec) {
			return nil, nil // of a source that is there no more
		}
		suspect, err := s.suspectFile(ctx, spec, d)
		if !suspect || err != nil {
			return nil, err
		}
		if prefix == wholePrefix {
			return []uint64{wholeEntry}, nil
		}
		return s.squash(id, spec).anew(ctx)
	}
	fqrn, _, ref, err := parseCatalogKey(key)
	if err != nil || s.repos[fqrn] == nil {
		return nil, nil // the tree, or a directory in it
	}
	rows, err := s.repos[fqrn].Suspects(ctx, ref, d.objects)
	entries := make([]uint64, len(rows))
	for i, row := range rows {
		entries[i] = uint64(row)
	}
	return entries, err
}

// suspectFile reports whether a part of an image's file is among the damaged.
func (s *Images) suspectFile(ctx context.Context, spec Spec, d Damage) (bool, error) {
	switch spec.Kind {
	case KindFile:
		repo, ref, err := s.place(spec)
		if err != nil {
			return false, err
		}
		return repo.Suspect(ctx, cvmfs.Ref{CatalogRef: ref, Row: spec.Row}, d.objects)
	case KindBlob:
		return s.blobs[spec.FQRN].Suspect(spec.Blob, d.keys), nil
	}
	return false, nil // the cache has nothing of the host's files
}

// anew forgets all that was read of the image and lists its entries.
func (s *squash) anew(ctx context.Context) ([]uint64, error) {
	if f := s.opened.Swap(nil); f != nil {
		f.Forget()
	}
	f, err := s.fs(ctx)
	if err != nil {
		return nil, err
	}
	var entries []uint64
	seen := map[uint64]bool{f.Root(): true} // an image may say that a directory lies in itself
	for todo := []uint64{f.Root()}; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries = append(entries, dir)
		if err := f.ReadDir(ctx, dir, 0, func(e squashfs.Entry) bool {
			if e.Mode&unix.S_IFMT != unix.S_IFDIR {
				entries = append(entries, e.Entry)
			} else if !seen[e.Entry] {
				seen[e.Entry] = true
				todo = append(todo, e.Entry)
			}
			return len(entries) <= maxEntries
		}); err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// maxEntries bounds how many entries of one image are gone through.
const maxEntries = 20_000_000
