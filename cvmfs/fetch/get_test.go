package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestGet(t *testing.T) {
	s := serve(t, ok)
	c := client(t, quick(s.URL+"/cvmfs/repo.example.org/"))
	for range 3 {
		if err := c.Get(t.Context(), want("data/ab/c d%")); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.urls[0], "/cvmfs/repo.example.org/data/ab/c%20d%25"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	for key, want := range map[string]string{"User-Agent": "cvmfs Fuse neurodeskfs", "Accept-Encoding": "", "Cache-Control": "", "Pragma": ""} {
		if got := s.header(0, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	st := c.Stats()
	if st.Requests != 3 || st.Bytes != 3*uint64(len(good)) || st.Errors != 0 || st.Failovers != 0 || !st.Hosts[0].Current {
		t.Errorf("%+v", st)
	}
}

// serverFaults are what one server of two can do wrong.
var serverFaults = map[string]struct {
	first  answer
	asked  int  // requests to the first
	stays  bool // the first stays the current one until the second delivers
	verify uint64
	reason string
}{
	"404":          {says(404), 1, true, 0, "status 404"},
	"400":          {says(400), 1, true, 0, "status 400"},
	"403":          {says(403), 1, true, 0, "status 403"},
	"500":          {says(500), 1, false, 0, "status 500"},
	"503":          {says(503, "Retry-After", "1"), 1, false, 0, "status 503"},
	"429":          {says(429), 2, false, 0, "status 429"},
	"429, long":    {says(429, "Retry-After", "3600"), 1, false, 0, "status 429"},
	"204":          {says(204), 1, true, 0, "status 204"},
	"206":          {says(206), 1, true, 0, "status 206"},
	"redirect":     {says(302, "Location", "http://login.invalid/"), 1, true, 0, "login page"},
	"odd redirect": {says(302), 1, true, 0, "status 302"},
	"garbled":      {sends("the very bites"), 2, true, 2, "hash mismatch"},
	"empty":        {sends(""), 2, true, 2, "hash mismatch"},
	"portal":       {sends("<!DOCTYPE html><title>Log in</title>"), 2, true, 2, "captive portal"},
	"portal, long": {sends("<html>" + strings.Repeat("x", 2<<20)), 2, true, 2, "captive portal"},
	"too long":     {sends(strings.Repeat("x", 2<<20)), 2, true, 2, "longer than expected"},
	"truncated":    {truncates, 2, true, 2, "ended early"},
	"reset": {func(_ int, w http.ResponseWriter, _ *http.Request) {
		panic(http.ErrAbortHandler)
	}, 2, false, 0, "EOF"},
	"not http": {func(_ int, w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(conn, "SSH-2.0-OpenSSH_9\r\n\r\n")
		conn.Close()
	}, 2, false, 0, "malformed"},
}

// TestClasses gives the first of two servers one fault each, and the second none.
func TestClasses(t *testing.T) {
	for name, tt := range serverFaults {
		t.Run(name, func(t *testing.T) {
			a, b := serve(t, tt.first), serve(t, ok)
			var log logged
			cfg := quick(a.URL, b.URL)
			cfg.Logger = log.logger()
			c := client(t, cfg)
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Fatal(err)
			}
			if a.count() != tt.asked || b.count() != 1 {
				t.Errorf("asked %d and %d times, want %d and 1", a.count(), b.count(), tt.asked)
			}
			st := c.Stats()
			if !st.Hosts[1].Current || st.Failovers != 1 || st.VerifyFailures != tt.verify ||
				st.Errors != uint64(tt.asked) || st.Hosts[0].Errors != uint64(tt.asked) || st.Requests != uint64(tt.asked)+1 {
				t.Errorf("%+v", st)
			}
			if !strings.Contains(st.Hosts[0].LastError, tt.reason) {
				t.Errorf("reason %q, want %q in it", st.Hosts[0].LastError, tt.reason)
			}
			if tt.verify > 0 && (a.header(0, "Cache-Control") != "" || a.header(1, "Cache-Control") != "no-cache" ||
				a.header(1, "Pragma") != "no-cache" || b.header(0, "Cache-Control") != "") {
				t.Error("no-cache belongs to the second request alone")
			}
			if l := log.lines(); len(l) != 1 || !strings.Contains(l[0], "level=WARN") || !strings.Contains(l[0], "host="+a.URL) ||
				!strings.Contains(l[0], "path=x") || !strings.Contains(l[0], "reason=") || !strings.Contains(l[0], "proxy=DIRECT") {
				t.Errorf("logged %q", l)
			}

			// The second is remembered, and the first is left alone.
			if err := c.Get(t.Context(), want("y")); err != nil || a.count() != tt.asked || b.count() != 2 {
				t.Errorf("%v, asked %d and %d times", err, a.count(), b.count())
			}
		})
	}
}

// TestWhoIsLeft: while nobody delivers, only a server that is in trouble itself
// is left by the requests after; one that lacks or garbles an object is not.
func TestWhoIsLeft(t *testing.T) {
	for name, tt := range serverFaults {
		t.Run(name, func(t *testing.T) {
			c := client(t, quick(serve(t, tt.first).URL, serve(t, says(404)).URL))
			if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrFetch) && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			if st := c.Stats(); st.Hosts[0].Current != tt.stays {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestNobodyDelivers(t *testing.T) {
	for name, tt := range map[string]struct {
		first, second answer
		class         error
		content       bool
		asked         [2]int
	}{
		"not found":    {says(404), says(404), ErrNotFound, false, [2]int{1, 1}},
		"mixed":        {says(404), says(500), ErrFetch, false, [2]int{1, 2}},
		"500, the end": {says(500), says(503), ErrFetch, false, [2]int{1, 2}},
		"garbled":      {sends("x"), sends("y"), ErrFetch, true, [2]int{2, 2}},
		"garbled, 404": {sends("x"), says(404), ErrFetch, true, [2]int{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := serve(t, tt.first), serve(t, tt.second)
			c := client(t, quick(a.URL, b.URL))
			err := c.Get(t.Context(), want("x"))
			for _, class := range []error{ErrFetch, ErrNotFound, ErrOffline, ErrClosed} {
				if errors.Is(err, class) != (class == tt.class) {
					t.Errorf("%v: class %v", err, class)
				}
			}
			if errors.Is(err, ErrContent) != tt.content {
				t.Errorf("%v: content failure?", err)
			}
			if !strings.Contains(err.Error(), a.URL) || !strings.Contains(err.Error(), b.URL) || strings.Contains(err.Error(), "\n") {
				t.Errorf("does not name both servers in one line: %v", err)
			}
			if got := [2]int{a.count(), b.count()}; got != tt.asked {
				t.Errorf("asked %v times, want %v", got, tt.asked)
			}
		})
	}
}

func TestOffline(t *testing.T) {
	a, b := refused(t), refused(t)
	c := client(t, quick(a, b))
	err := c.Get(t.Context(), want("x"))
	if !errors.Is(err, ErrOffline) || errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
	if st := c.Stats(); st.Requests != 4 || st.Failovers != 1 || st.Hosts[0].Errors != 2 || st.Hosts[1].Errors != 2 {
		t.Errorf("%+v", st)
	}
}

// TestLastServerIsAskedAgain: one server's passing trouble is waited out.
func TestLastServerIsAskedAgain(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.WriteHeader(503)
			return
		}
		ok(n, w, r)
	})
	c := client(t, quick(s.URL))
	if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 2 {
		t.Errorf("%v after %d requests", err, s.count())
	}
}

func TestNoCacheHeals(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cache-Control") == "" {
			io.WriteString(w, "stale")
			return
		}
		ok(n, w, r)
	})
	c := client(t, quick(s.URL))
	if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 2 {
		t.Errorf("%v after %d requests", err, s.count())
	}
	r := want("x")
	r.NoCache = true
	if err := c.Get(t.Context(), r); err != nil || s.count() != 3 {
		t.Errorf("%v after %d requests", err, s.count())
	}
}

