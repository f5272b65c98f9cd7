package image

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Prepare fetches the catalogs that finding the changes of head's revision needs.
// Where it fails, head must not be shown: a revision without all that changed told
// to the kernel would be a mixture for as long as the kernel keeps names.
func (r *Raw) Prepare(ctx context.Context, head cvmfs.Head) error {
	old := *r.shown.Load()
	return r.walk(func(d knownDir) (bool, error) { return r.prepare(ctx, old, head.Root, d.path) })
}

// Move shows the revision of head, which is prepared, and returns the directories
// that the kernel may know and that changed. Directories keep their numbers, and so
// do files that did not change; only what came, changed or went is named.
func (r *Raw) Move(ctx context.Context, head cvmfs.Head) ([]volume.Change, error) {
	old := *r.shown.Load()
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
	var changes []volume.Change
	var errs []error
	err := r.walk(func(d knownDir) (bool, error) { // again: the kernel was told of more meanwhile
		at, err := r.twice(ctx, old, root, d.path)
		names, changed := []string(nil), err != nil
		if err == nil {
			names, changed, err = r.compare(ctx, at)
		}
		errs = append(errs, err)
		if changed {
			changes = append(changes, volume.Change{Dir: volume.Node{Volume: r, Entry: d.entry}, Names: names})
		}
		return at.settled(), nil
	})
	return changes, errors.Join(append(errs, err)...)
}

// knownDir is a directory that the kernel may know.
type knownDir struct {
	entry uint64
	path  string
}

// known lists the directories that the kernel may know, each before those below it.
func (r *Raw) known() (dirs []knownDir, err error) {
	prefix := r.Key() + "\x00"
	err = r.table.Each(prefix, func(entry uint64, record string) bool {
		dirs = append(dirs, knownDir{entry, record[len(prefix):]})
		return true
	})
	slices.SortFunc(dirs, func(a, b knownDir) int { return slices.CompareFunc([]byte(a.path), []byte(b.path), slashFirst) })
	return dirs, err
}

// slashFirst orders the bytes of paths so that a directory's own come right behind it.
func slashFirst(a, b byte) int {
	return cmp.Or(cmp.Compare(min(a^'/', 1), min(b^'/', 1)), cmp.Compare(a, b))
}

// walk calls fn for the directories that the kernel may know, but for those below
// one of which fn says that nothing below it changed: in a year there may come to be
// 100,000, of which a revision changes few.
func (r *Raw) walk(fn func(knownDir) (settled bool, err error)) error {
	dirs, err := r.known()
	above, settled := "", false
	for _, d := range dirs {
		if settled && strings.HasPrefix(d.path, above+"/") {
			continue
		}
		above = d.path
		var fnErr error
		if settled, fnErr = fn(d); fnErr != nil {
			return fnErr
		}
	}
	return err
}

// twice is a directory as it was shown last, and as it is in the revision after.
type twice struct {
	before, after   cvmfs.Entry
	wasThere, stays bool // it has the one, and the other
	same            bool // the same catalog lists it
}

// settled reports whether nothing below the directory can have changed for whoever
// knows it: that it went is its parent's change.
func (t twice) settled() bool { return t.same || t.wasThere && !t.stays }

// twice finds the directory path in the newest of the revisions before that has it,
// and in the one after.
func (r *Raw) twice(ctx context.Context, before []cvmfs.CatalogRef, after cvmfs.CatalogRef, path string) (t twice, err error) {
	if t.after, t.stays, err = r.latest(ctx, []cvmfs.CatalogRef{after}, path); err != nil {
		return t, err
	}
	if t.before, t.wasThere, err = r.latest(ctx, before, path); err != nil || !t.stays || !t.wasThere {
		return t, err
	}
	x, err := r.lister(ctx, t.before)
	if err != nil {
		return t, err
	}
	y, err := r.lister(ctx, t.after)
	t.same = x.Hash == y.Hash && x.Mount == y.Mount
	return t, err
}

// lister is the catalog that lists a directory. It is not fetched: nobody may have entered it.
func (r *Raw) lister(ctx context.Context, dir cvmfs.Entry) (cvmfs.CatalogRef, error) {
	ref, attached, err := r.view.repo.Attached(ctx, dir)
	if err == nil && !attached {
		ref = dir.Ref.CatalogRef
	}
	return ref, err
}

// prepare fetches the catalogs that compare reads.
func (r *Raw) prepare(ctx context.Context, before []cvmfs.CatalogRef, after cvmfs.CatalogRef, path string) (settled bool, err error) {
	t, err := r.twice(ctx, before, after, path)
	if err != nil || t.same || !t.stays || !t.wasThere {
		return t.settled(), err // compare has nothing to list
	}
	for _, e := range []cvmfs.Entry{t.after, t.before} {
		if _, err := r.view.repo.Listed(ctx, e.Ref); err != nil {
			return false, err
		}
	}
	return false, nil
}

// compare lists the names in which a directory, as it was shown last, differs from
// the revision after. That a directory came or went is its parent's change.
func (r *Raw) compare(ctx context.Context, t twice) (names []string, changed bool, err error) {
	switch {
	case !t.stays:
		return nil, false, nil
	case !t.wasThere:
		return nil, true, nil // of a time that we know nothing of
	}
	attrs := r.view.attr(t.before) != r.view.attr(t.after)
	if t.same {
		return nil, attrs, nil
	}
	names, err = r.differing(ctx, t.before, t.after)
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
