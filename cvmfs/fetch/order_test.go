package fetch

import (
	"crypto/md5"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// replica is a server with a manifest, a root catalog of one byte repeated, and a
// geo API.
type replica struct {
	wait      time.Duration // before each answer
	rate      int           // bytes/s of the catalog; 0: all at once
	published time.Time
	geo       string // 404 if empty
	garbles   bool   // the catalog
	portal    bool
}

const catalogSize = 100_000

// catalogBytes are different for each revision.
func (re replica) catalogBytes() string {
	return strings.Repeat("x", catalogSize) + re.published.String()
}

func (re replica) manifest() string {
	text := fmt.Sprintf("C%x\nR%x\nD240\nS1\nT%d\nNrepo\n", sha1.Sum([]byte(re.catalogBytes())), md5.Sum(nil), max(1, re.published.Unix()))
	return fmt.Sprintf("%s--\n%x\nsignature", text, sha1.Sum([]byte(text)))
}

func (re replica) answer(_ int, w http.ResponseWriter, r *http.Request) {
	time.Sleep(re.wait)
	body := good
	switch {
	case re.portal:
		body = "<html>Log in"
	case strings.Contains(r.URL.Path, "/api/v1.0/geo/"):
		if body = re.geo; body == "" {
			w.WriteHeader(404)
		}
	case strings.HasSuffix(r.URL.Path, "/.cvmfspublished"):
		body = re.manifest()
	case strings.HasSuffix(r.URL.Path, "C"):
		body = re.catalogBytes()
		if re.garbles {
			body = body[1:] + "y"
		}
		if re.rate > 0 {
			time.Sleep(time.Duration(len(body)) * time.Second / time.Duration(re.rate))
		}
	}
	io.WriteString(w, body)
}

// memory is a Keep.
type memory struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func (m *memory) Get(bucket, key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.kept[bucket+"/"+key]
	return b, ok
}

func (m *memory) Put(bucket, key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil {
		m.kept = map[string][]byte{}
	}
	m.kept[bucket+"/"+key] = value
}

// hosts is the order in which servers are asked: "a b c".
func hosts(c *Client) string {
	var names []string
	for _, h := range c.Stats().Hosts {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(h.URL, "http://"), "/repo"))
	}
	return strings.Join(names, " ")
}

// paths counts a server's requests that contain part.
func (s *stratum) paths(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, u := range s.urls {
		if strings.Contains(u, part) {
			n++
		}
	}
	return n
}

func servers(names ...string) []string {
	for i, n := range names {
		names[i] = "http://" + n + "/repo"
	}
	return names
}

const ms = time.Millisecond

