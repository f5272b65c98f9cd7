package fetch

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

const faultyRepo = "faults.example.org"

// sites are two servers, a and b, and two proxies, p and q, all of which have
// the object.
type sites struct {
	a, b, p, q *cvmfstest.Server
	object     []byte
	path       string
	authority  string // file, of a and b where they are https
}

// asked counts the requests of each.
func (w *sites) asked() (n [4]int) {
	for i, s := range []*cvmfstest.Server{w.a, w.b, w.p, w.q} {
		n[i] = s.Count(cvmfstest.All)
	}
	return n
}

func newSites(t *testing.T, https bool) *sites {
	t.Helper()
	w := &sites{object: bytes.Repeat([]byte("neurodesk "), 20_000)}
	hex := fmt.Sprintf("%x", sha1.Sum(w.object))
	w.path = "data/" + hex[:2] + "/" + hex[2:]
	w.authority = filepath.Join(t.TempDir(), "ca.pem")
	for i, s := range []**cvmfstest.Server{&w.a, &w.b, &w.p, &w.q} {
		var err error
		if https && i < 2 {
			var pem, more []byte
			*s, pem, err = cvmfstest.NewTLSServer()
			more, _ = os.ReadFile(w.authority)
			if err := os.WriteFile(w.authority, append(more, pem...), 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			*s, err = cvmfstest.NewServer()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*s).Close() })
		(*s).Add(faultyRepo, fstest.MapFS{w.path: {Data: w.object}})
	}
	return w
}

// want accepts the object alone, and counts how often it did.
func (w *sites) want(accepted *int) Request {
	return Request{Path: w.path, Limit: 1 << 20, Accept: func(_ context.Context, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if sum := fmt.Sprintf("%x", sha1.Sum(b)); "data/"+sum[:2]+"/"+sum[2:] != w.path {
			return fmt.Errorf("%w: it has hash %s", ErrContent, sum)
		}
		*accepted++
		return nil
	}}
}

type effects = []cvmfstest.Effect

// never is for what hangs until the client goes.
var never = make(chan struct{})

// fault is one row: what is wrong, and all that follows from it.
type fault struct {
	name    string
	a, b, p effects // what these do with each request
	https   bool
	slow    bool // waits for a time-out, which is 1 s then
	setUp   func(w *sites, cfg *Config)
	err     error    // of the request; nil: delivered
	says    string   // in the error; when delivered, in the one line of the log, if not empty
	asked   [4]int   // a, b, p, q
	then    [4]int   // in all, after a second request with no fault any more
	logs    int      // lines
	named   []string // who is named in the log
	content uint64   // Stats.VerifyFailures
}

func proxies2(w *sites, cfg *Config) {
	cfg.Proxies = "http://" + w.p.Addr() + ";http://" + w.q.Addr()
}

