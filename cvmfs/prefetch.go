package cvmfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

const (
	prefetchWorkers  = 64 // objects looked for at once; fetch bounds the downloads
	prefetchFailures = 20 // objects that fail before the rest is given up
	maxPlanned       = 20_000_000
)

// Plan is the objects that files below some entries consist of, each once.
type Plan struct {
	Objects int
	Bytes   int64 // of content

	list []object
	seen map[string]bool
}

// Add adds what lies at and below e: all files, through nested catalogs, which it
// fetches. progress, which may be nil, is called now and then. A directory that
// is met again, as hostile or bind-mounted catalogs can have it, is looked at once.
func (r *Repository) Add(ctx context.Context, p *Plan, e Entry, progress func()) error {
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	type place struct {
		catalog hash.Hash
		row     int64
	}
	visited := map[place]bool{}
	for todo := []Entry{e}; len(todo) > 0; {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		switch {
		case e.IsRegular():
			if err := r.addFile(ctx, p, e.Ref); err != nil {
				return err
			}
		case e.IsDir() && !visited[place{e.Ref.Hash, e.Ref.Row}]:
			visited[place{e.Ref.Hash, e.Ref.Row}] = true
			if err := r.ReadDir(ctx, e.Ref, 0, func(child Entry) bool {
				todo = append(todo, child)
				return true
			}); err != nil {
				return err
			}
		}
		if len(p.list) > maxPlanned || len(todo) > maxPlanned {
			return fmt.Errorf("cvmfs: more than %d objects: %w", maxPlanned, catalog.ErrCorrupt)
		}
		if progress != nil {
			progress()
		}
	}
	return nil
}

func (r *Repository) addFile(ctx context.Context, p *Plan, ref Ref) error {
	f, err := r.file(ctx, ref)
	if err != nil {
		return err
	}
	for i, c := range f.chunks {
		if !c.Hash.IsZero() {
			p.add(f.object(i))
		}
	}
	return nil
}

// add adds an object that is not there yet.
func (p *Plan) add(o object) {
	if p.seen[o.key()] {
		return
	}
	p.seen[o.key()] = true
	p.list = append(p.list, o)
	p.Objects++
	p.Bytes += max(o.expected(), 0)
}

// Prefetched is how far Prefetch is.
type Prefetched struct {
	Objects, Present int   // Present: of Objects, those that were there already
	Bytes, Here      int64 // of content, likewise
	Failed           int
	InMemory         int // of Objects, those that the cache's disk could not take
}

// Prefetch fetches the objects of p into the cache, or into the tier that is
// being filled, verified, in parallel, behind what others wait for. progress is
// called after each object, by one goroutine at a time. Objects that fail are left
// out, and the error names the first of them; when no server can be reached, or
// too many fail, the rest is not tried. What was fetched stays in any case.
func (r *Repository) Prefetch(ctx context.Context, p *Plan, progress func(Prefetched)) (Prefetched, error) {
	ctx, cancel := context.WithCancel(fetch.Prefetch(ctx))
	defer cancel()
	var done Prefetched
	var first error
	var mu sync.Mutex // guards the two
	var next atomic.Int64
	var workers sync.WaitGroup
	for range prefetchWorkers {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(p.list)) {
					return
				}
				got, err := r.objects.obtain(ctx, p.list[i])
				mu.Lock()
				if first = done.note(p.list[i], got, err, first); err != nil && (done.Failed >= prefetchFailures || stopsAll(err)) {
					cancel()
				}
				progress(done)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if first == nil && done.Objects < len(p.list) {
		first = ctx.Err()
	}
	return done, first
}

// note counts one object and returns the first error.
func (d *Prefetched) note(o object, got obtained, err, first error) error {
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return first
		}
		d.Failed++
		return cmp.Or(first, err)
	}
	d.Objects++
	d.Bytes += max(o.expected(), 0)
	if got.present {
		d.Present++
		d.Here += max(o.expected(), 0)
	}
	if got.inMemory {
		d.InMemory++
	}
	return first
}

// stopsAll reports whether no other object can fare better: no server, no disk.
func stopsAll(err error) bool {
	return errors.Is(err, fetch.ErrOffline) || !errors.Is(err, fetch.ErrFetch) && !errors.Is(err, fetch.ErrNotFound)
}

// obtained tells how an object is where it is wanted.
type obtained struct {
	present  bool // it was there already
	inMemory bool // the cache's disk cannot take it
}

// obtain sees to it that o is where it is wanted.
func (s *objects) obtain(ctx context.Context, o object) (got obtained, err error) {
	if s.fill != nil {
		got.present, err = s.provide(ctx, o)
		return got, err
	}
	obj, err := s.store.Open(o.key())
	if err == nil {
		defer obj.Close()
		return obtained{present: true, inMemory: !s.settle(o, obj)}, nil
	}
	if !errors.Is(err, cache.ErrNotCached) {
		return got, fmt.Errorf("cvmfs: object %s: %w", o.hash, err)
	}
	var inMemory atomic.Bool
	err = s.net.Once(ctx, o.flight(), func(ctx context.Context) error {
		obj, err := s.bring(ctx, o)
		if err == nil {
			inMemory.Store(obj.Bytes() != nil)
			obj.Close()
		}
		return err
	})
	if err != nil {
		return got, fmt.Errorf("cvmfs: object %s: %w", o.name(), err)
	}
	return obtained{inMemory: inMemory.Load()}, nil
}

// settle offers the disk once more what it could not take before, and reports
// whether the object is there.
func (s *objects) settle(o object, obj *cache.Object) bool {
	if obj.Bytes() == nil {
		return true
	}
	w, err := s.store.Create(o.key(), obj.Size())
	if err != nil {
		return false
	}
	defer w.Abort()
	if _, err := w.Write(obj.Bytes()); err != nil {
		return false
	}
	again, err := w.Commit()
	if err != nil {
		return false
	}
	defer again.Close()
	return again.Bytes() == nil
}
