package fetch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// flights are the runs of Once, by key.
type flights struct {
	wg sync.WaitGroup // the goroutines of all runs

	mu      sync.Mutex // guards all below, and the marked fields of flight
	running map[string]*flight
	closed  bool
}

// flight is one run that any number of callers wait for.
type flight struct {
	cancel   context.CancelFunc
	done     chan struct{}
	err      error         // set before done is closed
	promoted chan struct{} // closed when a caller waits who is no prefetch

	// Guarded by flights.mu.
	waiters   int
	abandoned bool // the last waiter has left
}

// flightKey finds the flight in the context of the function it runs.
type flightKey struct{}

// errExited is what waiters get when fn ended its goroutine (runtime.Goexit).
var errExited = errors.New("fetch: the download ended its goroutine")

// Once runs fn, or waits for the run of that key which is under way: there is
// one at a time however many wait. It returns what fn returned, or ctx.Err() as
// soon as ctx ends. fn's context has the values of the first caller's and is
// cancelled when the last caller has left, or by Close (ErrClosed). A caller that
// comes while a run left by all winds down waits for its end and starts anew.
// Nothing is remembered of a run that has ended. A panic in fn becomes an error
// for its callers and is logged.
//
// What Prefetch's context began is prefetch no more as soon as a caller without
// one waits for it.
func (c *Client) Once(ctx context.Context, key string, fn func(ctx context.Context) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, joined := c.join(ctx, key, fn)
		if f == nil {
			return ErrClosed
		}
		select {
		case <-f.done:
			if joined || f.err == nil {
				return f.err
			}
		case <-ctx.Done():
			if joined {
				c.flights.leave(f)
			}
			return ctx.Err()
		}
	}
}

// join becomes a waiter of the key's run, which it starts if there is none. Of a
// run that was left by all it becomes none: joined is false. nil: closed.
func (c *Client) join(ctx context.Context, key string, fn func(ctx context.Context) error) (f *flight, joined bool) {
	fl := &c.flights
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.closed {
		return nil, false
	}
	if f = fl.running[key]; f != nil {
		if f.abandoned {
			return f, false
		}
		if !IsPrefetch(ctx) {
			f.promote()
		}
		f.waiters++
		return f, true
	}
	f = &flight{done: make(chan struct{}), promoted: make(chan struct{}), waiters: 1, err: errExited}
	run, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), flightKey{}, f))
	f.cancel = func() { cancel(context.Canceled) }
	stop := context.AfterFunc(c.ctx, func() { cancel(ErrClosed) })
	fl.running[key] = f
	fl.wg.Go(func() {
		defer func() {
			stop()
			f.cancel()
			fl.mu.Lock()
			delete(fl.running, key)
			fl.mu.Unlock()
			close(f.done)
		}()
		f.err = c.guard(run, key, fn)
	})
	return f, true
}

// promote is called with flights.mu held.
func (f *flight) promote() {
	select {
	case <-f.promoted:
	default:
		close(f.promoted)
	}
}

// guard runs fn and turns a panic into an error.
func (c *Client) guard(ctx context.Context, key string, fn func(ctx context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.cfg.Logger.Error("fetch: a download panicked", "key", key, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("fetch: %s panicked: %v", key, v)
		}
	}()
	err = fn(ctx)
	if err != nil && context.Cause(ctx) == ErrClosed && errors.Is(err, context.Canceled) {
		err = ErrClosed
	}
	return err
}

func (fl *flights) leave(f *flight) {
	fl.mu.Lock()
	f.waiters--
	f.abandoned = f.waiters == 0
	last := f.abandoned
	fl.mu.Unlock()
	if last {
		f.cancel()
	}
}

func (fl *flights) close() {
	fl.mu.Lock()
	fl.closed = true
	fl.mu.Unlock()
	fl.wg.Wait()
}
