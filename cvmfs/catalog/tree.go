package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// Nested is a place where another catalog takes over.
type Nested struct {
	Path string    // absolute; for a nested catalog also that one's Prefix
	Hash hash.Hash // of the catalog; zero when none is told: it cannot be had
	Size int64     // bytes, uncompressed; 0 when none is told
	Bind bool      // a bind mountpoint: the catalog's Prefix is another path
}

// Nested lists the nested catalogs and bind mountpoints directly below this
// catalog. What names no place below it is left out, for it takes nothing over:
// real servers wrote "/a//b" (cvmfs/cvmfs issue 3789), and all others must go on.
// The slice is read once and shared: do not change it. Errors: ErrCorrupt.
func (c *Catalog) Nested(ctx context.Context) ([]Nested, error) {
	if err := c.db.lock(ctx); err != nil {
		return nil, fmt.Errorf("nested catalogs: %w", err)
	}
	defer c.db.mu.Unlock()
	if c.loaded {
		return c.nested, nil
	}
	nested, err := c.readNested(nil, "nested_catalogs", false)
	if err == nil {
		nested, err = c.readNested(nested, "bind_mountpoints", true)
	}
	if err != nil {
		return nil, fmt.Errorf("nested catalogs: %w", err)
	}
	c.nested, c.loaded = nested, true
	return nested, nil
}

func (c *Catalog) readNested(list []Nested, table string, bind bool) ([]Nested, error) {
	cols, err := c.db.columns(table)
	if err != nil || len(cols) == 0 {
		return list, err
	}
	query := "SELECT rowid, path"
	for _, o := range []struct{ column, instead string }{{"sha1", "''"}, {"size", "0"}} { // not in 0.9, not before 2.5
		if cols[o.column] {
			o.instead = o.column
		}
		query += ", " + o.instead
	}
	err = c.db.each(query+" FROM "+table+" ORDER BY rowid", func(s *sqlite.Stmt) error {
		next := Nested{Path: s.ColumnText(1), Size: max(s.ColumnInt64(3), 0), Bind: bind}
		if h, err := hash.Parse(s.ColumnText(2)); err == nil && h.Algorithm != hash.MD5 {
			next.Hash = h
		}
		if validPath(next.Path) && strings.HasPrefix(next.Path, c.prefix+"/") {
			list = append(list, next)
		}
		return nil
	})
	return list, err
}

// scanRows is how many rows a full scan reads before it lets others in.
const scanRows = 4096

// FirstOfGroup is the lowest ID of a hard link group's members. All share that
// one inode. The first call reads the whole catalog. Errors: ErrNotFound, ErrCorrupt.
func (c *Catalog) FirstOfGroup(ctx context.Context, group uint32) (int64, error) {
	if err := c.db.lock(ctx); err != nil {
		return 0, fmt.Errorf("hard link group %d: %w", group, err)
	}
	groups := c.groups
	c.db.mu.Unlock()
	if groups == nil {
		var err error
		if groups, err = c.readGroups(ctx); err != nil {
			return 0, fmt.Errorf("hard link group %d: %w", group, err)
		}
	}
	id, ok := groups[group]
	if !ok {
		return 0, fmt.Errorf("hard link group %d: %w", group, ErrNotFound)
	}
	return id, nil
}

// readGroups builds the map, page by page; two who do so at once get the same.
func (c *Catalog) readGroups(ctx context.Context) (map[uint32]int64, error) {
	groups := make(map[uint32]int64)
	after, n, err := int64(math.MinInt64), scanRows, error(nil)
	for n == scanRows {
		if n, err = c.groupPage(ctx, &after, groups); err != nil {
			return nil, err
		}
	}
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	c.groups = groups
	return groups, nil
}

func (c *Catalog) groupPage(ctx context.Context, after *int64, groups map[uint32]int64) (rows int, err error) {
	if err := c.db.lock(ctx); err != nil {
		return 0, err
	}
	defer c.db.mu.Unlock()
	cols, err := c.db.columns("catalog")
	if err != nil || !cols["hardlinks"] {
		return 0, err
	}
	query := fmt.Sprintf("SELECT rowid, hardlinks FROM catalog WHERE rowid > %d ORDER BY rowid LIMIT %d", *after, scanRows)
	err = c.db.each(query, func(s *sqlite.Stmt) error {
		*after = s.ColumnInt64(0)
		rows++
		group := uint32(uint64(s.ColumnInt64(1)) >> 32)
		if _, known := groups[group]; group != 0 && !known {
			groups[group] = *after
		}
		return nil
	})
	return rows, err
}

// maxDepth bounds the parents of a row: no path of 4096 bytes has more.
const maxDepth = maxPath / 2

// PathOf is the absolute path of a row, which begins with Prefix; the top
// directory's is Prefix itself. It asks for each parent that it does not
// remember. Errors: ErrCorrupt (also for a row that hangs on no root).
func (c *Catalog) PathOf(ctx context.Context, row Row) (string, error) {
	path, err := c.pathOf(ctx, row)
	if err != nil {
		return "", fmt.Errorf("path of catalog entry %d: %w", row.ID, err)
	}
	return path, nil
}

func (c *Catalog) pathOf(ctx context.Context, row Row) (string, error) {
	if err := c.db.lock(ctx); err != nil {
		return "", err
	}
	defer c.db.mu.Unlock()
	if row.Path == c.root.Path {
		return c.prefix, nil
	}
	names := []string{row.Name}
	length := len(row.Name)
	top := c.prefix
	for at := row.Parent; at != c.root.Path; {
		if known, ok := c.paths.get(at); ok {
			top = known
			break
		}
		parent, err := c.byPath(at)
		if errors.Is(err, ErrNotFound) {
			return "", fmt.Errorf("%w: a directory above it is missing", ErrCorrupt)
		}
		if err != nil {
			return "", err
		}
		length += len(parent.Name) + 1
		if len(names) == maxDepth || length > maxPath || !parent.IsDir() {
			return "", fmt.Errorf("%w: too deep, or below what is no directory", ErrCorrupt)
		}
		names = append(names, parent.Name)
		at = parent.Parent
	}
	return c.join(top, names, row)
}

// join puts the path together and remembers the directories on its way. That the
// path's hash is the row's proves that no parent was forged.
func (c *Catalog) join(top string, names []string, row Row) (string, error) {
	for i := len(names) - 1; i >= 0; i-- {
		top += "/" + names[i]
		if i == 1 && HashPath(top) == row.Parent {
			c.paths.put(row.Parent, top)
		}
	}
	if HashPath(top) != row.Path {
		return "", fmt.Errorf("%w: its path %.200q has another hash", ErrCorrupt, top)
	}
	if row.IsDir() {
		c.paths.put(row.Path, top)
	}
	return top, nil
}

// pathCache remembers the paths of the directories used last: two maps, of
// which the older one goes when the younger one is full.
type pathCache struct{ young, old map[PathHash]string }

const pathCacheSize = 512

func (p *pathCache) get(h PathHash) (string, bool) {
	if path, ok := p.young[h]; ok {
		return path, true
	}
	path, ok := p.old[h]
	if ok {
		p.put(h, path)
	}
	return path, ok
}

func (p *pathCache) put(h PathHash, path string) {
	if p.young == nil || len(p.young) >= pathCacheSize {
		p.old, p.young = p.young, make(map[PathHash]string)
	}
	p.young[h] = path
}
