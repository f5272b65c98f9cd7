package cvmfs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// CatalogRef is a catalog at the place where it is attached. The same catalog
// can be attached at several (bind mountpoints, tags that did not change it).
type CatalogRef struct {
	Hash  hash.Hash
	Mount string // path in the repository, "" for the root
	Size  int64  // bytes of the database, 0 when not known; no part of the identity
}

// Ref says where a directory entry is: a row of a catalog at a place.
type Ref struct {
	CatalogRef
	Row int64
}

// Entry is a directory entry. The row of a transition point is the parent's.
type Entry struct {
	Ref Ref
	catalog.Row
}

// ErrNotDir is returned when something is looked up below what is no directory.
var ErrNotDir = errors.New("not a directory")

// ErrNotLink is returned by Readlink of what is no symbolic link.
var ErrNotLink = errors.New("not a symbolic link")

func entryOf(c CatalogRef, row catalog.Row) Entry { return Entry{Ref{c, row.ID}, row} }

// notExist is an absent path's error.
func notExist(path string) error {
	return fmt.Errorf("cvmfs: %q: %w", path, iofs.ErrNotExist)
}

// Stat returns the entry at ref.
func (r *Repository) Stat(ctx context.Context, ref Ref) (Entry, error) {
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return Entry{}, err
	}
	defer c.release()
	row, err := c.ByID(ctx, ref.Row)
	if err != nil {
		return Entry{}, fmt.Errorf("cvmfs: entry %d of catalog %s: %w", ref.Row, ref.Hash, err)
	}
	return entryOf(ref.CatalogRef, row), nil
}

// directory is a directory opened for look-ups: the catalog that lists it and
// the row that stands for it there.
type directory struct {
	*openCatalog
	ref  CatalogRef
	row  catalog.Row
	path string // as that catalog names it, with its own prefix
}

// directory enters ref, passing through a transition point to the nested catalog.
func (r *Repository) directory(ctx context.Context, ref Ref) (directory, error) {
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return directory{}, err
	}
	d := directory{openCatalog: c, ref: ref.CatalogRef}
	if d.row, err = c.ByID(ctx, ref.Row); err == nil && !d.row.IsDir() {
		err = ErrNotDir
	}
	if err == nil {
		d.path, err = c.PathOf(ctx, d.row)
	}
	if err != nil {
		c.release()
		return directory{}, fmt.Errorf("cvmfs: entry %d of catalog %s: %w", ref.Row, ref.Hash, err)
	}
	if !d.row.IsNestedMount() && !d.row.IsBindMount() {
		return d, nil
	}
	defer c.release()
	return r.nested(ctx, d)
}

// nested opens the catalog that d, a transition point, stands for.
func (r *Repository) nested(ctx context.Context, d directory) (directory, error) {
	ref, err := nestedAt(ctx, d.openCatalog, d.ref, d.path)
	if err != nil {
		return directory{}, err
	}
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return directory{}, err
	}
	root, err := c.Root(ctx)
	if err != nil {
		c.release()
		return directory{}, fmt.Errorf("cvmfs: catalog %s at %s: %w", ref.Hash, ref.Mount, err)
	}
	return directory{openCatalog: c, ref: ref, row: root, path: c.Prefix()}, nil
}

// nestedAt finds the nested catalog whose transition point is path in c.
func nestedAt(ctx context.Context, c *openCatalog, at CatalogRef, path string) (CatalogRef, error) {
	list, err := c.Nested(ctx)
	if err != nil {
		return CatalogRef{}, fmt.Errorf("cvmfs: catalog %s: %w", at.Hash, err)
	}
	for _, n := range list {
		if n.Path == path {
			return CatalogRef{Hash: n.Hash, Mount: at.place(c, path), Size: n.Size}, nil
		}
	}
	return CatalogRef{}, fmt.Errorf("cvmfs: catalog %s names no nested catalog for its transition point %q: %w", at.Hash, path, catalog.ErrCorrupt)
}

// place turns a path inside catalog c, attached at a, into one of the repository.
func (a CatalogRef) place(c *openCatalog, path string) string {
	return a.Mount + strings.TrimPrefix(path, c.Prefix())
}

// Lookup finds name in the directory dir. An absent name's error wraps
// fs.ErrNotExist.
func (r *Repository) Lookup(ctx context.Context, dir Ref, name string) (Entry, error) {
	d, err := r.directory(ctx, dir)
	if err != nil {
		return Entry{}, err
	}
	defer d.release()
	return d.lookup(ctx, name)
}