var faults = []fault{
	{name: "none", asked: [4]int{1}, then: [4]int{2}},
	{name: "down", setUp: func(w *sites, _ *Config) { w.a.Close() }, says: "refused", asked: [4]int{0, 1}, then: [4]int{0, 2}, logs: 1},
	{name: "hangs", slow: true, a: effects{cvmfstest.Hang(never)}, says: "no answer in time", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1},
	{name: "stalls", slow: true, a: effects{cvmfstest.Stall(1000, never)}, says: "stalled, after 1000 bytes", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1},
	{name: "slow", slow: true, a: effects{cvmfstest.Rate(500)}, says: "slower than the low-speed limit", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1},
	{name: "404", a: effects{cvmfstest.Status(404)}, says: "status 404", asked: [4]int{1, 1}, then: [4]int{1, 2}, logs: 1},
	{name: "500", a: effects{cvmfstest.Status(500)}, says: "status 500", asked: [4]int{1, 1}, then: [4]int{1, 2}, logs: 1},
	{name: "Retry-After elsewhere", a: effects{cvmfstest.Status(503), cvmfstest.Header("Retry-After", "3600")}, says: "status 503", asked: [4]int{1, 1}, then: [4]int{1, 2}, logs: 1},
	{name: "busy for long", a: effects{cvmfstest.Status(429), cvmfstest.Header("Retry-After", "3600")}, says: "status 429", asked: [4]int{1, 1}, then: [4]int{1, 2}, logs: 1},
	{name: "cut short", a: effects{cvmfstest.Truncate(100)}, says: "it has hash", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},
	{name: "breaks off", a: effects{cvmfstest.Drop(100)}, says: "ended early, after 100 bytes", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},
	{name: "flipped bit", a: effects{cvmfstest.FlipBit(77)}, says: "it has hash", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},
	{name: "too long", a: effects{cvmfstest.Append(make([]byte, 1<<20))}, says: "more than 1048576 bytes", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},
	{name: "portal", a: effects{cvmfstest.Portal()}, says: "captive portal", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},
	{name: "portal everywhere", a: effects{cvmfstest.Portal()}, b: effects{cvmfstest.Portal()}, err: ErrContent,
		says: "captive portal", asked: [4]int{2, 2}, then: [4]int{3, 2}, logs: 1, content: 4},
	{name: "flipped everywhere", a: effects{cvmfstest.FlipBit(0)}, b: effects{cvmfstest.FlipBit(0)}, err: ErrContent,
		says: "it has hash", asked: [4]int{2, 2}, then: [4]int{3, 2}, logs: 1, content: 4},
	{name: "missing everywhere", a: effects{cvmfstest.Status(404)}, b: effects{cvmfstest.Status(404)}, err: ErrNotFound,
		says: "status 404", asked: [4]int{1, 1}, then: [4]int{2, 1}, logs: 1},
	{name: "all down", setUp: func(w *sites, _ *Config) { w.a.Close(); w.b.Close() }, err: ErrOffline,
		says: "refused", logs: 1},
	{name: "host reset", a: effects{cvmfstest.Status(500)}, setUp: func(_ *sites, cfg *Config) { cfg.HostReset = time.Nanosecond },
		says: "status 500", asked: [4]int{1, 1}, then: [4]int{2, 1}, logs: 1},
	{name: "DNS gone", setUp: func(w *sites, cfg *Config) {
		u, _ := url.Parse(cfg.Servers[0])
		cfg.Servers[0] = "http://server.test:" + u.Port() + u.Path
		cfg.Resolver = func(_ context.Context, name string) ([]netip.Addr, time.Duration, error) {
			return nil, 0, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}
	}, says: "no such host", asked: [4]int{0, 1}, then: [4]int{0, 2}, logs: 1, named: []string{"server.test"}},

	{name: "https", https: true, asked: [4]int{1}, then: [4]int{2}},
	{name: "https, unknown authority", https: true, setUp: func(_ *sites, cfg *Config) { cfg.CABundle = "" }, err: ErrOffline,
		says: "set the CA bundle", logs: 1},
	{name: "https, flipped bit", https: true, a: effects{cvmfstest.FlipBit(0)}, says: "it has hash", asked: [4]int{2, 1}, then: [4]int{2, 2}, logs: 1, content: 2},

	{name: "proxy", setUp: proxies2, asked: [4]int{0, 0, 1}, then: [4]int{0, 0, 2}},
	{name: "proxy down", setUp: func(w *sites, cfg *Config) { proxies2(w, cfg); w.p.Close() }, says: "refused",
		asked: [4]int{0, 0, 0, 1}, then: [4]int{0, 0, 0, 2}, logs: 1, named: []string{"p"}},
	{name: "proxy down, DIRECT", setUp: func(w *sites, cfg *Config) {
		w.p.Close()
		cfg.Proxies = "http://" + w.p.Addr() + ";DIRECT"
	}, says: "refused", asked: [4]int{1}, then: [4]int{2}, logs: 1, named: []string{"p", "DIRECT"}},
	{name: "proxy down, fallback", setUp: func(w *sites, cfg *Config) {
		w.p.Close()
		cfg.Proxies, cfg.FallbackProxies = "http://"+w.p.Addr()+";DIRECT", "http://"+w.q.Addr()
	}, says: "refused", asked: [4]int{0, 0, 0, 1}, then: [4]int{0, 0, 0, 2}, logs: 1, named: []string{"p"}},
	{name: "proxy refuses", setUp: proxies2, p: effects{cvmfstest.Status(403)}, says: "status 403 Forbidden from the proxy",
		asked: [4]int{0, 0, 1, 1}, then: [4]int{0, 0, 1, 2}, logs: 1, named: []string{"p"}},
	{name: "proxy cannot reach the server", setUp: proxies2, p: effects{cvmfstest.Status(503), cvmfstest.Header("X-Squid-Error", "ERR_CONNECT_FAIL 111")},
		says: "ERR_CONNECT_FAIL", asked: [4]int{0, 0, 1, 1}, then: [4]int{0, 0, 1, 2}, logs: 1, named: []string{"p"}},
	{name: "proxy breaks off", setUp: proxies2, p: effects{cvmfstest.Drop(100)}, says: "ended early",
		asked: [4]int{0, 0, 2, 1}, then: [4]int{0, 0, 2, 2}, logs: 1, content: 2, named: []string{"p"}},
	{name: "proxy hangs", slow: true, setUp: proxies2, p: effects{cvmfstest.Hang(never)}, says: "no answer in time",
		asked: [4]int{0, 0, 2, 1}, then: [4]int{0, 0, 2, 2}, logs: 1, named: []string{"p"}},
	{name: "proxy is a portal", setUp: proxies2, p: effects{cvmfstest.Portal()}, says: "captive portal",
		asked: [4]int{0, 0, 4, 1}, then: [4]int{0, 0, 4, 2}, logs: 2, content: 4, named: []string{"p"}},
	{name: "proxy reset", setUp: func(w *sites, cfg *Config) { proxies2(w, cfg); cfg.ProxyReset = time.Nanosecond }, p: effects{cvmfstest.Status(403)},
		says: "status 403", asked: [4]int{0, 0, 1, 1}, then: [4]int{0, 0, 2, 1}, logs: 1},
}

