package trace

import (
	"context"
	"fmt"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// Replayed is what a replay did.
type Replayed struct {
	Objects int   `json:"objects"` // of the trace
	Bytes   int64 `json:"bytes"`   // of their content
	There   int   `json:"there"`   // that are in the cache now
}

// Replay fetches what the trace of a command names and returns when it is there.
// progress is told of each object, one after another. ErrUnknown: it has no trace.
func (b *Book) Replay(ctx context.Context, repo *cvmfs.Repository, image, command string, progress func(done cvmfs.Prefetched, of int)) (Replayed, error) {
	b.flush()
	return b.fetch(ctx, repo, name{image, command}, progress)
}

// fetch is Replay of what is kept, or else of what the site has.
func (b *Book) fetch(ctx context.Context, repo *cvmfs.Repository, n name, progress func(done cvmfs.Prefetched, of int)) (Replayed, error) {
	t, ok := b.find(ctx, n)
	if !ok || t.Repository != repo.FQRN() {
		return Replayed{}, fmt.Errorf("%s: %w", n.command, ErrUnknown)
	}
	b.o.Images.Foretold(n.image, true)
	defer b.untold(n.image)
	var plan cvmfs.Plan
	plan.AddObjects(t.list(), unknownSize)
	done, err := repo.Prefetch(ctx, &plan, func(p cvmfs.Prefetched) { progress(p, plan.Objects) })
	return Replayed{Objects: plan.Objects, Bytes: plan.Bytes, There: done.Objects}, err
}

// untold has the image's reads guessed again, unless a run goes on.
func (b *Book) untold(image string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.observe(image)
}

// find returns the trace that is kept, after a look at the site's for an image
// that was not looked for of late.
func (b *Book) find(ctx context.Context, n name) (Trace, bool) {
	b.mu.Lock()
	t, ok := b.get(n)
	look := !ok && b.o.Site != nil && time.Since(b.asked[n.image]) > askAgain
	b.mu.Unlock()
	if !look {
		return t, ok
	}
	text, err := b.o.Site(ctx, n.image)
	var traces []Trace
	if err == nil && text != nil {
		traces, err = Parse(text)
	}
	if ctx.Err() != nil {
		return Trace{}, false
	}
	if err != nil {
		b.o.Logger.Warn("the site's traces of an image cannot be used", "image", n.image, "err", err)
	}
	b.learn()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[n.image] = time.Now() // whatever came of it
	for _, t := range traces {
		if _, ok := b.get(t.name()); !ok && t.Image == n.image {
			t.Used = time.Now().UTC() // or it would be the first to go
			b.put(t)
		}
	}
	return b.get(n)
}
