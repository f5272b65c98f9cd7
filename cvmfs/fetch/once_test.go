package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		release := make(chan struct{})
		s := nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			<-release
			ok(n, w, r)
		})
		c := open(Config{Servers: []string{"http://a"}})
		errs := make(chan error)
		for range 64 {
			go func() {
				errs <- c.Once(t.Context(), "hash", func(ctx context.Context) error { return c.Get(ctx, want("x")) })
			}()
		}
		synctest.Wait()
		close(release)
		for range 64 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if s.count() != 1 || c.Stats().Requests != 1 {
			t.Errorf("%d requests", s.count())
		}
		// It is not remembered.
		if err := c.Once(t.Context(), "hash", func(context.Context) error { return io.EOF }); err != io.EOF {
			t.Error(err)
		}
	})
}

func TestOnceWaitersLeave(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		s := nw.add(t, "a", hangs)
		c := open(Config{Servers: []string{"http://a"}})
		type waiter struct {
			cancel context.CancelFunc
			err    chan error
		}
		start := func() waiter {
			ctx, cancel := context.WithCancel(t.Context())
			w := waiter{cancel, make(chan error, 1)}
			go func() {
				w.err <- c.Once(ctx, "k", func(ctx context.Context) error { return c.Get(ctx, want("x")) })
			}()
			synctest.Wait()
			return w
		}
		first, second, third := start(), start(), start()
		for _, w := range []waiter{first, third} {
			w.cancel()
			if err := <-w.err; err != context.Canceled {
				t.Error(err)
			}
			synctest.Wait()
			if c.Stats().InFlight != 1 {
				t.Fatal("the download ended while someone waited")
			}
		}
		second.cancel()
		<-second.err
		synctest.Wait()
		if c.Stats().InFlight != 0 || s.count() != 1 {
			t.Error("the download went on with nobody waiting")
		}
	})
}

// TestOnceWindsDown: a caller that comes while an abandoned run ends waits for
// that end, and its own run is the only one then.
func TestOnceWindsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var running, runs atomic.Int32
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			left <- c.Once(ctx, "k", func(ctx context.Context) error {
				running.Add(1)
				defer running.Add(-1)
				<-ended // does not heed its context
				return ctx.Err()
			})
		}()
		synctest.Wait()
		cancel()
		<-left
		got := make(chan error, 1)
		go func() {
			got <- c.Once(t.Context(), "k", func(ctx context.Context) error {
				runs.Add(1)
				if running.Load() != 0 {
					t.Error("two runs at one time")
				}
				return ctx.Err()
			})
		}()
		synctest.Wait()
		close(ended)
		if err := <-got; err != nil || runs.Load() != 1 {
			t.Errorf("%v after %d runs", err, runs.Load())
		}
	})
}

func TestOncePanics(t *testing.T) {
	var log logged
	c := client(t, Config{Logger: log.logger()})
	err := c.Once(t.Context(), "k", func(context.Context) error { panic("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") || !strings.Contains(log.lines()[0], "boom") {
		t.Errorf("%v, logged %q", err, log.lines())
	}
	if err := c.Once(t.Context(), "k", func(context.Context) error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error of a run that ended its goroutine")
	}
	if err := c.Once(t.Context(), "k", func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestOnceAndClose(t *testing.T) {
	c := client(t, Config{})
	started := make(chan struct{})
	go func() { <-started; c.Close() }()
	err := c.Once(t.Context(), "k", func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		return fmt.Errorf("stopped: %w", ctx.Err())
	})
	if !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestSlots: sixteen at most, on-demand ones first, the last four not for prefetch.
func TestSlots(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		step := make(chan struct{})
		s := nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			<-step
			ok(n, w, r)
		})
		c := open(Config{Servers: []string{"http://a"}})
		done := make(chan error, 100)
		get := func(path string, prefetch bool) {
			ctx := t.Context()
			if prefetch {
				ctx = Prefetch(ctx)
			}
			r := want(path)
			r.Limit = 0 // it may be large
			go func() { done <- c.Get(ctx, r) }()
			synctest.Wait()
		}
		for range 14 {
			get("prefetch", true)
		}
		if s.count() != 12 {
			t.Fatalf("%d prefetches in flight, want 12", s.count())
		}
		for range 6 {
			get("demand", false)
		}
		if s.count() != 16 || c.Stats().InFlight != 16 {
			t.Fatalf("%d in flight, want 16", s.count())
		}
		for range 20 {
			step <- struct{}{}
			synctest.Wait()
			if n := c.Stats().InFlight; n > 16 {
				t.Errorf("%d in flight", n)
			}
		}
		for range 20 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := s.urls[16:18]; !slices.Equal(got, []string{"/demand", "/demand"}) {
			t.Errorf("a prefetch came before a waiting request: %v", got)
		}
	})
}

