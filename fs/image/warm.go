package image

import (
	"context"
	"sync"

	"github.com/neurodesk/neurodeskfs/fs/squashfs"
)

// maxTables bounds how much of the tables at a squashfs's end is fetched before
// it is asked for, bytes: those of 26 GB images with a million files have 20 MB.
const maxTables = 32 << 20

// warmer is a source that comes over the network. warm fetches all that size
// bytes from off on touch at once, and returns when it is there.
type warmer interface {
	Warm(ctx context.Context, off, size int64) error
}

// warmEnd begins to fetch the end of a file of size bytes, where the tables
// stand, and returns a function that waits for it. What fails is asked for
// again when it is read.
func warmEnd(ctx context.Context, src squashfs.Source, size int64) (wait func()) {
	w, ok := src.(warmer)
	if !ok || size <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = w.Warm(ctx, size-1, 1) })
	return func() {
		running.Wait()
		cancel()
	}
}

// warmTables fetches the tables of an image at once: whoever walks its tree, or
// looks for one file, needs no further round trip for them.
func warmTables(ctx context.Context, src squashfs.Source, f *squashfs.FS) {
	w, ok := src.(warmer)
	if !ok {
		return
	}
	var running sync.WaitGroup
	for _, t := range f.Tables() {
		running.Go(func() { _ = w.Warm(ctx, t.Offset, min(t.Size, maxTables)) })
	}
	running.Wait()
}
