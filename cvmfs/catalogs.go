package cvmfs

import (
	"context"
	"fmt"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// maxCatalogs is how many catalogs are kept open. Each holds one descriptor and up
// to 0.7 MiB of SQLite's memory, which no garbage collector sees (cvmfs/catalog has
// the figures); to open one again costs 0.4 ms. So all together they stay below 32
// MiB. A walk goes through one after another, and what a tool needs to start lies
// in less than ten.
const maxCatalogs = 48

// openCatalog is a catalog that several readers share, and its file.
type openCatalog struct {
	*catalog.Catalog
	file *handle
	counted
}

func (c *openCatalog) release() {
	if c.drop() {
		c.Catalog.Close()
		c.file.release()
	}
}

// catalogs fetches and opens catalogs by hash.
type catalogs struct {
	objects *objects
	open    *lru.Cache[hash.Hash, *openCatalog]
	mu      sync.Mutex // guards additions to open
}

func newCatalogs(o *objects, sharing int) *catalogs {
	open, err := lru.NewWithEvict(descriptors(maxCatalogs, 8*sharing), func(_ hash.Hash, c *openCatalog) { c.release() })
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &catalogs{objects: o, open: open}
}

func (s *catalogs) close() { s.open.Purge() }

func (s *catalogs) held(h hash.Hash) (*openCatalog, bool) {
	c, ok := s.open.Get(h)
	return c, ok && c.acquire()
}

// descriptors is n, or less where that would be more than a part of the
// descriptors that the process may have.
func descriptors(n, part int) int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur >= uint64(n*part) {
		return n
	}
	return max(minOpen, int(limit.Cur)/part)
}

// get returns the catalog h, of size bytes (0: not known). The caller releases it.
func (s *catalogs) get(ctx context.Context, h hash.Hash, size int64) (*openCatalog, error) {
	if h.IsZero() {
		return nil, fmt.Errorf("cvmfs: a nested catalog has no hash: %w", catalog.ErrCorrupt)
	}
	o := catalogObject(h, size)
	if c, ok := s.held(h); ok {
		observe(ctx, o)
		return c, nil
	}
	file, err := s.objects.get(ctx, o)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.held(h); ok {
		file.release()
		return c, nil
	}
	db, err := openFile(file)
	if err != nil {
		file.release()
		return nil, fmt.Errorf("cvmfs: catalog %s: %w", h, err)
	}
	c := &openCatalog{Catalog: db, file: file}
	c.refs.Store(2)
	s.open.Add(h, c)
	return c, nil
}

// openFile opens the database from the cache's file, which cannot be evicted
// while the handle is held, or from memory when the cache disk is gone.
func openFile(file *handle) (*catalog.Catalog, error) {
	if path := file.Path(); path != "" {
		if db, err := catalog.Open(path); err == nil {
			return db, nil
		}
	}
	b := make([]byte, file.Size())
	if _, err := file.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return catalog.OpenBytes(b)
}
