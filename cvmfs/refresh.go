package cvmfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// Pauses between looks at the manifest when its time to live is not known, and
// after a failure (CVMFS documentation, "Client configuration").
const (
	defaultTTL   = 4 * time.Minute
	offlinePause = 3 * time.Minute
	minPause     = 10 * time.Second
)

// Candidate fetches and verifies the newest head without showing it: the servers',
// or a shared tier's where none can be reached. moved is false when the revision that is shown is still the newest; the time of the
// look is then noted. A pinned repository never moves.
func (r *Repository) Candidate(ctx context.Context) (head Head, moved bool, err error) {
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	old := r.Head()
	if old.Pinned {
		if err := r.permitted(&old); err != nil {
			return r.stay(ctx, old, err)
		}
		old.Forbidden = ""
		r.head.Store(&old)
		return old, false, nil
	}
	found, err := r.locate(ctx)
	if err == nil && found.Revision < old.Revision {
		// What was seen cannot be verified any more, so that an older one
		// passed: whoever is mounted is not moved back to it.
		err = fmt.Errorf("%s: the servers offer revision %d, older than %d, which stays", r.opts.FQRN, found.Revision, old.Revision)
	}
	// Without servers, only a shared tier can have a newer one.
	silent := err == nil && found.Offline && found.Revision == old.Revision
	if err == nil && !silent && found.Root.Hash != old.Root.Hash {
		err = r.load(ctx, found)
	}
	if silent && !errors.Is(found.cause, fetch.ErrOffline) {
		err = fmt.Errorf("%s: %w", r.opts.FQRN, found.cause)
	}
	if err != nil || silent {
		return r.stay(ctx, old, err)
	}
	if err := r.keep(ctx, found); err != nil {
		return r.stay(ctx, old, err)
	}
	if found.Root.Hash == old.Root.Hash {
		found.TTL = max(found.TTL, old.TTL)
		r.head.Store(found)
		return *found, false, nil
	}
	return *found, true, nil
}

// stay notes why old, which is shown, is not renewed: by err, or because no
// server can be reached.
func (r *Repository) stay(ctx context.Context, old Head, err error) (Head, bool, error) {
	if err == nil {
		err = fmt.Errorf("%s: no server can be reached; revision %d stays: %w", r.opts.FQRN, old.Revision, fetch.ErrOffline)
	}
	forbidden := r.permitted(&old)
	if forbidden == nil && !old.Pinned {
		_, _, forbidden = r.remembered(ctx, nil) // its certificate may be forbidden
	}
	old.Forbidden = ""
	if errors.Is(forbidden, ErrBlacklisted) {
		old.Forbidden = forbidden.Error()
		r.log.Error("the site's blacklist forbids the revision that is shown, and there is none to move to: unmount to end its use",
			"repo", r.opts.FQRN, "revision", old.Revision, "err", forbidden)
	}
	old.Offline = old.Forbidden == ""
	r.head.Store(&old)
	return old, false, err
}

// Show makes head, which Candidate returned, the revision that is shown.
func (r *Repository) Show(head Head) {
	r.log.Info("the repository moves to a new revision", "repo", r.opts.FQRN, "from", r.Head().Revision, "to", head.Revision, "hash", head.Root.Hash.String())
	r.head.Store(&head)
}

// Pause is how long to wait before the next look at the manifest: every, or if
// that is 0 the repository's time to live; less after a failure.
func (h Head) Pause(every time.Duration) time.Duration {
	pause := every
	if pause == 0 {
		pause = h.TTL
	}
	if pause == 0 {
		pause = defaultTTL
	}
	if h.Offline || h.Forbidden != "" {
		pause = min(pause, offlinePause)
	}
	return max(pause, minPause)
}

// SameFile reports whether the files, links or special files a and b are one
// and the same: content, attributes and extended attributes. It looks at
// catalogs only.
func (r *Repository) SameFile(ctx context.Context, a, b Entry) (bool, error) {
	x, y := a.Row, b.Row
	if x.Hash != y.Hash || x.Compression != y.Compression || x.Size != y.Size || x.Mode != y.Mode || x.MTime != y.MTime ||
		x.MTimeNsec != y.MTimeNsec || x.UID != y.UID || x.GID != y.GID || x.Symlink != y.Symlink || x.Flags != y.Flags ||
		x.Nlink() != y.Nlink() || x.Rdev() != y.Rdev() || x.HasXattr != y.HasXattr {
		return false, nil
	}
	if x.HasXattr {
		same, err := r.sameXattrs(ctx, a.Ref, b.Ref)
		if !same || err != nil {
			return false, err
		}
	}
	if !x.IsRegular() || !x.IsChunked() {
		return true, nil
	}
	f, err := r.file(ctx, a.Ref)
	if err != nil {
		return false, err
	}
	g, err := r.file(ctx, b.Ref)
	if err != nil || len(f.chunks) != len(g.chunks) {
		return false, err
	}
	for i := range f.chunks {
		if f.chunks[i] != g.chunks[i] {
			return false, nil
		}
	}
	return true, nil
}

func (r *Repository) sameXattrs(ctx context.Context, a, b Ref) (bool, error) {
	x, err := r.Xattrs(ctx, a)
	if err != nil {
		return false, err
	}
	y, err := r.Xattrs(ctx, b)
	if err != nil || len(x) != len(y) {
		return false, err
	}
	for i := range x {
		if x[i].Name != y[i].Name || string(x[i].Value) != string(y[i].Value) {
			return false, nil
		}
	}
	return true, nil
}

// Listed returns the catalog that lists the directory at ref: its own, or the
// nested one behind a transition point.
func (r *Repository) Listed(ctx context.Context, ref Ref) (CatalogRef, error) {
	d, err := r.directory(ctx, ref)
	if err != nil {
		return CatalogRef{}, err
	}
	defer d.release()
	return d.ref, nil
}