// TestAcceptHasTheLastWord: what is no content error is final, and a read error
// is none of Accept's.
func TestAcceptHasTheLastWord(t *testing.T) {
	full := errors.New("disk full")
	s := serve(t, ok)
	c := client(t, quick(s.URL, s.URL+"/2"))
	r := want("x")
	r.Accept = func(context.Context, io.Reader) error { return full }
	if err := c.Get(t.Context(), r); err != full || s.count() != 1 {
		t.Errorf("%v after %d requests", err, s.count())
	}

	broken, whole := serve(t, truncates), serve(t, ok)
	c = client(t, quick(broken.URL, whole.URL))
	r.Accept = func(_ context.Context, body io.Reader) error {
		if b, _ := io.ReadAll(body); string(b) != good {
			return errors.New("zlib: invalid header") // hides the read error
		}
		return nil
	}
	if err := c.Get(t.Context(), r); err != nil || whole.count() != 1 {
		t.Errorf("%v", err)
	}
}

func TestRange(t *testing.T) {
	data := strings.Repeat("0123456789", 10)
	get := func(c *Client, off, n int64) (string, error) {
		var got string
		err := c.Get(t.Context(), Request{Path: "x", Range: &[2]int64{off, n}, Accept: func(_ context.Context, body io.Reader) error {
			b, err := io.ReadAll(body)
			got = string(b)
			return err
		}})
		return got, err
	}
	s := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(data))
	})
	c := client(t, quick(s.URL))
	for _, r := range [][2]int64{{0, 10}, {15, 7}, {99, 1}, {0, 100}} {
		if got, err := get(c, r[0], r[1]); err != nil || got != data[r[0]:r[0]+r[1]] {
			t.Errorf("range %v: %q, %v", r, got, err)
		}
	}
	if _, err := get(c, 95, 10); !errors.Is(err, ErrContent) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := get(c, 200, 10); !errors.Is(err, ErrFetch) {
		t.Errorf("behind the end: %v", err)
	}
	s = serve(t, sends(data)) // knows no ranges
	c = client(t, quick(s.URL))
	if got, err := get(c, 0, 100); err != nil || got != data {
		t.Errorf("%q, %v", got, err)
	}
	for _, r := range [][2]int64{{0, 10}, {10, 10}} {
		if _, err := get(c, r[0], r[1]); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "ignored") {
			t.Errorf("range %v ignored: %v", r, err)
		}
	}
}