// TestPromotion: a prefetch that someone waits for overtakes the others.
func TestPromotion(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		step := make(chan struct{})
		s := nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			<-step
			ok(n, w, r)
		})
		c := open(Config{Servers: []string{"http://a"}, MaxInFlight: 2})
		done := make(chan error, 10)
		once := func(ctx context.Context, path string) {
			go func() {
				done <- c.Once(ctx, path, func(ctx context.Context) error {
					r := want(path)
					r.Limit = 0
					return c.Get(ctx, r)
				})
			}()
			synctest.Wait()
		}
		early := Prefetch(t.Context())
		once(early, "one") // takes the one slot that prefetch may have
		once(early, "two")
		once(early, "three")
		once(early, "three") // nobody waits for it yet
		if s.count() != 1 {
			t.Fatalf("%d requests", s.count())
		}
		once(t.Context(), "three")
		if s.count() != 2 || s.urls[1] != "/three" {
			t.Errorf("asked for %v", s.urls)
		}
		close(step)
		for range 5 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSlotsLeave: who leaves the queue takes nothing with him.
func TestSlotsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.acquire(t.Context(), largeWeight, false, nil); err != nil {
			t.Fatal(err)
		}
		for _, prefetch := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error)
			go func() { got <- s.acquire(ctx, smallWeight, prefetch, nil) }()
			synctest.Wait()
			cancel()
			if err := <-got; err != context.Canceled {
				t.Error(err)
			}
		}
		s.release(largeWeight)
		if s.inFlight() != 0 || s.demand.Len() != 0 || s.prefetch.Len() != 0 {
			t.Errorf("%d in use, %d and %d waiting", s.inFlight(), s.demand.Len(), s.prefetch.Len())
		}
	})
}

// TestSlotsWeights: small objects take a quarter, an overloaded server halves
// what is under way, and downloads that go well bring it back.
func TestSlotsWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(16)
		atOnce := func(weight int, prefetch bool) int {
			ctx, cancel := context.WithCancel(t.Context())
			var granted atomic.Int32
			for range 100 {
				go func() {
					if s.acquire(ctx, weight, prefetch, nil) == nil {
						granted.Add(1)
					}
				}()
			}
			synctest.Wait()
			cancel()
			synctest.Wait()
			for range granted.Load() {
				s.release(weight)
			}
			return int(granted.Load())
		}
		expect := func(when string, weight int, prefetch bool, want int) {
			t.Helper()
			if n := atOnce(weight, prefetch); n != want {
				t.Errorf("%s: %d of weight %d at once, want %d", when, n, weight, want)
			}
		}
		expect("unknown length", weigh(0), false, 16)
		expect("large prefetches", weigh(middleObject+1), true, 12)
		expect("middle", weigh(smallObject+1), false, 32)
		expect("small", weigh(smallObject), false, 64)
		expect("small prefetches", weigh(1), true, 48)
		s.overloaded()
		expect("after an overload", largeWeight, false, 8)
		for range 10 {
			s.overloaded()
		}
		expect("prefetch after many", largeWeight, true, 1)
		for range 64 {
			s.recovered()
		}
		expect("recovered", largeWeight, false, 16)
		if s.inFlight() != 0 {
			t.Errorf("%d in use", s.inFlight())
		}
	})
}
