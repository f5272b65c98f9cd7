package image

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// rawPrefix begins the key of a raw volume and its records in the table.
const rawPrefix = "raw\x00"

// What a raw volume remembers: directories' rows, and files' beginnings.
const (
	maxResolved = 4096
	maxBegun    = 8192
)

// Raw is a repository as the reference client shows it. Its directories are
// numbered by their path, so that they stay what they are when the revision
// moves: whoever stands in one, or has mounted on it, is not moved. All else
// is numbered by catalog and row and keeps the content it was found with.
//
// A file that a new revision did not change keeps its number too, see first.
type Raw struct {
	view     *view
	table    volume.Table
	resolved *lru.Cache[place, cvmfs.Entry]
	recalled *lru.Cache[place, struct{}]        // directories that recall has dealt with, by the newest root
	begun    *lru.Cache[place, cvmfs.Entry]     // what first found, by the newest root and the file's path
	shown    atomic.Pointer[[]cvmfs.CatalogRef] // root catalogs, oldest first; the last is the one shown
}

const (
	maxShown     = 64 // revisions that are looked through for an unchanged file
	recallAtOnce = 16 // of them that are opened at the same time
)

type place struct {
	root cvmfs.CatalogRef
	path string
}

// NewRaw makes the raw view of repo.
func NewRaw(repo *cvmfs.Repository, table volume.Table) *Raw {
	r := &Raw{
		view: &view{repo: repo}, table: table,
		resolved: remembered[cvmfs.Entry](maxResolved), recalled: remembered[struct{}](maxResolved), begun: remembered[cvmfs.Entry](maxBegun),
	}
	r.shown.Store(&[]cvmfs.CatalogRef{repo.Head().Root})
	return r
}

func remembered[T any](places int) *lru.Cache[place, T] {
	c, err := lru.New[place, T](places)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}

// root is the root catalog that is shown.
func (r *Raw) root() cvmfs.CatalogRef {
	shown := *r.shown.Load()
	return shown[len(shown)-1]
}

// Shown lists the root catalogs that were shown, oldest first; the last one is.
func (r *Raw) Shown() []cvmfs.CatalogRef { return slices.Clone(*r.shown.Load()) }

// Resume goes on where an earlier daemon's view, which had shown these root
// catalogs, ended. It must be called before the first request.
func (r *Raw) Resume(shown []cvmfs.CatalogRef) {
	if len(shown) == 0 || shown[len(shown)-1] != r.root() {
		shown = append(slices.Clone(shown), r.root())
	}
	r.shown.Store(&shown)
}

// Key implements volume.Volume.
func (r *Raw) Key() string { return rawPrefix + r.view.repo.FQRN() }

// Guarded implements volume.Guarded: all of a repository is.
func (r *Raw) Guarded(uint64) bool { return true }

// Root returns the root directory.
func (r *Raw) Root(ctx context.Context) (volume.Child, error) {
	e, err := r.resolve(ctx, r.root(), "")
	if err != nil {
		return volume.Child{}, err
	}
	return r.directory(e, "")
}

// directory is the directory e at path.
func (r *Raw) directory(e cvmfs.Entry, path string) (volume.Child, error) {
	n, err := r.table.Intern(r.Key() + "\x00" + path)
	return volume.Child{
		Node: volume.Node{Volume: r, Entry: n}, Name: e.Name, Attr: r.view.attr(e), Valid: volume.Forever,
	}, err
}

// child is e, found in the directory at path.
func (r *Raw) child(ctx context.Context, e cvmfs.Entry, path string) (volume.Child, error) {
	if e.IsDir() {
		return r.directory(e, path+"/"+e.Name)
	}
	return r.view.child(ctx, r.first(ctx, e, path))
}