func TestByURL(t *testing.T) {
	s, ext := serve(t, says(404)), serve(t, ok)
	c := client(t, quick(s.URL))
	r := want("")
	r.URL = ext.URL + "/some/file%20name"
	if err := c.Get(t.Context(), r); err != nil || s.count() != 0 || ext.urls[0] != "/some/file%20name" {
		t.Errorf("%v, %v", err, ext.urls)
	}
	r.URL = s.URL + "/nothing"
	if err := c.Get(t.Context(), r); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if st := c.Stats(); st.Hosts[0].Errors != 0 {
		t.Error("an outside address was counted against the server")
	}
}

func TestRedirects(t *testing.T) {
	end := serve(t, ok)
	s := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/loop" {
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		http.Redirect(w, r, end.URL, http.StatusFound)
	})
	cfg := quick(s.URL)
	cfg.MaxRedirects = 2
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil {
		t.Error(err)
	}
	if err := c.Get(t.Context(), want("loop")); !errors.Is(err, ErrFetch) || s.count() != 4 {
		t.Errorf("%v after %d requests", err, s.count())
	}
}

func TestBadRequests(t *testing.T) {
	c := client(t, Config{})
	for _, r := range []Request{{}, {Path: "x"}, {Path: "x", URL: "http://h/"}, {URL: "ftp://h/"}, {URL: "http://"}, {Path: "/x"},
		{Path: "x", Range: &[2]int64{0, 0}}, {Path: "x", Range: &[2]int64{-1, 1}}, {Path: "x", Range: &[2]int64{1 << 62, 1 << 62}}} {
		if r.Path != "x" || r.Range != nil {
			r.Accept = want("").Accept
		}
		if err := c.Get(t.Context(), r); err == nil || errors.Is(err, ErrFetch) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "no server is configured") {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	for name, fault := range map[string]answer{"no answer": hangs, "in mid-body": stalls} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{})
			s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
				close(asked)
				fault(n, w, r)
			})
			c := client(t, quick(s.URL))
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-asked; cancel() }()
			if err := c.Get(ctx, want("x")); !errors.Is(err, context.Canceled) || s.count() != 1 {
				t.Errorf("%v after %d requests", err, s.count())
			}
			if st := c.Stats(); st.Errors != 0 || st.Hosts[0].Errors != 0 {
				t.Error("the caller's leaving was counted against the server")
			}
		})
	}
}

func TestClose(t *testing.T) {
	asked := make(chan struct{})
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		close(asked)
		hangs(n, w, r)
	})
	c := client(t, quick(s.URL))
	go func() { <-asked; c.Close() }()
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrClosed) || s.count() != 1 {
		t.Error(err)
	}
	if err := c.Once(t.Context(), "k", func(context.Context) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	s := serve(t, says(302, "Location", "http://h/"+strings.Repeat("a", 5000)))
	c := client(t, quick(s.URL))
	r := want("x")
	if err := c.Get(t.Context(), r); len(err.Error()) > 1000 {
		t.Errorf("%d bytes", len(err.Error()))
	}
	s = serve(t, ok)
	c = client(t, quick(s.URL))
	r.Accept = func(context.Context, io.Reader) error {
		return fmt.Errorf("%w: two\nlines\x00%s", ErrContent, strings.Repeat("ü", 5000))
	}
	if err := c.Get(t.Context(), r); len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x00") {
		t.Errorf("%q", err)
	}
}
