package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlotsAgain: who has had a turn that failed goes before those who wait.
func TestSlotsAgain(t *testing.T) {
	for kind, mark := range map[string]func(context.Context) context.Context{
		"data": func(ctx context.Context) context.Context { return ctx }, "prefetch": Prefetch, "urgent": Urgent,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(1)
			var held []*ticket
			for _, ctx := range []context.Context{t.Context(), Urgent(t.Context())} {
				slot, err := s.acquire(ctx, largeWeight, false, nil)
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, slot)
			}
			var order []string
			var all sync.WaitGroup
			for _, name := range []string{"first", "second", "again"} {
				all.Go(func() {
					slot, err := s.acquire(mark(t.Context()), largeWeight, name == "again", nil)
					if err != nil {
						t.Error(err)
						return
					}
					order = append(order, name) // one at a time has the slots
					s.release(slot)
				})
				synctest.Wait()
			}
			s.release(held[0])
			all.Wait()
			s.release(held[1])
			if !slices.Equal(order, []string{"again", "first", "second"}) {
				t.Errorf("%s: %q", kind, order)
			}
		})
	}
}

// TestWhoFailedHasHadItsTurn: a request that one place has failed asks the next one
// before those that wait. Behind a long queue, the next place had failed, too, when
// the request came to it.
func TestWhoFailedHasHadItsTurn(t *testing.T) {
	var mu sync.Mutex
	var order []string
	asked := func(place string, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, place+" "+path.Base(r.URL.Path))
	}
	hold := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(hold) })
	bad := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		asked("bad", r)
		if n == 1 {
			<-hold
		}
		truncates(n, w, r)
	})
	sound := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		asked("sound", r)
		ok(n, w, r)
	})
	cfg := quick(bad.URL, sound.URL)
	cfg.MaxInFlight, cfg.MaxRetries = 1, -1
	c := client(t, cfg)
	var all sync.WaitGroup
	defer all.Wait()
	defer letGo()
	ask := func(name string) {
		all.Go(func() {
			err := c.Get(t.Context(), Request{Path: name, Accept: func(_ context.Context, body io.Reader) error {
				_, err := io.Copy(io.Discard, body)
				return err
			}})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	waiting := func(n int) {
		t.Helper()
		for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			c.slots.mu.Lock()
			come := c.slots.demand.Len() == n && bad.count() == 1
			c.slots.mu.Unlock()
			if come {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%d do not come to wait", n)
			}
		}
	}
	ask("first")
	waiting(0)
	for i := range 5 {
		ask(fmt.Sprintf("other%d", i))
	}
	waiting(5)
	letGo()
	all.Wait()
	// One or two come in between, in the moment between its turns.
	before := order[:max(slices.Index(order, "sound first"), 0)]
	others := slices.Compact(slices.Sorted(slices.Values(slices.DeleteFunc(slices.Clone(before), func(s string) bool { return s == "bad first" }))))
	if len(before) == 0 || len(others) > 2 {
		t.Errorf("asked in this order: %q", order)
	}
}

// TestGiveUpCountsNoTurn: what a request waits for its turn is no failure: behind
// transfers of more than a minute it asks the next server all the same.
func TestGiveUpCountsNoTurn(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				drips(200_000, 2000)(n, w, r)
				return
			}
			w.WriteHeader(http.StatusInternalServerError)
		})
		nw.add(t, "b", ok)
		c := open(Config{Servers: []string{"http://a", "http://b"}, MaxInFlight: 1})
		long := make(chan error)
		go func() {
			long <- c.Get(t.Context(), Request{Path: "long", Accept: func(_ context.Context, body io.Reader) error {
				_, err := io.Copy(io.Discard, body)
				return err
			}})
		}()
		synctest.Wait()
		start := time.Now()
		if err := c.Get(t.Context(), want("x")); err != nil {
			t.Error(err)
		}
		between(t, start, 99*time.Second, 101*time.Second)
		if err := <-long; err != nil {
			t.Error(err)
		}
	})
}
