package cvmfstest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// dirSize is the st_size that directories are given.
const dirSize = 4096

// contents are the rows of one catalog.
type contents struct {
	entries []catalog.Entry
	nested  []nestedCatalog
	binds   []nestedCatalog
	groups  uint64 // hard link groups so far
}

type nestedCatalog struct {
	path string
	built
}

// built is a catalog in the store.
type built struct {
	hash     hash.Hash
	size     int64 // bytes, inflated
	revision uint64
	stats    catalog.Statistics
	digest   [sha256.Size]byte // of its contents
}

// catalog writes the catalog that starts at path, after those nested in it.
func (p *publication) catalog(path string, top *Node) (built, error) {
	c := &contents{}
	e := p.entry(path, top)
	e.NestedRoot = path != ""
	c.entries = append(c.entries, e)
	if err := p.collect(c, path, top); err != nil {
		return built{}, err
	}
	old, known := p.repo.catalogs[path]
	b := built{digest: c.digest(), revision: old.revision + 1}
	if path == "" {
		b.revision = p.rev.Number
	} else if known && old.digest == b.digest {
		p.note(path, old.hash.Path(hash.Catalog))
		return old, nil
	}
	if err := p.write(path, c, &b, old.hash); err != nil {
		return built{}, err
	}
	p.repo.catalogs[path] = b
	p.note(path, b.hash.Path(hash.Catalog))
	return b, nil
}

// note remembers which objects hold what is at path.
func (p *publication) note(path string, objects ...string) {
	p.rev.paths[strings.TrimPrefix(path, "/")] = objects
}

// collect adds the rows of what is in dir, down to the next nested catalogs.
func (p *publication) collect(c *contents, at string, dir *Node) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	links := make(map[*Node]uint64)
	for _, n := range dir.children {
		links[n]++
	}
	group := make(map[*Node]uint64)
	for _, name := range dir.names() {
		n, path := dir.children[name], at+"/"+name
		e := p.entry(path, n)
		if !n.isDir() && links[n] > 1 {
			if group[n] == 0 {
				c.groups++
				group[n] = c.groups
			}
			e.Hardlinks = group[n]<<32 | links[n]
		}
		e.Nested = n.isDir() && n.children[catalogMarker] != nil
		e.BindMount = n.bind != nil
		c.entries = append(c.entries, e)
		switch {
		case e.BindMount:
			c.binds = append(c.binds, nestedCatalog{path, built{hash: n.bind.Root, size: n.bind.RootSize}})
		case e.Nested:
			b, err := p.catalog(path, n)
			if err != nil {
				return err
			}
			c.nested = append(c.nested, nestedCatalog{path, b})
		case n.isDir():
			if err := p.collect(c, path, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry is the row of n, links apart.
func (p *publication) entry(path string, n *Node) catalog.Entry {
	e := catalog.Entry{
		Path: path, Mode: n.Mode, MTime: n.MTime.Unix(), MTimeNsec: int32(n.MTime.Nanosecond()),
		UID: n.UID, GID: n.GID, Symlink: n.Target, Hardlinks: 1, Rdev: n.Rdev, Hidden: n.Hidden,
	}
	for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
		e.Xattrs = append(e.Xattrs, catalog.Xattr{Name: k, Value: []byte(n.Xattrs[k])})
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Size, e.Hardlinks = dirSize, 2
		for _, c := range n.children {
			if c.isDir() {
				e.Hardlinks++
			}
		}
	case unix.S_IFLNK:
		e.Size = int64(len(n.Target))
	case unix.S_IFREG:
		o := p.repo.objects[p.key(path, n)]
		e.Size, e.Hash, e.Chunks, e.External = n.content.size, o.hash, o.chunks, p.external(n)
		if e.External || p.repo.opt.Plain {
			e.Compression = catalog.None
		}
		if !e.External {
			p.note(path, o.names()...)
		}
	}
	if p.repo.opt.Alter != nil {
		p.repo.opt.Alter(&e)
	}
	return e
}

// digest tells whether two catalogs have the same rows.
func (c *contents) digest() (d [sha256.Size]byte) {
	h := sha256.New()
	for _, e := range c.entries {
		fmt.Fprintf(h, "%q %+v\n", e.Path, e)
	}
	for _, n := range slices.Concat(c.nested, c.binds) {
		fmt.Fprintf(h, "%q %v\n", n.path, n.hash)
	}
	h.Sum(d[:0])
	return d
}

// write makes the database and stores it.
func (p *publication) write(path string, c *contents, b *built, previous hash.Hash) (err error) {
	r := p.repo
	file := filepath.Join(p.tmp, "catalog")
	props := catalog.NewCatalog{RootPrefix: path, Revision: b.revision, Previous: previous, LastModified: p.now}
	if path == "" {
		props.TTL = r.opt.TTL
	}
	w, err := catalog.Create(file, props)
	if err != nil {
		return err
	}
	defer func() {
		if e := os.Remove(file); !errors.Is(e, os.ErrNotExist) { // a writer that failed has removed it
			err = errors.Join(err, e)
		}
	}()
	for _, e := range c.entries {
		if err := w.Add(e); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	for _, n := range c.nested {
		if err := w.AddNested(n.path, n.hash, n.size); err != nil {
			return errors.Join(err, w.Close())
		}
		w.AddSubtree(n.stats)
	}
	for _, n := range c.binds {
		if err := w.AddBind(n.path, n.hash, n.size); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	b.stats = w.Statistics()
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if r.opt.Forge != nil {
		raw = r.opt.Forge(path, raw)
	}
	h, stored, err := r.Store.Put(raw, r.format(hash.Catalog))
	if err != nil {
		return err
	}
	b.hash, b.size = h, int64(len(raw))
	if path == "" && r.opt.AltPath {
		return r.Store.WriteFile(".cvmfsalt-"+h.String()+"C", stored)
	}
	return nil
}
