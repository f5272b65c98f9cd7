package image

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Move shows the revision of head and returns the directories that the kernel
// may know and that changed. Directories keep their numbers, and so do files
// that did not change; only what came, changed or went is named.
//
// It first fetches the catalogs that finding the changes needs. When that fails
// nothing has moved: a revision that was shown without telling the kernel all
// that changed would be a mixture for as long as the kernel keeps names.
func (r *Raw) Move(ctx context.Context, head cvmfs.Head) ([]volume.Change, error) {
	dirs, err := r.known()
	if err != nil {
		return nil, err
	}
	old := *r.shown.Load()
	for _, d := range dirs {
		if err := r.prepare(ctx, old, head.Root, d.path); err != nil {
			return nil, err
		}
	}
	shown := append(append([]cvmfs.CatalogRef{}, old[max(0, len(old)+1-maxShown):]...), head.Root)
	r.view.repo.Show(head)
	r.shown.Store(&shown)
	return r.Changes(ctx)
}

// Changes lists what differs between the revision that is shown and those before
// it. Move returns them; who takes over from a daemon that ended within a move
// asks again.
func (r *Raw) Changes(ctx context.Context) ([]volume.Change, error) {
	shown := *r.shown.Load()
	old, root := shown[:len(shown)-1], shown[len(shown)-1]
	dirs, err := r.known() // again: the kernel was told of more meanwhile
	var changes []volume.Change
	for _, d := range dirs {
		names, changed, cmpErr := r.compare(ctx, old, root, d.path)
		err = errors.Join(err, cmpErr)
		if changed {
			changes = append(changes, volume.Change{Dir: volume.Node{Volume: r, Entry: d.entry}, Names: names})
		}
	}
	return changes, err
}

// knownDir is a directory that the kernel may know.
type knownDir struct {
	entry uint64
	path  string
}

func (r *Raw) known() (dirs []knownDir, err error) {
	prefix := r.Key() + "\x00"
	err = r.table.Each(prefix, func(entry uint64, record string) bool {
		dirs = append(dirs, knownDir{entry, record[len(prefix):]})
		return true
	})
	return dirs, err
}

// prepare fetches the catalogs that compare reads.
func (r *Raw) prepare(ctx context.Context, before []cvmfs.CatalogRef, after cvmfs.CatalogRef, path string) error {
	for _, roots := range [][]cvmfs.CatalogRef{{after}, before} {
		e, ok, err := r.latest(ctx, roots, path)
		if err == nil && !ok {
			return nil // compare has nothing to list
		}
		if err == nil {
			_, err = r.view.repo.Listed(ctx, e.Ref)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare lists the names in which the directory path, as it was shown last,
// differs from the revision after. That a directory came or went is its
// parent's change.
func (r *Raw) compare(ctx context.Context, before []cvmfs.CatalogRef, after cvmfs.CatalogRef, path string) (names []string, changed bool, err error) {
	b, ok, err := r.latest(ctx, []cvmfs.CatalogRef{after}, path)
	if err != nil || !ok {
		return nil, err != nil, err
	}
	a, ok, err := r.latest(ctx, before, path)
	if err != nil || !ok {
		return nil, true, err // of a time that we know nothing of
	}
	attrs := r.view.attr(a) != r.view.attr(b)
	x, err := r.view.repo.Listed(ctx, a.Ref)
	if err != nil {
		return nil, true, err
	}
	y, err := r.view.repo.Listed(ctx, b.Ref)
	if err != nil || x.Hash == y.Hash {
		return nil, attrs || err != nil, err
	}
	names, err = r.differing(ctx, a, b)
	return names, attrs || len(names) > 0 || err != nil, err
}

// differing names what is not the same node in both directories: a directory's number is its path's, and the very same
// file keeps its own. What cannot be compared counts as another one.
func (r *Raw) differing(ctx context.Context, a, b cvmfs.Entry) (names []string, err error) {
	before := map[string]cvmfs.Entry{}
	if err := r.list(ctx, a, func(e cvmfs.Entry) { before[e.Name] = e }); err != nil {
		return nil, err
	}
	var errs []error
	err = r.list(ctx, b, func(e cvmfs.Entry) {
		old, ok := before[e.Name]
		same := ok && old.IsDir() && e.IsDir()
		if ok && !old.IsDir() && !e.IsDir() {
			same, err = r.view.repo.SameFile(ctx, old, e)
			errs = append(errs, err)
		}
		if !same {
			names = append(names, e.Name)
		}
		delete(before, e.Name)
	})
	return slices.AppendSeq(names, maps.Keys(before)), errors.Join(append(errs, err)...)
}

// list calls fn for each entry of a directory, which may look at the catalog.
func (r *Raw) list(ctx context.Context, dir cvmfs.Entry, fn func(cvmfs.Entry)) error {
	return r.view.readDir(ctx, dir.Ref, 0, func(_ context.Context, e cvmfs.Entry) (volume.Child, error) {
		fn(e)
		return volume.Child{}, nil
	}, func(volume.Child) bool { return true })
}
