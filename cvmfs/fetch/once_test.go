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

// TestUrgent: what data wait for does not wait behind data, nor they behind it.
func TestUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4)
		type turn struct {
			*ticket
			data bool
		}
		granted := make(chan turn, 1000)
		queue := func(n int, ctx context.Context, weight int) {
			for range n {
				go func() {
					if slot, err := s.acquire(ctx, weight, false, nil); err == nil {
						granted <- turn{slot, ctx == t.Context()}
					}
				}()
			}
			synctest.Wait()
		}
		queue(100, t.Context(), largeWeight)
		if n := len(granted); n != 4 {
			t.Fatalf("%d data at once", n)
		}
		queue(1, Urgent(t.Context()), smallWeight)
		if n := len(granted); n != 5 {
			t.Fatalf("an urgent request waits behind data")
		}
		queue(99, Urgent(t.Context()), smallWeight)
		if n := len(granted); n != 8 {
			t.Fatalf("%d at once with many urgent ones, want 4 and 4", n)
		}
		data := 0
		for range 80 { // of each kind as many go as end, so that neither starves
			at := <-granted
			if at.data {
				data++
			}
			s.release(at.ticket)
			synctest.Wait()
		}
		if data != 40 {
			t.Errorf("of 80 that went %d were data, want 40", data)
		}
		for range 120 {
			s.release((<-granted).ticket)
			synctest.Wait()
		}
		if s.inFlight() != 0 || s.inUse != 0 || s.apart != 0 || s.urgent.Len() != 0 {
			t.Errorf("%d, %d and %d in use at the end", s.inFlight(), s.inUse, s.apart)
		}
	})
}

// TestSlotsLeave: who leaves the queue takes nothing with him.
func TestSlotsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		var taken []*ticket
		for _, ctx := range []context.Context{t.Context(), Urgent(t.Context())} {
			slot, err := s.acquire(ctx, largeWeight, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, slot)
		}
		for _, ctx := range []context.Context{t.Context(), Prefetch(t.Context()), Urgent(t.Context()), Prefetch(Urgent(t.Context()))} {
			ctx, cancel := context.WithCancel(ctx)
			got := make(chan error)
			go func() {
				_, err := s.acquire(ctx, smallWeight, false, nil)
				got <- err
			}()
			synctest.Wait()
			cancel()
			if err := <-got; err != context.Canceled {
				t.Error(err)
			}
		}
		for _, slot := range taken {
			s.release(slot)
		}
		if s.inFlight() != 0 || s.inUse != 0 || s.apart != 0 || s.demand.Len() != 0 || s.urgent.Len() != 0 || s.prefetch.Len() != 0 {
			t.Errorf("%d in use, %d and %d waiting", s.inFlight(), s.demand.Len(), s.prefetch.Len())
		}
	})
}

// TestSlotsWeights: small objects take a quarter, an overloaded server halves
// what is under way, and downloads that go well bring it back.
func TestSlotsWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(16)
		atOnce := func(ctx context.Context, weight int) int {
			ctx, cancel := context.WithCancel(ctx)
			granted := make(chan *ticket, 100)
			for range cap(granted) {
				go func() {
					if slot, err := s.acquire(ctx, weight, false, nil); err == nil {
						granted <- slot
					}
				}()
			}
			synctest.Wait()
			cancel()
			synctest.Wait()
			close(granted)
			n := len(granted)
			for slot := range granted {
				s.release(slot)
			}
			return n
		}
		expect := func(when string, ctx context.Context, weight, want int) {
			t.Helper()
			if n := atOnce(ctx, weight); n != want {
				t.Errorf("%s: %d of weight %d at once, want %d", when, n, weight, want)
			}
		}
		demand, prefetch := t.Context(), Prefetch(t.Context())
		expect("unknown length", demand, weigh(0), 16)
		expect("large prefetches", prefetch, weigh(middleObject+1), 12)
		expect("middle", demand, weigh(smallObject+1), 32)
		expect("small", demand, weigh(smallObject), 64)
		expect("small prefetches", prefetch, weigh(1), 48)
		expect("urgent", Urgent(demand), weigh(1), 80)
		expect("large urgent", Urgent(demand), weigh(0), 20)
		expect("urgent prefetches", Urgent(prefetch), weigh(1), 48)
		s.overloaded()
		expect("after an overload", demand, largeWeight, 8)
		for range 10 {
			s.overloaded()
		}
		expect("prefetch after many", prefetch, largeWeight, 1)
		for range 64 {
			s.recovered()
		}
		expect("recovered", demand, largeWeight, 16)
		if s.inFlight() != 0 {
			t.Errorf("%d in use", s.inFlight())
		}
	})
}
