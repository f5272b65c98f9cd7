package cvmfs

import (
	"context"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Object is one object of a repository: a file, a chunk of one, or a catalog.
// Its name is the hash of its bytes, so that whoever names it can at worst have
// the wrong one fetched.
type Object struct {
	Hash        hash.Hash
	Suffix      hash.Suffix
	Compression catalog.Compression
	Size        int64 // bytes of the content; -1: not known
}

// observerKey is where a context keeps its observer.
type observerKey struct{}

// Observe returns a context under which seen is told of every object that is
// asked for, wherever it comes from. It is called often and at the same time by
// several goroutines. What fetch.Prefetch's contexts ask for is not told.
func Observe(ctx context.Context, seen func(Object)) context.Context {
	return context.WithValue(ctx, observerKey{}, seen)
}

// observe tells the context's observer, if it has one.
func observe(ctx context.Context, o object) {
	seen, ok := ctx.Value(observerKey{}).(func(Object))
	if !ok || o.url != "" || fetch.IsPrefetch(ctx) {
		return
	}
	seen(Object{Hash: o.hash, Suffix: o.suffix, Compression: o.compression, Size: o.expected()})
}

// catalogObject is the object that holds the catalog h, of size bytes (0: not
// known). The size is a guess: servers before CVMFS 2.14 that graft a catalog
// write down how large it is compressed (cvmfs/cvmfs, pull request 4366), which the
// reference client does not notice.
func catalogObject(h hash.Hash, size int64) object {
	return object{hash: h, suffix: hash.Catalog, size: -1, limit: maxCatalog, guess: max(size, 0)}
}

// AddObjects adds objects by their names. One of unknown size may have unknown
// bytes at most.
func (p *Plan) AddObjects(list []Object, unknown int64) {
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	for _, o := range list {
		if o.Suffix == hash.Catalog && o.Size >= 0 {
			p.add(catalogObject(o.Hash, o.Size))
			continue
		}
		p.add(object{hash: o.Hash, suffix: o.Suffix, compression: o.Compression, size: o.Size, limit: unknown})
	}
}
