package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs f in a synctest bubble with a network and a client with the default
// times; no goroutine may be left at its end, or the bubble panics.
func bubble(t *testing.T, f func(t *testing.T, nw *network, open func(Config) *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		nw := &network{}
		f(t, nw, func(cfg Config) *Client {
			cfg.Dial = nw.dial
			c, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			return c
		})
	})
}

// between fails unless the bubble's time since start is within the bounds.
func between(t *testing.T, start time.Time, low, high time.Duration) {
	t.Helper()
	if d := time.Since(start); d < low || d > high {
		t.Errorf("took %v, want %v to %v", d, low, high)
	}
}

// drips sends n bytes, one piece each second.
func drips(n, piece int) answer {
	return func(_ int, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(n))
		for sent := 0; sent < n && r.Context().Err() == nil; sent += piece {
			io.WriteString(w, strings.Repeat("x", min(piece, n-sent)))
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
	}
}

func TestTimeouts(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  answer // nil: connecting hangs
		reason string
	}{
		"connecting hangs": {nil, "connecting took too long"},
		"no answer":        {hangs, "no answer in time"},
		"stalls":           {stalls, "stalled, after 4 bytes"},
		"slow":             {drips(100_000, 500), "low-speed limit, after"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
				a, b := nw.add(t, "a", tt.fault), nw.add(t, "b", ok)
				c := open(Config{Servers: []string{"http://a", "http://b"}})
				start := time.Now()
				if err := c.Get(t.Context(), want("x")); err != nil {
					t.Fatal(err)
				}
				between(t, start, 20*time.Second, 24*time.Second)
				if st := c.Stats(); st.Requests != 3 || !strings.Contains(st.Hosts[0].LastError, tt.reason) {
					t.Errorf("%+v", st)
				}
				if tt.fault != nil && a.count() != 2 || b.count() != 1 {
					t.Errorf("asked %d and %d times", a.count(), b.count())
				}
			})
		})
	}
}

// TestProxyTimeout: a proxy has the shorter time-out.
func TestProxyTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", ok)
		nw.add(t, "squid", hangs)
		c := open(Config{Servers: []string{"http://a"}, Proxies: "http://squid:80;DIRECT"})
		start := time.Now()
		if err := c.Get(t.Context(), want("x")); err != nil {
			t.Fatal(err)
		}
		between(t, start, 10*time.Second, 12*time.Second)
	})
}

// TestLongTransfer: what is fast enough may take any time, and what Accept
// takes is not the network's fault.
func TestLongTransfer(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		a := nw.add(t, "a", drips(200_000, 1100))
		c := open(Config{Servers: []string{"http://a"}})
		start := time.Now()
		r := Request{Path: "x", Accept: func(_ context.Context, body io.Reader) error {
			time.Sleep(time.Minute)
			n, err := io.Copy(io.Discard, body)
			if n != 200_000 {
				t.Errorf("%d bytes", n)
			}
			time.Sleep(time.Minute)
			return err
		}}
		if err := c.Get(t.Context(), r); err != nil || a.count() != 1 {
			t.Error(err)
		}
		between(t, start, 100*time.Second, time.Hour)
		if got := c.Stats().Bytes; got != 200_000 {
			t.Errorf("%d bytes counted", got)
		}
	})
}

func TestBackoff(t *testing.T) {
	c, err := New(Config{MaxRetries: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, limit := range []time.Duration{2, 4, 8, 10, 10} {
		var most time.Duration
		for range 200 {
			tr := &try{c: c, retries: i + 1, failure: &failure{}}
			most = max(most, tr.pause(0, 0, 0, nil))
		}
		if limit *= time.Second; most > limit || most < limit/2 {
			t.Errorf("retry %d pauses %v at most, want %v", i+1, most, limit)
		}
	}
	if d := (&try{c: c, retries: 1, failure: &failure{after: time.Second}}).pause(0, 0, 0, nil); d != time.Second {
		t.Errorf("Retry-After of 1 s became %v", d)
	}
}

func TestRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		for after, wait := range map[string]time.Duration{
			"7":    7 * time.Second,
			"3600": 10 * time.Second, // bounded, as no other server is left
			time.Now().Add(5 * time.Second).UTC().Format(http.TimeFormat): 5 * time.Second,
		} {
			nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
				if n > 1 {
					ok(n, w, r)
					return
				}
				says(429, "Retry-After", after)(n, w, r)
			})
			c := open(Config{Servers: []string{"http://a"}})
			start := time.Now()
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Error(err)
			}
			if strings.Contains(after, "GMT") {
				between(t, start, 0, wait) // the others ran before it
			} else {
				between(t, start, wait, wait)
			}
		}
	})
}

func TestHostReset(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		up := false
		a := nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			if up {
				ok(n, w, r)
				return
			}
			w.WriteHeader(500)
		})
		b := nw.add(t, "b", ok)
		c := open(Config{Servers: []string{"http://a", "http://b"}})
		get := func(asked [2]int) {
			t.Helper()
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Error(err)
			}
			if got := [2]int{a.count(), b.count()}; got != asked {
				t.Errorf("asked %v, want %v", got, asked)
			}
		}
		get([2]int{1, 1})
		time.Sleep(29 * time.Minute)
		get([2]int{1, 2})
		time.Sleep(2 * time.Minute)
		get([2]int{2, 3}) // back to the first, which is still down
		up = true
		get([2]int{2, 4})
		time.Sleep(31 * time.Minute)
		get([2]int{3, 4})
	})
}

