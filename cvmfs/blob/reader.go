package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// key names block i of a version in the cache.
func (b *Bucket) key(f File, i int64) string {
	return b.keyPrefix(f) + strconv.FormatInt(i, 10)
}

func (b *Bucket) keyPrefix(f File) string { return "http-" + b.ID(f) + "-" }

// Suspect reports whether one of these keys of the cache is a block of f.
func (b *Bucket) Suspect(f File, keys []string) bool {
	prefix := b.keyPrefix(f)
	return slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, prefix) })
}

// Reader reads one version of a file. Safe for concurrent use.
type Reader struct {
	bucket *Bucket
	file   File
	id     string
}

// Open makes a reader of a version that Find returned, now or earlier. It asks
// nobody.
func (b *Bucket) Open(f File) *Reader { return &Reader{bucket: b, file: f, id: b.ID(f)} }

// Size is the file's length in bytes.
func (r *Reader) Size() int64 { return r.file.Size }

// ReadAt fills p from offset off. It fetches the blocks that the range touches,
// all at once, and no others; a block that several wait for is fetched once.
// Fewer than len(p) bytes without an error mean that the file ends there.
// ErrChanged, an error of package fetch or the context's is returned.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= r.file.Size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), r.file.Size-off)]
	if off/BlockSize != (off+int64(len(p))-1)/BlockSize {
		if err := r.Warm(ctx, off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		block, err := r.block(ctx, at/BlockSize)
		if err != nil {
			return done, err
		}
		n, err := block.ReadAt(p[done:min(int64(len(p)), int64(done)+BlockSize-at%BlockSize)], at%BlockSize)
		block.Close()
		done += n
		if err != nil && !(errors.Is(err, io.EOF) && done == len(p)) {
			return done, fmt.Errorf("%s: %w", r.bucket.Place(r.file.Name), err)
		}
	}
	return done, nil
}

// Warm fetches the blocks that size bytes from off on touch, all at once, and
// returns when they are in the cache.
func (r *Reader) Warm(ctx context.Context, off, size int64) error {
	off, size = max(off, 0), min(size, r.file.Size-off)
	if size <= 0 {
		return nil
	}
	first, last := off/BlockSize, (off+size-1)/BlockSize
	errs := make([]error, last-first+1)
	var blocks sync.WaitGroup
	for i := range errs {
		blocks.Go(func() {
			o, err := r.block(ctx, first+int64(i))
			if err == nil {
				o.Close()
			}
			errs[i] = err
		})
	}
	blocks.Wait()
	for _, err := range errs {
		if err != nil {
			return err // the others say the same as a rule
		}
	}
	return nil
}

// block opens block i, fetched if need be.
func (r *Reader) block(ctx context.Context, i int64) (*cache.Object, error) {
	b, key := r.bucket, "http-"+r.id+"-"+strconv.FormatInt(i, 10)
	for range 3 { // an object in memory may be gone again before we hold it
		o, err := b.o.Store.Open(key)
		if err == nil || !errors.Is(err, cache.ErrNotCached) {
			return o, err
		}
		if err := r.still(); err != nil {
			return nil, err
		}
		if err := b.net.Once(ctx, key, func(ctx context.Context) error { return r.fetch(ctx, i) }); err != nil {
			if errors.Is(err, ErrChanged) {
				r.lost(err)
				err = r.still()
			}
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: block %d does not stay in the cache: give the cache more room", b.Place(r.file.Name), i)
}

// fetch downloads block i into the cache, unless it came there since it was
// looked for, or while another process fetched it.
func (r *Reader) fetch(ctx context.Context, i int64) error {
	key := r.bucket.key(r.file, i)
	if claim := r.bucket.o.Claim; claim != nil {
		release, err := claim(ctx, key)
		if err != nil {
			return err
		}
		defer release()
	}
	if o, err := r.bucket.o.Store.Recheck(key); err == nil {
		return o.Close()
	}
	version := r.file.Version
	part := [2]int64{i * BlockSize, min(BlockSize, r.file.Size-i*BlockSize)}
	return r.bucket.get(ctx, fetch.Request{Path: r.file.Name, Range: &part, Version: &version, Accept: func(_ context.Context, body io.Reader) error {
		return r.bucket.keep(r.file, i, body)
	}})
}

// keep puts block i of f, which body is, into the cache.
func (b *Bucket) keep(f File, i int64, body io.Reader) error {
	w, err := b.o.Store.Create(b.key(f, i), min(BlockSize, f.Size-i*BlockSize))
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, body); err != nil {
		return err
	}
	o, err := w.Commit()
	if err == nil {
		o.Close()
	}
	return err
}

// lost notes, and says once, that the server has another version of the file.
func (r *Reader) lost(err error) {
	b := r.bucket
	b.mu.Lock()
	known := b.gone[r.id]
	b.gone[r.id] = true
	b.mu.Unlock()
	if known {
		return
	}
	b.log.Error("an image was replaced on the server: what runs from the old one gets what is cached, else an input/output error; start it again",
		"source", b.o.Name, "image", r.file.Name, "hash", r.id, "err", err)
	select {
	case b.changed <- struct{}{}:
	default: // it was told already
	}
}

// still is ErrChanged once the server was seen to have another version.
func (r *Reader) still() error {
	r.bucket.mu.Lock()
	defer r.bucket.mu.Unlock()
	if r.bucket.gone[r.id] {
		return fmt.Errorf("%s: %w, and this part of the old one is not cached: start the program again", r.bucket.Place(r.file.Name), ErrChanged)
	}
	return nil
}