// first returns the entry that gives e, found in the directory at path, its node: that of the oldest revision, if it has
// the very same file at the same place, else of the first of those in a row, up to the one that is shown, that have it. What
// cannot be looked up any more does not count.
func (r *Raw) first(ctx context.Context, e cvmfs.Entry, path string) cvmfs.Entry {
	shown := *r.shown.Load()
	newest := len(shown) - 1
	if newest == 0 {
		return e
	}
	if old, same, err := r.same(ctx, shown[0], e, path); err == nil && same {
		return old
	}
	start, sure := e, true
	for i := newest - 1; i > 0; i-- {
		if known, ok := r.begun.Get(place{shown[i+1], path + "/" + e.Name}); ok {
			start = known
			break
		}
		if i == newest-2 { // it is not new: it may be as old as any
			r.recall(ctx, shown, path)
		}
		old, same, err := r.same(ctx, shown[i], e, path)
		if err != nil {
			sure = false
			continue
		}
		if !same {
			break
		}
		start = old
	}
	if sure {
		r.begun.Add(place{shown[newest], path + "/" + e.Name}, start)
	}
	return start
}

// same finds what the revision root has in the place of e, in the directory at path, and reports whether it is the very
// same file.
func (r *Raw) same(ctx context.Context, root cvmfs.CatalogRef, e cvmfs.Entry, path string) (old cvmfs.Entry, same bool, err error) {
	dir, err := r.resolve(ctx, root, path)
	if err == nil && dir.IsDir() {
		old, err = r.view.repo.Lookup(ctx, dir.Ref, e.Name)
	}
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return old, false, nil
	case err != nil || !dir.IsDir():
		return old, false, err
	case old.Ref.Hash == e.Ref.Hash:
		return old, true, nil // the catalog is the same
	}
	same, err = r.view.repo.SameFile(ctx, old, e)
	return old, same, err
}

// recall opens the catalogs that list path in all revisions that were shown, all at
// once and once for each revision: a daemon that took over has none of them open,
// and where the cache is small each has to be fetched.
func (r *Raw) recall(ctx context.Context, shown []cvmfs.CatalogRef, path string) {
	if known, _ := r.recalled.ContainsOrAdd(place{shown[len(shown)-1], path}, struct{}{}); known {
		return
	}
	var all sync.WaitGroup
	turn := make(chan struct{}, recallAtOnce)
	for _, root := range shown {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if dir, err := r.resolve(ctx, root, path); err == nil && dir.IsDir() {
				_, _ = r.view.repo.Listed(ctx, dir.Ref) // whoever needs it meets its failure
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		r.recalled.Remove(place{shown[len(shown)-1], path})
	}
}

// resolve finds path below root, remembering directories.
func (r *Raw) resolve(ctx context.Context, root cvmfs.CatalogRef, path string) (cvmfs.Entry, error) {
	key := place{root, path}
	if e, ok := r.resolved.Get(key); ok {
		return e, nil
	}
	e, err := r.view.repo.Resolve(ctx, root, path)
	if err == nil {
		r.resolved.Add(key, e)
	}
	return e, err
}

// latest finds the directory path in the newest of roots, oldest first, that has
// it; ok is false when none has.
func (r *Raw) latest(ctx context.Context, roots []cvmfs.CatalogRef, path string) (e cvmfs.Entry, ok bool, err error) {
	for _, root := range slices.Backward(roots) {
		e, err = r.resolve(ctx, root, path)
		if err == nil && e.IsDir() {
			return e, true, nil
		}
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return e, false, err
		}
	}
	return e, false, nil
}

// find returns the directory that entry numbers, at the revision that is shown.
// One that this revision lacks cannot be reached by its name any more; to whoever
// has it open or stands in it, it stays as it was last.
func (r *Raw) find(ctx context.Context, entry uint64) (e cvmfs.Entry, path string, err error) {
	if path, err = r.path(entry); err != nil {
		return e, "", err
	}
	e, ok, err := r.latest(ctx, *r.shown.Load(), path)
	if err == nil && !ok {
		err = fmt.Errorf("%s has no directory %q any more: %w", r.view.repo.FQRN(), path, volume.ErrStale)
	}
	return e, path, err
}