// TestFaults: for each fault what the caller sees, what is logged, who was
// asked, whether the next request knows, and that nothing wrong was accepted.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newSites(t, f.https)
			var rules []*cvmfstest.Rule
			for s, e := range map[*cvmfstest.Server]effects{w.a: f.a, w.b: f.b, w.p: f.p} {
				if len(e) > 0 {
					rules = append(rules, s.Inject(cvmfstest.All, 0, e...))
				}
			}
			var log logged
			cfg := quick(w.a.RepositoryURL(faultyRepo), w.b.RepositoryURL(faultyRepo))
			cfg.Logger = log.logger()
			if f.slow {
				cfg.Timeout, cfg.TimeoutDirect = time.Second, time.Second
			}
			if f.https {
				cfg.CABundle = w.authority
			}
			if f.setUp != nil {
				f.setUp(w, &cfg)
			}
			c, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			accepted := 0
			err = c.Get(t.Context(), w.want(&accepted))
			f.check(t, w, c, err, accepted, log.lines())
			for _, r := range rules {
				r.Remove()
			}
			if f.then == [4]int{} {
				return
			}
			if err := c.Get(t.Context(), w.want(&accepted)); err != nil || w.asked() != f.then {
				t.Errorf("afterwards: %v, asked %v, want %v", err, w.asked(), f.then)
			}
		})
	}
}

func (f *fault) check(t *testing.T, w *sites, c *Client, err error, accepted int, lines []string) {
	t.Helper()
	if !errors.Is(err, f.err) || (err == nil) != (f.err == nil) || (accepted == 1) != (err == nil) {
		t.Errorf("%v; accepted %d times, want %v", err, accepted, f.err)
	}
	if err != nil && !strings.Contains(err.Error(), f.says) {
		t.Errorf("%v, want %q in it", err, f.says)
	}
	if w.asked() != f.asked {
		t.Errorf("asked %v, want %v", w.asked(), f.asked)
	}
	var warned []string
	for _, l := range lines {
		if strings.Contains(l, "level=WARN") {
			warned = append(warned, l)
		}
	}
	text := strings.Join(warned, "\n")
	text = strings.NewReplacer(w.p.Addr(), "p", w.q.Addr(), "q").Replace(text)
	if len(warned) != f.logs || f.logs > 0 && !strings.Contains(text, f.says) {
		t.Errorf("logged %q, want %d with %q", text, f.logs, f.says)
	}
	for _, who := range f.named {
		if f.logs > 0 && !strings.Contains(text, who) {
			t.Errorf("logged %q, want %q in it", text, who)
		}
	}
	if got := c.Stats().VerifyFailures; got != f.content {
		t.Errorf("%d verification failures, want %d", got, f.content)
	}
}
