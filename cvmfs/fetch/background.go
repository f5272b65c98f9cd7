package fetch

import (
	"context"
	"sync"
)

// background is the goroutines that no caller waits for. Close does.
type background struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards all below
	closed bool
}

// start runs f, unless the client is closed.
func (b *background) start(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Go(f)
	return true
}

// Background runs f on a goroutine of its own, with a context of Prefetch that
// Close ends, and waits for. It reports whether it did: not after Close.
func (c *Client) Background(f func(ctx context.Context)) bool {
	return c.background.start(func() { f(Prefetch(c.ctx)) })
}

func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.wg.Wait()
}
