package blob

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// prefetchWorkers bounds the blocks that Prefetch asks for at once; the client
// bounds them further.
const prefetchWorkers = 8

// Prefetched is how far Prefetch is.
type Prefetched struct {
	Blocks, Present int   // Present: of Blocks, those that were there already
	Bytes, Here     int64 // likewise
}

// Blocks is how many the file has.
func (r *Reader) Blocks() int { return int((r.file.Size + BlockSize - 1) / BlockSize) }

// Prefetch fetches all blocks of the file into the cache, in parallel, behind
// what others wait for. progress is called after each block, by one goroutine at
// a time. The first error ends it; what was fetched stays. Errors are ReadAt's.
func (r *Reader) Prefetch(ctx context.Context, progress func(Prefetched)) (done Prefetched, err error) {
	var mu sync.Mutex // guards done
	g, ctx := errgroup.WithContext(fetch.Prefetch(ctx))
	g.SetLimit(prefetchWorkers)
	for i := range int64(r.Blocks()) {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			o, err := r.bucket.o.Store.Open(r.bucket.key(r.file, i))
			present := err == nil
			if !present {
				o, err = r.block(ctx, i)
			}
			if err != nil {
				return err
			}
			size := o.Size()
			o.Close()
			mu.Lock()
			defer mu.Unlock()
			done.Blocks++
			done.Bytes += size
			if present {
				done.Present++
				done.Here += size
			}
			progress(done)
			return nil
		})
	}
	err = g.Wait()
	if err == nil && done.Blocks < r.Blocks() {
		err = ctx.Err()
	}
	return done, err
}
