package image

import (
	"context"
	"errors"
	"strings"

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
	names, err = r.differing(ctx, a, b, path)
	return names, attrs || len(names) > 0 || err != nil, err
}

// differing lists both directories and names what is not the same node in both.
func (r *Raw) differing(ctx context.Context, a, b cvmfs.Entry, path string) ([]string, error) {
	before, err := r.listing(ctx, a, path)
	if err != nil {
		return nil, err
	}
	after, err := r.listing(ctx, b, path)
	if err != nil {
		return nil, err
	}
	var names []string
	for name, node := range before {
		if after[name] != node {
			names = append(names, name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// listing maps the names in a directory to what identifies their nodes.
func (r *Raw) listing(ctx context.Context, dir cvmfs.Entry, path string) (map[string]nodeKey, error) {
	m := map[string]nodeKey{}
	err := r.view.readDir(ctx, dir.Ref, 0, func(ctx context.Context, e cvmfs.Entry) (volume.Child, error) {
		if e.IsDir() {
			m[e.Name] = nodeKey{dir: true} // its number is its path's
			return volume.Child{}, nil
		}
		c, err := r.view.child(ctx, r.first(ctx, e, path))
		if err == nil {
			m[e.Name] = nodeKey{volume: strings.Clone(c.Volume.Key()), entry: c.Entry}
		}
		return c, err
	}, func(volume.Child) bool { return true })
	return m, err
}

type nodeKey struct {
	dir    bool
	volume string
	entry  uint64
}