// path is that of the directory that entry numbers.
func (r *Raw) path(entry uint64) (string, error) {
	record, err := r.table.Record(entry)
	if err != nil {
		return "", err
	}
	path, ok := strings.CutPrefix(record, r.Key()+"\x00")
	if !ok {
		return "", fmt.Errorf("entry %d of %s: %w", entry, r.view.repo.FQRN(), volume.ErrStale)
	}
	return path, nil
}

// Lookup implements volume.Volume.
func (r *Raw) Lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	d, path, err := r.find(ctx, dir)
	if err != nil {
		return volume.Child{}, err
	}
	e, err := r.view.repo.Lookup(ctx, d.Ref, name)
	if err != nil {
		return volume.Child{Valid: volume.Forever}, translate(err)
	}
	return r.child(ctx, e, path)
}

// ReadDir implements volume.Volume. A listing that was begun goes on in the
// revision that it was begun in, which the cookie names: the rows of another mean
// something else. The kernel must keep nothing of an older one's names, so they
// are good for no time.
func (r *Raw) ReadDir(ctx context.Context, dir, cookie uint64, fn func(volume.Child) bool) error {
	path, err := r.path(dir)
	if err != nil {
		return err
	}
	roots := *r.shown.Load()
	if cookie != 0 {
		i := slices.IndexFunc(roots, func(c cvmfs.CatalogRef) bool { return rootMark(c) == cookie>>cookieRowBits })
		roots = roots[:max(i, 0)+1] // a mark of before a restart: the oldest there is
	}
	d, ok, err := r.latest(ctx, roots, path)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s has no directory %q any more: %w", r.view.repo.FQRN(), path, volume.ErrStale)
	}
	mark := rootMark(roots[len(roots)-1])
	old := roots[len(roots)-1] != r.root()
	return r.view.readDir(ctx, d.Ref, cookie&(1<<cookieRowBits-1), func(ctx context.Context, e cvmfs.Entry) (volume.Child, error) {
		return r.child(ctx, e, path)
	}, func(c volume.Child) bool {
		c.Cookie |= mark << cookieRowBits
		if old {
			c.Valid = 0
		}
		return fn(c)
	})
}

// A cookie is a row number and, above it, some bits of the root catalog's hash.
const (
	cookieRowBits  = 40
	cookieMarkBits = 21
)

func rootMark(c cvmfs.CatalogRef) uint64 {
	var b [4]byte
	copy(b[:], c.Hash.Digest())
	return uint64(binary.BigEndian.Uint32(b[:]) >> (32 - cookieMarkBits))
}

// Stat implements volume.Volume.
func (r *Raw) Stat(ctx context.Context, entry uint64) (volume.Attr, error) {
	e, _, err := r.find(ctx, entry)
	if err != nil {
		return volume.Attr{}, err
	}
	return r.view.attr(e), nil
}

// Readlink implements volume.Volume; the entries are directories.
func (r *Raw) Readlink(context.Context, uint64) (string, error) { return "", volume.ErrNotLink }

// ReadAt implements volume.Volume; the entries are directories.
func (r *Raw) ReadAt(context.Context, uint64, []byte, int64) (int, error) {
	return 0, volume.ErrIsDir
}

// Xattr implements volume.Volume.
func (r *Raw) Xattr(ctx context.Context, entry uint64, name string) ([]byte, error) {
	e, _, err := r.find(ctx, entry)
	if err != nil {
		return nil, err
	}
	return r.view.xattr(ctx, e.Ref, name)
}

// Xattrs implements volume.Volume. The repository's root lists the magic
// attributes too.
func (r *Raw) Xattrs(ctx context.Context, entry uint64) ([]string, error) {
	e, path, err := r.find(ctx, entry)
	if err != nil {
		return nil, err
	}
	names, err := r.view.xattrs(ctx, e.Ref)
	if path == "" {
		names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(magicNames, n) })
		names = append(names, magicNames...)
	}
	return names, err
}
