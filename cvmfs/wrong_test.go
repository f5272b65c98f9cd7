package cvmfs_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// TestAWrongTraceFailsNobodyElse: who reads a file while a trace that is wrong has
// its object fetched, by a wrong size or from a wrong place, gets its bytes.
func TestAWrongTraceFailsNobodyElse(t *testing.T) {
	for what, wrong := range map[string]func(*cvmfs.Object){
		"size": func(o *cvmfs.Object) { o.Size++ }, "unknown size": func(o *cvmfs.Object) { o.Size = -1 },
		"place": func(o *cvmfs.Object) { o.Suffix = hash.Chunk },
	} {
		w := newWorld(t, cvmfstest.Options{})
		w.fill(contents())
		r := w.mustOpen(1)
		exact := at(t, r, "exact")
		name := exact.Hash.String()[2:]
		o := cvmfs.Object{Hash: exact.Hash, Size: exact.Size}
		wrong(&o)
		release := make(chan struct{})
		w.server.Inject(cvmfstest.Path(name), 0, cvmfstest.Hang(release))
		asked := func(n int) func(cvmfstest.Stats) bool {
			return func(cvmfstest.Stats) bool { return w.server.Count(cvmfstest.Path(name)) >= n }
		}
		var plan cvmfs.Plan
		plan.AddObjects([]cvmfs.Object{o}, 10)
		fetched := make(chan error, 1)
		go func() {
			_, err := r.Prefetch(t.Context(), &plan, func(cvmfs.Prefetched) {})
			fetched <- err
		}()
		if err := w.server.Wait(t.Context(), asked(1)); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() {
			got, err := r.ReadFile(t.Context(), exact, 1<<20)
			if err == nil && !bytes.Equal(got, bytesOf(chunk)) {
				t.Errorf("%s: other bytes", what)
			}
			read <- err
		}()
		joined, cancel := context.WithTimeout(t.Context(), time.Second)
		_ = w.server.Wait(joined, asked(2)) // in vain for one who joins the trace's download
		cancel()
		close(release)
		if err := <-read; err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := <-fetched; err == nil {
			t.Errorf("%s: what the trace says is there", what)
		}
	}
}