// TestProbe: the order by throughput, then by the manifest's time, and those that fail last.
func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		now := time.Now()
		all := map[string]*stratum{}
		for name, re := range map[string]replica{
			"a": {wait: 20 * ms, rate: 200_000, published: now},
			"b": {wait: 300 * ms, rate: 500_000, published: now.Add(-time.Hour)},
			"c": {wait: 10 * ms, published: now.Add(-48 * time.Hour)}, // fast, but not kept up
			"d": {wait: 10 * ms, garbles: true, published: now},
			"e": {wait: 350 * ms, rate: 2 << 20, published: now},
			"f": {wait: 400 * ms, rate: 8 << 20, published: now}, // would be fast, but is the sixth
			"g": {portal: true},
			"i": {wait: 30 * ms, rate: 50_000, published: now},
		} {
			all[name] = nw.add(t, name, re.answer)
		}
		nw.add(t, "h", nil)
		var log logged
		keep := &memory{}
		c := open(Config{Servers: servers("a", "b", "c", "d", "e", "f", "g", "h", "i"), Order: OrderProbe, Keep: keep, Logger: log.logger()})
		start := time.Now()
		if err := c.Get(t.Context(), want("x")); err != nil || all["a"].paths("/x") != 1 {
			t.Fatal(err)
		}
		between(t, start, 20*ms, 20*ms) // as with a fixed order
		time.Sleep(9 * time.Second)
		if all["e"].paths("/data/") != 0 || hosts(c) != "a b c d e f g h i" {
			t.Errorf("a mount that starts is disturbed; ordered %s", hosts(c))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := hosts(c); got != "e b a i f d c g h" || c.Stats().OrderedBy != OrderProbe {
			t.Errorf("ordered %s by %s", got, c.Stats().OrderedBy)
		}
		if l := log.lines(); len(l) != 1 || !strings.Contains(l[0], "by=probe") {
			t.Errorf("logged %q", l)
		}
		for name, s := range all {
			wantCatalogs := 1
			if strings.Contains("cfg", name) {
				wantCatalogs = 0
			}
			if s.paths(".cvmfspublished") != 1 || s.paths("/data/") != wantCatalogs {
				t.Errorf("%s was asked for %v", name, s.urls)
			}
			if i := slices.IndexFunc(s.urls, func(u string) bool { return strings.HasSuffix(u, ".cvmfspublished") }); s.header(i, "Cache-Control") != "no-cache" {
				t.Errorf("%s: the manifest may come from a cache", name)
			}
		}
		if err := c.Get(t.Context(), want("y")); err != nil || all["e"].paths("/y") != 1 {
			t.Error(err)
		}

		// The next run begins with it and asks nothing.
		before := c.Stats().Requests
		next := open(Config{Servers: servers("a", "b", "c", "d", "e", "f", "g", "h", "i"), Order: OrderProbe, Keep: keep, MaxServers: 2})
		if err := next.Get(t.Context(), want("z")); err != nil || all["e"].paths("/z") != 1 {
			t.Error(err)
		}
		synctest.Wait()
		if st := next.Stats(); st.Requests != 1 || hosts(next) != "e b" || c.Stats().Requests != before {
			t.Errorf("%+v", st)
		}

		time.Sleep(orderFor + time.Second) // it is too old
		if err := next.Get(t.Context(), want("z")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if all["a"].paths(".cvmfspublished") != 2 {
			t.Error("not probed again after its time")
		}
	})
}

// TestProbeFirstIsDead: the fastest takes over while the first request still waits.
func TestProbeFirstIsDead(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", nil)
		nw.add(t, "b", nil)
		s := nw.add(t, "c", replica{wait: 20 * ms}.answer)
		c := open(Config{Servers: servers("a", "b", "c"), Order: OrderProbe})
		start := time.Now()
		if err := c.Get(t.Context(), Request{Path: "x", Hurry: true, Accept: want("x").Accept}); err != nil {
			t.Fatal(err)
		}
		between(t, start, 4*time.Second, 5*time.Second) // a fixed order: 8 s
		if got := hosts(c); got != "c a b" || s.paths("/x") != 1 {
			t.Errorf("ordered %s", got)
		}
	})
}

// TestTheLastServerOfANeededRequest has its usual time: a slow one is better than none.
func TestTheLastServerOfANeededRequest(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "a", replica{wait: 7 * time.Second}.answer)
		nw.add(t, "b", replica{wait: 7 * time.Second}.answer)
		for _, needed := range []bool{true, false} {
			start := time.Now()
			err := open(Config{Servers: servers("a", "b")}).Get(t.Context(), Request{Path: "x", Hurry: true, Needed: needed, Accept: want("x").Accept})
			if (err == nil) != needed {
				t.Errorf("needed %v: %v", needed, err)
			}
			if needed {
				between(t, start, 11*time.Second, 12*time.Second) // 4 s of the first, 7 s of the last
			}
		}
		time.Sleep(time.Minute) // the servers still sleep
	})
}

