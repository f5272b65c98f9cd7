package cvmfs_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// late is a store whose answer "not there" comes late: meanwhile can run first.
type late struct {
	cache.Store
	meanwhile atomic.Pointer[func()]
}

func (s *late) Open(key string) (*cache.Object, error) {
	o, err := s.Store.Open(key)
	if err != nil {
		if f := s.meanwhile.Swap(nil); f != nil {
			(*f)()
		}
	}
	return o, err
}

// TestAnObjectThatCameMeanwhile is not fetched again, whoever was first: between
// a look into the cache and the start of a download another may have ended.
func TestAnObjectThatCameMeanwhile(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{ChunkSize: chunk})
	objects := w.fill(contents()).Objects("sw/v1/dir/tool")
	store := &late{Store: w.opts.Store}
	w.opts.Store = store
	read := func(ctx context.Context, r *cvmfs.Repository, e cvmfs.Entry) error {
		_, err := r.ReadFile(ctx, e, 1<<20)
		return err
	}
	prefetch := func(ctx context.Context, r *cvmfs.Repository, e cvmfs.Entry) error {
		var plan cvmfs.Plan
		if err := r.Add(ctx, &plan, e, nil); err != nil {
			return err
		}
		_, err := r.Prefetch(ctx, &plan, func(cvmfs.Prefetched) {})
		return err
	}
	for name, two := range map[string][2]func(context.Context, *cvmfs.Repository, cvmfs.Entry) error{
		"two reads": {read, read}, "a read, then a prefetch": {read, prefetch},
		"a prefetch, then a read": {prefetch, read}, "two prefetches": {prefetch, prefetch},
	} {
		store.Store = cache.NewMemory(1 << 20)
		r, err := w.open()
		if err != nil {
			t.Fatal(err)
		}
		tool := at(t, r, "sw/v1/dir/tool")
		w.server.Reset()
		first := func() {
			if err := two[0](t.Context(), r, tool); err != nil {
				t.Errorf("%s: the first: %v", name, err)
			}
		}
		store.meanwhile.Store(&first)
		if err := two[1](t.Context(), r, tool); err != nil {
			t.Errorf("%s: the second: %v", name, err)
		}
		if n := len(w.server.Requests()); n != len(objects) || store.meanwhile.Load() != nil {
			t.Errorf("%s: %d requests for %d objects", name, n, len(objects))
		}
		r.Close()
	}
}
