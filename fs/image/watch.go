package image

import (
	"context"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// watch is who wants to know what is read of one image. Safe for concurrent use;
// nil: nobody does.
type watch struct {
	seen     atomic.Pointer[func(cvmfs.Object)]
	foretold atomic.Bool // a trace tells what will be read
}

// Observe has seen told of every object that the image id is read from, from now
// on; with nil nobody is told any more. See cvmfs.Observe. What the kernel
// answers from its own caches is not seen.
func (s *Images) Observe(id string, seen func(cvmfs.Object)) {
	if seen == nil {
		s.watch(id).seen.Store(nil)
		return
	}
	s.watch(id).seen.Store(&seen)
}

// watch returns the image's, always the same one.
func (s *Images) watch(id string) *watch {
	w, ok := s.watches.Load(id)
	if !ok {
		w, _ = s.watches.LoadOrStore(id, new(watch))
	}
	return w.(*watch)
}

// over is ctx, observed if somebody watches.
func (w *watch) over(ctx context.Context) context.Context {
	if w == nil {
		return ctx
	}
	if seen := w.seen.Load(); seen != nil {
		return cvmfs.Observe(ctx, *seen)
	}
	return ctx
}

// foresee returns the foresight of the image whose root is ref, always the same.
func (v *view) foresee(ref cvmfs.Ref) *foresight {
	f := v.ahead.Load()
	if f == nil {
		v.ahead.CompareAndSwap(nil, newForesight(v, ref))
		f = v.ahead.Load()
	}
	return f
}