func (d directory) lookup(ctx context.Context, name string) (Entry, error) {
	path := d.path + "/" + name
	row, err := d.ByPath(ctx, catalog.HashPath(path))
	if errors.Is(err, catalog.ErrNotFound) {
		return Entry{}, notExist(d.ref.place(d.openCatalog, path))
	}
	if err != nil {
		return Entry{}, fmt.Errorf("cvmfs: %s: %w", path, err)
	}
	if row.Name != name || row.Parent != d.row.Path {
		return Entry{}, fmt.Errorf("cvmfs: %s: the entry does not belong there: %w", path, catalog.ErrCorrupt)
	}
	return entryOf(d.ref, row), nil
}

// ReadDir calls fn for the entries of dir behind the row number after, in the
// order of row numbers, until fn returns false. Hidden entries are left out.
func (r *Repository) ReadDir(ctx context.Context, dir Ref, after int64, fn func(Entry) bool) error {
	d, err := r.directory(ctx, dir)
	if err != nil {
		return err
	}
	defer d.release()
	return d.Children(ctx, d.row.Path, after, func(row catalog.Row) bool { return fn(entryOf(d.ref, row)) })
}

// Walk follows names from dir on and returns the last one's entry. It follows
// no symbolic link.
func (r *Repository) Walk(ctx context.Context, dir Ref, names ...string) (Entry, error) {
	e, err := r.Stat(ctx, dir)
	for _, name := range names {
		if err != nil {
			return Entry{}, err
		}
		e, err = r.Lookup(ctx, e.Ref, name)
	}
	return e, err
}

// Resolve finds path, absolute and clean ("" for the root), below root. It
// asks only the catalogs on the way and one row of the last.
func (r *Repository) Resolve(ctx context.Context, root CatalogRef, path string) (Entry, error) {
	at := root
	for {
		c, err := r.catalogs.get(ctx, at.Hash, at.Size)
		if err != nil {
			return Entry{}, err
		}
		inner := c.Prefix() + strings.TrimPrefix(path, at.Mount)
		next, err := deepest(ctx, c, at, inner)
		if err == nil && next == nil {
			e, err := resolveIn(ctx, c, at, inner)
			c.release()
			return e, err
		}
		c.release()
		if err != nil {
			return Entry{}, err
		}
		at = *next
	}
}

// deepest returns the nested catalog of c that path lies below, if any; a
// transition point itself is the parent's.
func deepest(ctx context.Context, c *openCatalog, at CatalogRef, path string) (*CatalogRef, error) {
	list, err := c.Nested(ctx)
	if err != nil {
		return nil, fmt.Errorf("cvmfs: catalog %s: %w", at.Hash, err)
	}
	for _, n := range list {
		if strings.HasPrefix(path, n.Path) && len(path) > len(n.Path) && path[len(n.Path)] == '/' && len(n.Path) > len(c.Prefix()) {
			return &CatalogRef{Hash: n.Hash, Mount: at.place(c, n.Path), Size: n.Size}, nil
		}
	}
	return nil, nil
}

func resolveIn(ctx context.Context, c *openCatalog, at CatalogRef, path string) (Entry, error) {
	row, err := c.ByPath(ctx, catalog.HashPath(path))
	if errors.Is(err, catalog.ErrNotFound) {
		return Entry{}, notExist(at.place(c, path))
	}
	if err != nil {
		return Entry{}, fmt.Errorf("cvmfs: %s: %w", at.place(c, path), err)
	}
	return entryOf(at, row), nil
}

// Attached returns the nested catalog that stands at the transition point e,
// without fetching it; ok is false when e is none.
func (r *Repository) Attached(ctx context.Context, e Entry) (ref CatalogRef, ok bool, err error) {
	if !e.IsNestedMount() && !e.IsBindMount() {
		return CatalogRef{}, false, nil
	}
	c, err := r.catalogs.get(ctx, e.Ref.Hash, e.Ref.Size)
	if err != nil {
		return CatalogRef{}, false, err
	}
	defer c.release()
	path, err := c.PathOf(ctx, e.Row)
	if err == nil {
		ref, err = nestedAt(ctx, c, e.Ref.CatalogRef, path)
	}
	return ref, err == nil, err
}

// Path returns the path of ref in the repository.
func (r *Repository) Path(ctx context.Context, ref Ref) (string, error) {
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return "", err
	}
	defer c.release()
	row, err := c.ByID(ctx, ref.Row)
	if err != nil {
		return "", err
	}
	path, err := c.PathOf(ctx, row)
	return ref.place(c, path), err
}
