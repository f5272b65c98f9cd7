package cvmfs

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// Bounds on the catalogs that entering a tree has fetched.
const (
	maxAheadCatalogs = 64
	maxAheadBytes    = 64 << 20
)

// PrefetchCatalogs fetches the catalog of the directory ref and, level by level,
// each level at once, those nested below that directory: at most 64, of 64 MiB
// together. It returns when they are there; what cannot be had is left out.
func (r *Repository) PrefetchCatalogs(ctx context.Context, ref Ref) {
	w := catalogWalk{repo: r, ctx: fetch.Prefetch(ctx)}
	w.left.Store(maxAheadCatalogs)
	w.room.Store(maxAheadBytes)
	w.visit(ref.CatalogRef, ref.Row)
	w.wait.Wait()
}

// catalogWalk is one run of PrefetchCatalogs.
type catalogWalk struct {
	repo       *Repository
	ctx        context.Context
	left, room atomic.Int64 // catalogs and bytes that may still be fetched
	wait       sync.WaitGroup
}

// visit fetches ref and what is nested below its entry row; 0: below its root.
func (w *catalogWalk) visit(ref CatalogRef, row int64) {
	if w.left.Add(-1) < 0 || w.room.Add(-max(ref.Size, 1)) < 0 {
		return
	}
	c, err := w.repo.catalogs.get(w.ctx, ref.Hash, ref.Size)
	if err != nil {
		return
	}
	defer c.release()
	list, err := c.Nested(w.ctx)
	below := c.Prefix()
	if err == nil && row != 0 {
		var at catalog.Row
		if at, err = c.ByID(w.ctx, row); err == nil {
			below, err = c.PathOf(w.ctx, at)
		}
	}
	if err != nil {
		return
	}
	for _, n := range list {
		if n.Path == below || strings.HasPrefix(n.Path, below+"/") {
			w.wait.Go(func() { w.visit(CatalogRef{Hash: n.Hash, Mount: ref.place(c, n.Path), Size: n.Size}, 0) })
		}
	}
}

// Background runs f on a goroutine of its own; Close ends its context and waits
// for it. What f asks for is prefetched. Nothing runs after Close, nor where
// Options.Serial forbids it.
func (r *Repository) Background(f func(ctx context.Context)) {
	if !r.opts.Serial {
		r.opts.Net.Background(f)
	}
}

// IsHere reports whether the first bytes of the file ref need no network. One that
// has none is not here.
func (r *Repository) IsHere(ctx context.Context, ref Ref) bool {
	f, err := r.file(ctx, ref)
	if err != nil || len(f.chunks) == 0 {
		return false
	}
	key := f.object(0).key()
	if h, ok := r.objects.opened(key); ok {
		h.release()
		return true
	}
	obj, err := r.objects.store.Open(key)
	if err != nil {
		return false
	}
	r.objects.hold(key, obj).release()
	return true
}

// PrefetchFiles fetches the files in the directory dir whose names like accepts,
// as many at once as go: at most count, of bytes together, none of more than a
// 64th of that.
func (r *Repository) PrefetchFiles(ctx context.Context, dir Ref, count int, bytes int64, like func(name string) bool) {
	ctx = fetch.Prefetch(ctx)
	var plan Plan
	plan.seen = map[string]bool{}
	most := bytes / 64
	err := r.ReadDir(ctx, dir, 0, func(e Entry) bool {
		if e.IsRegular() && !e.IsChunked() && !e.IsExternal() && !e.Hash.IsZero() && like(e.Name) && e.Size <= most && e.Size <= bytes {
			bytes -= e.Size
			plan.add(object{hash: e.Hash, compression: e.Compression, size: e.Size})
		}
		return plan.Objects < count && bytes > 0
	})
	if err == nil {
		_, _ = r.Prefetch(ctx, &plan, func(Prefetched) {}) // whoever needs one of them will see what is wrong
	}
}
