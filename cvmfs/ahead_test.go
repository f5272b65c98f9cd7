package cvmfs_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// overlap is long enough that what is asked at once is under way together.
const overlap = 60 * time.Millisecond

// rounds counts the requests since Reset, and how many followed each other.
func (w *world) rounds() (requests, rounds int) {
	log := w.server.Requests()
	return len(log), cvmfstest.Rounds(log)
}

// readAll reads a file of size bytes in steps.
func readAll(t *testing.T, r *cvmfs.Repository, ref cvmfs.Ref, size, step int64) []byte {
	t.Helper()
	all := make([]byte, size)
	for off := int64(0); off < size; off += step {
		if _, err := r.ReadAt(t.Context(), ref, all[off:min(off+step, size)], off); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestReadingOnFetchesAhead(t *testing.T) {
	const piece, pieces = 64 << 10, 32
	content := bytesOf(piece * pieces)
	for i := range content {
		content[i] += byte(i / piece) // no two chunks alike
	}
	for _, serial := range []bool{false, true} {
		w := newWorld(t, cvmfstest.Options{ChunkSize: piece})
		tree := cvmfstest.NewTree()
		tree.File("big", content, 0o644)
		rev := w.fill(tree)
		w.opts.Serial = serial
		r := w.mustOpen(1)
		big := at(t, r, "big")
		w.server.Inject(cvmfstest.All, 0, cvmfstest.Delay(overlap))
		w.server.Reset()
		if got := readAll(t, r, big.Ref, int64(len(content)), 8<<10); !bytes.Equal(got, content) {
			t.Error("other bytes")
		}
		for i, o := range rev.Objects("big") {
			if n := w.server.Count(cvmfstest.Path(o)); n != 1 {
				t.Errorf("chunk %d was fetched %d times", i, n)
			}
		}
		requests, rounds := w.rounds()
		switch {
		case serial && rounds != pieces:
			t.Errorf("one by one: %d rounds, want %d", rounds, pieces)
		case !serial && (requests != pieces || rounds > 10):
			t.Errorf("%d requests in %d rounds, want %d in at most 10", requests, rounds, pieces)
		}
	}
}

// inPieces publishes the file big, of so many chunks of piece bytes that differ.
func inPieces(t *testing.T, piece, pieces int) (w *world, content []byte, chunks []string) {
	t.Helper()
	w = newWorld(t, cvmfstest.Options{ChunkSize: int64(piece)})
	tree := cvmfstest.NewTree()
	content = bytesOf(piece * pieces)
	for i := range content {
		content[i] += byte(i / piece)
	}
	tree.File("big", content, 0o644)
	return w, content, w.fill(tree).Objects("big")
}

// TestAheadOfAReaderWhoWaits: the chunks after one that has not come yet are asked
// for as soon as that one is read, so that it and they come together.
func TestAheadOfAReaderWhoWaits(t *testing.T) {
	const piece, pieces = 64 << 10, 8
	w, content, chunks := inPieces(t, piece, pieces)
	r := w.mustOpen(1)
	big := at(t, r, "big")
	release := make(chan struct{})
	w.server.Inject(cvmfstest.Path(chunks[1]), 0, cvmfstest.Hang(release))
	readAll(t, r, big.Ref, piece, 8<<10)
	var reader sync.WaitGroup
	reader.Go(func() {
		p := make([]byte, 8<<10)
		if _, err := r.ReadAt(t.Context(), big.Ref, p, piece); err != nil || !bytes.Equal(p, content[piece:piece+8<<10]) {
			t.Errorf("the chunk that was waited for: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := w.server.Wait(ctx, func(cvmfstest.Stats) bool {
		return w.server.Count(cvmfstest.Path(chunks[2])) > 0 && w.server.Count(cvmfstest.Path(chunks[3])) > 0
	})
	if err != nil {
		t.Errorf("while chunk 1 hangs, chunks 2 and 3 are not asked for: %v", err)
	}
	close(release)
	reader.Wait()
}

// TestJumpsFetchNothingMore reads here and there: nothing is asked for that is not read.
func TestJumpsFetchNothingMore(t *testing.T) {
	const piece, pieces = 64 << 10, 16
	w, _, _ := inPieces(t, piece, pieces)
	r := w.mustOpen(1)
	big := at(t, r, "big")
	w.server.Reset()
	for _, i := range []int64{9, 3, 14, 7, 1, 12} {
		if _, err := r.ReadAt(t.Context(), big.Ref, make([]byte, 4096), i*piece+piece/2); err != nil {
			t.Fatal(err)
		}
	}
	r.Close() // waits for what is in the background
	if requests, _ := w.rounds(); requests != 6 {
		t.Errorf("%d requests, want 6", requests)
	}
}

func TestEnteringFetchesCatalogsLevelByLevel(t *testing.T) {
	tree := cvmfstest.NewTree()
	tree.Nested("img")
	for _, dir := range []string{"usr", "usr/lib", "usr/share", "opt", "usr/lib/deep"} {
		tree.Nested("img/" + dir)
		tree.File("img/"+dir+"/file", []byte(dir), 0o644)
	}
	tree.Nested("other")
	tree.File("other/file", []byte("other"), 0o644)
	w := newWorld(t, cvmfstest.Options{})
	w.fill(tree)
	r := w.mustOpen(1)
	img := at(t, r, "img")
	w.server.Inject(cvmfstest.All, 0, cvmfstest.Delay(overlap))
	w.server.Reset()
	r.PrefetchCatalogs(t.Context(), img.Ref)
	if requests, rounds := w.rounds(); requests != 6 || rounds > 4 {
		t.Errorf("%d requests in %d rounds, want the 6 catalogs in at most 4", requests, rounds)
	}
	w.server.Reset()
	if _, err := r.Walk(t.Context(), img.Ref, "usr", "lib", "deep", "file"); err != nil {
		t.Error(err)
	}
	if requests, _ := w.rounds(); requests != 0 {
		t.Errorf("%d requests for catalogs that were there", requests)
	}
}

// TestObservedObjectsCanBePrefetched: what one run was seen to need is all that
// another, with an empty cache, needs.
func TestObservedObjectsCanBePrefetched(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{ChunkSize: chunk})
	w.fill(contents())
	var mu sync.Mutex
	var seen []cvmfs.Object
	known := map[cvmfs.Object]bool{}
	look := func(ctx context.Context, r *cvmfs.Repository) {
		t.Helper()
		root, err := r.Root(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, names := range [][]string{{"big"}, {"sw", "v1", "dir", "tool"}, {"sw", "v1", "dir", "deep", "a", "b", "c"}} {
			e, err := r.Walk(ctx, root.Ref, names...)
			if err == nil {
				_, err = r.ReadFile(ctx, e, 1<<20)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	first := w.mustOpen(1)
	look(fetch.Prefetch(cvmfs.Observe(t.Context(), func(o cvmfs.Object) { t.Errorf("a prefetch was seen: %+v", o) })), first)
	look(cvmfs.Observe(t.Context(), func(o cvmfs.Object) {
		mu.Lock()
		defer mu.Unlock()
		if !known[o] {
			known[o] = true
			seen = append(seen, o)
		}
	}), first)
	first.Close()
	w.fill(contents()) // the same content, an empty store
	second := w.mustOpen(2)
	w.server.Inject(cvmfstest.All, 0, cvmfstest.Delay(overlap))
	w.server.Reset()
	var plan cvmfs.Plan
	plan.AddObjects(seen, 1<<20)
	if done, err := second.Prefetch(t.Context(), &plan, func(cvmfs.Prefetched) {}); err != nil || done.Objects != len(seen) {
		t.Errorf("%d of %d objects, %v", done.Objects, len(seen), err)
	}
	if _, rounds := w.rounds(); rounds != 1 {
		t.Errorf("%d rounds, want 1", rounds)
	}
	w.server.Reset()
	look(t.Context(), second)
	if requests, _ := w.rounds(); requests != 0 {
		t.Errorf("%d requests for what was seen before: %v", requests, w.server.Requests())
	}
}
