package cvmfs

import (
	"context"
	"sort"
	"sync"
)

// Warm fetches the chunks of the regular file at ref that size bytes from off on
// touch, all at once, and returns when they are in the cache, or with the first
// error.
func (r *Repository) Warm(ctx context.Context, ref Ref, off, size int64) error {
	f, err := r.file(ctx, ref)
	if err != nil {
		return err
	}
	end := min(max(off, 0)+size, f.row.Size)
	first := sort.Search(len(f.chunks), func(i int) bool { return f.chunks[i].Offset+f.chunks[i].Size > off })
	var wanted []int
	for i := first; i < len(f.chunks) && f.chunks[i].Offset < end; i++ {
		if !f.chunks[i].Hash.IsZero() {
			wanted = append(wanted, i)
		}
	}
	errs := make([]error, len(wanted))
	var chunks sync.WaitGroup
	for n, i := range wanted {
		chunks.Go(func() {
			h, err := r.objects.get(ctx, f.object(i))
			if err == nil {
				h.release()
			}
			errs[n] = err
		})
	}
	chunks.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