// TestProbeAgain: when the first turns bad, but not before the pause has passed.
func TestProbeAgain(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		bad := false
		a := nw.add(t, "a", func(n int, w http.ResponseWriter, r *http.Request) {
			if bad {
				w.WriteHeader(500)
				return
			}
			replica{wait: ms}.answer(n, w, r)
		})
		nw.add(t, "b", replica{wait: 2 * ms}.answer)
		keep := &memory{}
		c := open(Config{Servers: servers("a", "b"), Order: OrderProbe, Keep: keep})
		get := func(pause time.Duration) int {
			t.Helper()
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			time.Sleep(pause)
			return a.paths(".cvmfspublished")
		}
		if n := get(probeQuiet); n != 1 || hosts(c) != "a b" || a.paths("/data/") != 1 {
			t.Errorf("probed %d times, ordered %s", n, hosts(c))
		}
		bad = true
		if n := get(0); n != 1 || hosts(c) != "a b" {
			t.Errorf("probed %d times at once, ordered %s", n, hosts(c))
		}
		if n := get(orderPause); n != 1 {
			t.Errorf("probed %d times within the pause", n)
		}
		if n := get(orderPause); n != 2 || hosts(c) != "b a" {
			t.Errorf("probed %d times after the pause, ordered %s", n, hosts(c))
		}
		if n := get(orderPause); n != 2 {
			t.Errorf("probed %d times though the first is good", n)
		}
		bad = false
		c = open(Config{Servers: servers("a", "b"), Order: OrderProbe, Keep: keep})
		if hosts(c) != "b a" {
			t.Errorf("kept %s", hosts(c))
		}
	})
}

// TestProbeNobody: nothing is kept, and tried again after the pause.
func TestProbeNobody(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		a, b := nw.add(t, "a", says(404)), nw.add(t, "b", says(404))
		keep := &memory{}
		c := open(Config{Servers: servers("a", "b"), Order: OrderGeo, Keep: keep})
		for range 3 {
			if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			synctest.Wait()
		}
		if a.paths("published") != 1 || b.paths("published") != 1 || len(keep.kept) != 0 || c.Stats().OrderedBy != OrderFixed {
			t.Errorf("probed %d and %d times, kept %v", a.paths("published"), b.paths("published"), keep.kept)
		}
		time.Sleep(orderPause)
		_ = c.Get(t.Context(), want("x"))
		synctest.Wait()
		if a.paths("published") != 2 {
			t.Error("not probed again")
		}
	})
}

// TestKeptIsNotTrusted: whatever the Keep gives back.
func TestKeptIsNotTrusted(t *testing.T) {
	now := time.Now().Format(time.RFC3339)
	for _, text := range []string{
		"", "null", "[]", "{", `{"Order":null}`,
		`{"By":"probe","At":"` + now + `","Order":["http://b/repo","http://b/repo"]}`,
		`{"By":"probe","At":"` + now + `","Order":["http://b/repo","http://c/repo"]}`,
		`{"By":"geo","At":"` + now + `","Order":["http://b/repo","http://a/repo"]}`,
		`{"By":"probe","At":"2999-01-01T00:00:00Z","Order":["http://b/repo","http://a/repo"]}`,
		`{"By":"probe","At":"2001-01-01T00:00:00Z","Order":["http://b/repo","http://a/repo"]}`,
	} {
		keep := &memory{}
		keep.Put(orderBucket, "repo", []byte(text))
		c := client(t, Config{Servers: servers("a", "b"), Order: OrderProbe, Keep: keep})
		if hosts(c) != "a b" || c.Stats().OrderedBy != OrderFixed {
			t.Errorf("%s: ordered %s", text, hosts(c))
		}
	}
	keep := &memory{}
	keep.Put(orderBucket, "repo", []byte(`{"By":"probe","At":"`+now+`","Order":["http://b/repo","http://a/repo"]}`))
	if c := client(t, Config{Servers: servers("a", "b"), Order: OrderGeo, Keep: keep}); hosts(c) != "b a" {
		t.Errorf("a good one is not used: %s", hosts(c))
	}
}

// TestCloseWhileProbing: Close ends it and waits.
func TestCloseWhileProbing(t *testing.T) {
	a, b := serve(t, ok), serve(t, hangs)
	cfg := quick(a.URL, b.URL)
	cfg.Order = OrderProbe
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
