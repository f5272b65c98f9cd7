package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// looksAtOnce bounds the requests of Refresh under way.
const looksAtOnce = 8

// Index returns the list of the bucket's files as its server has it, fetched
// once and then by Refresh only. When no server can be reached it is the list
// of an earlier run, if that had at most 1 MiB. Buckets with Files list those,
// one a line.
func (b *Bucket) Index(ctx context.Context) (string, error) {
	if len(b.o.Index) == 0 {
		return strings.Join(b.o.Files, "\n"), nil
	}
	b.mu.Lock()
	index := b.index
	b.mu.Unlock()
	if index != nil {
		return *index, nil
	}
	text, err := b.fetchIndex(ctx)
	if err != nil {
		old, ok := b.o.Memo.Get(indexMemo, b.o.Name+" "+b.o.Index[0])
		if !ok {
			return "", err
		}
		b.log.Warn("the list of images cannot be fetched; the one of the last run is used", "source", b.o.Name, "err", err)
		text = string(old)
	}
	b.setIndex(text)
	return text, nil
}

// Listed reports whether the names of the files come from a list on a server.
func (b *Bucket) Listed() bool { return len(b.o.Index) > 0 }

func (b *Bucket) setIndex(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index = &text
}

// fetchIndex asks for the list where it lies, one place after the other.
func (b *Bucket) fetchIndex(ctx context.Context) (string, error) {
	var errs []error
	for _, at := range b.o.Index {
		text, err := b.fetchIndexAt(ctx, at)
		if err == nil {
			b.o.Memo.Put(indexMemo, b.o.Name+" "+b.o.Index[0], text)
			return string(text), nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("the list of images: %w", errors.Join(errs...))
}

func (b *Bucket) fetchIndexAt(ctx context.Context, at string) (text []byte, err error) {
	err = b.get(ctx, fetch.Request{URL: at, Limit: maxIndex, NoCache: true, Accept: func(_ context.Context, body io.Reader) (err error) {
		text, err = io.ReadAll(body)
		if head := bytes.ToLower(bytes.TrimSpace(text)); err == nil && (bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))) {
			err = fmt.Errorf("%w: a web page, no list of names", fetch.ErrContent)
		}
		return err
	}})
	return text, err
}

// Refresh fetches the list anew and looks at every file that was found so far.
// changed says that something is not what it was, even if err says that not all
// could be looked at; what could not stays as it is.
func (b *Bucket) Refresh(ctx context.Context) (changed bool, err error) {
	ctx = fetch.Urgent(ctx)
	if len(b.o.Index) > 0 {
		b.mu.Lock()
		before := b.index
		b.mu.Unlock()
		text, err := b.fetchIndex(ctx)
		if err != nil {
			return false, err
		}
		changed = before == nil || *before != text
		b.setIndex(text)
	}
	b.mu.Lock()
	files := slices.Collect(maps.Values(b.known))
	b.mu.Unlock()
	var looks sync.WaitGroup
	var result sync.Mutex // guards changed and err
	turns := make(chan struct{}, looksAtOnce)
	for _, f := range files {
		turns <- struct{}{}
		looks.Go(func() {
			defer func() { <-turns }()
			other, lookErr := b.relook(ctx, f)
			result.Lock()
			defer result.Unlock()
			changed = changed || other
			err = errors.Join(err, lookErr)
		})
	}
	looks.Wait()
	if err == nil {
		b.mu.Lock()
		b.checked = time.Now()
		b.mu.Unlock()
	}
	return changed, err
}

// relook reports whether the server has another version of old, or none.
func (b *Bucket) relook(ctx context.Context, old File) (changed bool, err error) {
	f, err := b.look(ctx, old.Name, old)
	gone := errors.Is(err, iofs.ErrNotExist)
	if err != nil && !gone {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case gone:
		delete(b.known, old.Name)
	case f != old:
		b.known[old.Name] = f
	}
	if !gone {
		delete(b.gone, b.ID(f))
		if f != old {
			b.remember(f)
		}
	}
	return gone || f != old, nil
}
