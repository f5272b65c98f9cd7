package cvmfs_test

import (
	"testing"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// TestACatalogMayHaveAnotherSizeThanItsParentSays: its hash alone decides, at the
// first request, for a server that was to blame would be left.
func TestACatalogMayHaveAnotherSizeThanItsParentSays(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	rev := w.fill(contents())
	r := w.mustOpen(1)
	sw, _, err := r.Attached(t.Context(), at(t, r, "sw"))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	f, err := w.repo.Store.Open(rev.Objects("sw")[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{
		"right": sw.Size, "compressed": compressed.Size(), "one less": sw.Size - 1, "one more": sw.Size + 1,
		"far more": 1 << 40, "none": 0, "negative": -5,
	} {
		wrong := sw
		wrong.Size = size
		w.opts.Store = cache.NewMemory(64 << 20)
		r := w.mustOpen(1)
		w.server.Reset()
		e, err := r.Resolve(t.Context(), wrong, "/sw/one")
		if err != nil || e.Size != 9 || w.server.Count(cvmfstest.All) != 1 {
			t.Errorf("%s: %+v, %v, %d requests", name, e, err, w.server.Count(cvmfstest.All))
		}
		r.Close()
		w.opts.Store = cache.NewMemory(64 << 20)
		r = w.mustOpen(1)
		var plan cvmfs.Plan
		plan.AddObjects([]cvmfs.Object{{Hash: sw.Hash, Suffix: hash.Catalog, Size: size}}, 1<<20)
		if _, err := r.Prefetch(t.Context(), &plan, func(cvmfs.Prefetched) {}); err != nil {
			t.Errorf("%s, from a trace: %v", name, err)
		}
		r.Close()
	}
}