func TestProxyReset(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		up := false
		p := nw.add(t, "p", func(n int, w http.ResponseWriter, r *http.Request) {
			if up {
				ok(n, w, r)
				return
			}
			w.WriteHeader(403)
		})
		q := nw.add(t, "q", ok)
		c := open(Config{Servers: []string{"http://a"}, Proxies: "http://p:80;http://q:80"})
		get := func(asked [2]int) {
			t.Helper()
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Error(err)
			}
			if got := [2]int{p.count(), q.count()}; got != asked {
				t.Errorf("asked %v, want %v", got, asked)
			}
		}
		get([2]int{1, 1})
		time.Sleep(4 * time.Minute)
		get([2]int{1, 2})
		up = true
		time.Sleep(2 * time.Minute)
		get([2]int{2, 2})
	})
}

func TestNameNotFound(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", ok)
		c := open(Config{Servers: []string{"http://gone", "http://missing"}})
		start := time.Now()
		if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "no such host") {
			t.Error(err)
		}
		between(t, start, 0, 0)
	})
}

// TestCancelDuringPause: leaving does not wait for the back-off.
func TestCancelDuringPause(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", says(429, "Retry-After", "9"))
		c := open(Config{Servers: []string{"http://a"}})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := c.Get(ctx, want("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		between(t, start, 3*time.Second, 3*time.Second)
		if n := c.Stats().InFlight; n != 0 {
			t.Errorf("a pause holds a slot: %d", n)
		}
	})
}

// TestDeadlineSaysWhy: an error for lack of time names what took it.
func TestDeadlineSaysWhy(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", nil)
		nw.add(t, "b", hangs)
		c := open(Config{Servers: []string{"http://a", "http://b"}, MaxRetries: -1})
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		err := c.Get(ctx, want("x"))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrFetch) ||
			!strings.Contains(err.Error(), "while asking http://b") || !strings.Contains(err.Error(), "http://a: connecting took too long") {
			t.Error(err)
		}
		if st := c.Stats(); st.Errors != 1 || !st.Hosts[1].Current {
			t.Errorf("%+v", st)
		}
	})
}

// TestKeepAlive: one connection serves many requests, failures among them.
func TestKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			switch n % 3 {
			case 0:
				http.Error(w, "no such object", http.StatusNotFound)
			case 1:
				ok(n, w, r)
			case 2:
				sends("garbled")(n, w, r)
			}
		})
		c := open(Config{Servers: []string{"http://a"}})
		for range 10 {
			_ = c.Get(t.Context(), want("x"))
		}
		if err := c.Get(t.Context(), Request{Path: "x", Accept: func(_ context.Context, body io.Reader) error {
			_, err := io.ReadFull(body, make([]byte, len(good))) // sees no EOF
			return err
		}}); err != nil {
			t.Error(err)
		}
		_ = c.Get(t.Context(), want("x"))
		if nw.dialed["a:80"] != 1 {
			t.Errorf("%d connections", nw.dialed["a:80"])
		}

		// Sixteen at a time keep sixteen connections.
		nw.add(t, "b", func(n int, w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			ok(n, w, r)
		})
		c = open(Config{Servers: []string{"http://b"}})
		for range 3 {
			done := make(chan error)
			for range 16 {
				go func() { done <- c.Get(t.Context(), want("x")) }()
			}
			for range 16 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		if nw.dialed["b:80"] != 16 {
			t.Errorf("%d connections", nw.dialed["b:80"])
		}
	})
}

// TestHungServerHoldsUpNoOther: requests for the second server go on while the
// first one hangs.
func TestHungServerHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/bad" {
				hangs(n, w, r)
				return
			}
			ok(n, w, r)
		})
		c := open(Config{Servers: []string{"http://a"}})
		bad := make(chan error)
		go func() { bad <- c.Get(t.Context(), want("bad")) }()
		synctest.Wait()
		start := time.Now()
		for range 50 {
			if err := c.Get(t.Context(), want("good")); err != nil {
				t.Error(err)
			}
		}
		between(t, start, 0, 0)
		if err := <-bad; !errors.Is(err, ErrOffline) {
			t.Error(err)
		}
	})
}

// TestGiveUp: with a dozen servers that all hang, a request ends a try after the
// time is over; a transfer that takes longer, but goes on, is not ended.
func TestGiveUp(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		var servers []string
		for i := range 12 {
			name := fmt.Sprint("h", i)
			nw.add(t, name, hangs)
			servers = append(servers, "http://"+name)
		}
		nw.add(t, "steady", drips(200_000, 2000))
		start := time.Now()
		if err := open(Config{Servers: servers}).Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) {
			t.Error(err)
		}
		between(t, start, time.Minute, 72*time.Second)
		start = time.Now()
		if err := open(Config{Servers: []string{"http://steady"}}).Get(t.Context(), Request{Path: "x", Accept: func(_ context.Context, body io.Reader) error {
			_, err := io.Copy(io.Discard, body)
			return err
		}}); err != nil {
			t.Error(err)
		}
		between(t, start, 99*time.Second, 101*time.Second)
	})
}
