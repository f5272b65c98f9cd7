package fetch

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// zone is a name server.
type zone struct {
	mu    sync.Mutex
	names map[string][]string
	ttl   time.Duration
	gone  bool
	hangs bool
	asked int
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.names == nil {
		z.names = map[string][]string{}
	}
	z.names[name] = addrs
}

func (z *zone) resolve(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	switch {
	case z.hangs:
		z.mu.Unlock()
		<-ctx.Done()
		z.mu.Lock()
		return nil, 0, ctx.Err()
	case z.gone:
		return nil, 0, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
	case len(z.names[name]) == 0:
		return nil, 0, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	var addrs []netip.Addr
	for _, a := range z.names[name] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, z.ttl, nil
}

// fail makes it refuse, or hang, or be well.
func (z *zone) fail(gone, hangs bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.gone, z.hangs = gone, hangs
}

// lookups counts the questions.
func (z *zone) lookups() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked
}

// dials is how often an address was connected to.
func (nw *network) dials(address string) int {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	return nw.dialed[address+":80"]
}

// TestAddressesOfServer: each is tried, a dead one no more until it may be well.
func TestAddressesOfServer(t *testing.T) {
	for name, tt := range map[string]struct {
		fault answer        // of the first address; nil: connecting hangs
		took  time.Duration // of the first request, at most
		dials int
	}{
		"connecting hangs": {nil, 2 * time.Second, 1},
		"no answer":        {hangs, 12 * time.Second, 1}, // a time-out, and a pause
		"stalls":           {stalls, 12 * time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
				nw.add(t, "10.0.0.1", tt.fault)
				b := nw.add(t, "10.0.0.2", func(n int, w http.ResponseWriter, r *http.Request) {
					if r.Host != "server.test" {
						t.Errorf("asked for host %s", r.Host)
					}
					ok(n, w, r)
				})
				nw.add(t, "[fd00::1]", ok)
				z := &zone{}
				z.set("server.test", "fd00::1", "10.0.0.1", "10.0.0.2", "10.0.0.1")
				c := open(Config{Servers: []string{"http://server.test"}, Resolver: z.resolve})
				start := time.Now()
				for range 3 {
					if err := c.Get(t.Context(), want("x")); err != nil {
						t.Fatal(err)
					}
				}
				between(t, start, time.Second, tt.took)
				if nw.dials("10.0.0.1") != tt.dials || b.count() != 3 || nw.dials("[fd00::1]") != 0 || z.lookups() != 1 {
					t.Errorf("dialed %v, resolved %d times", nw.dialed, z.lookups())
				}
				time.Sleep(5 * time.Minute) // ProxyReset, and the idle connections are closed
				if err := c.Get(t.Context(), want("x")); err != nil || nw.dials("10.0.0.1") != tt.dials+1 {
					t.Errorf("%v, dialed %v", err, nw.dialed)
				}
			})
		})
	}
}

func TestAddressFamilies(t *testing.T) {
	for _, prefer6 := range []bool{false, true} {
		bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
			z := &zone{}
			z.set("server.test", "10.0.0.1", "fd00::1")
			z.set("squid.test", "10.0.0.2", "fd00::2")
			four, six := nw.add(t, "10.0.0.1", ok), nw.add(t, "[fd00::1]", ok)
			cfg := Config{Servers: []string{"http://server.test"}, Resolver: z.resolve, PreferIPv6: prefer6}
			c := open(cfg)
			if err := c.Get(t.Context(), want("x")); err != nil || (six.count() == 1) != prefer6 || four.count()+six.count() != 1 {
				t.Errorf("prefer6 %v: %v, asked %d and %d", prefer6, err, four.count(), six.count())
			}
			four, six = nw.add(t, "10.0.0.2", ok), nw.add(t, "[fd00::2]", ok)
			cfg.Proxies = "http://squid.test:80"
			for range 10 { // no chance
				c = open(cfg)
				if err := c.Get(t.Context(), want("x")); err != nil {
					t.Error(err)
				}
			}
			if (six.count() == 10) != prefer6 || four.count()+six.count() != 10 {
				t.Errorf("prefer6 %v: asked %d and %d", prefer6, four.count(), six.count())
			}
		})
	}
}

// TestLiterals are not looked up.
func TestLiterals(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		z := &zone{}
		s := nw.add(t, "[fd00::1]", ok)
		nw.add(t, "[fd00::2]", nw.forward)
		c := open(Config{Servers: []string{"http://[fd00::1]/repo"}, Proxies: "http://[fd00::2]:80", Resolver: z.resolve})
		if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 1 || z.lookups() != 0 {
			t.Errorf("%v, asked %d, resolved %d", err, s.count(), z.lookups())
		}
		c = open(Config{Servers: []string{"http://[fd00::1]/repo"}, Resolver: z.resolve})
		if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 2 || z.lookups() != 0 {
			t.Errorf("%v, asked %d, resolved %d", err, s.count(), z.lookups())
		}
	})
}

// proxies is which are in use, by address.
func proxies(c *Client) string {
	var all []string
	for _, p := range c.Stats().Proxies {
		_, addr, _ := strings.Cut(p.URL, " at ")
		if addr == "" {
			addr = p.URL
		}
		all = append(all, addr)
	}
	return strings.Join(all, " ")
}

// TestAddressesOfProxy: each is a member of the group.
func TestAddressesOfProxy(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		s := nw.add(t, "server.test", ok)
		for _, dead := range []string{"10.0.0.1", "10.0.0.2", "fd00::1"} {
			nw.add(t, netip.MustParseAddr(dead).String(), nil)
		}
		nw.add(t, "[fd00::1]", nil)
		alive, other := nw.add(t, "10.0.0.3", nw.forward), nw.add(t, "10.0.0.4", nw.forward)
		z := &zone{}
		z.set("squid.test", "fd00::1", "10.0.0.1", "10.0.0.3", "10.0.0.2")
		z.set("one.test", "10.0.0.4")
		var log logged
		c := open(Config{Servers: []string{"http://server.test"}, Proxies: "http://squid.test:80;http://one.test:80;DIRECT", Resolver: z.resolve, Logger: log.logger()})
		for range 3 {
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Fatal(err)
			}
		}
		if got := proxies(c); got != "10.0.0.1 10.0.0.2 10.0.0.3 fd00::1 http://one.test:80 DIRECT" {
			t.Errorf("proxies %s", got)
		}
		if alive.count() != 3 || other.count() != 0 || s.count() != 3 || nw.dials("10.0.0.1") > 2 || nw.dials("[fd00::1]") != 0 {
			t.Errorf("dialed %v", nw.dialed)
		}
		for _, u := range alive.urls {
			if u != "http://server.test/x" {
				t.Errorf("the proxy was asked for %s", u)
			}
		}
		for _, l := range log.lines() {
			if l != "" && !strings.Contains(l, "squid.test:80 at 10.0.0.") {
				t.Errorf("logged %s", l)
			}
		}

		// The name moves to another address, then to one alone, then it is gone.
		z.set("squid.test", "10.0.0.5", "10.0.0.6")
		moved := [2]*stratum{nw.add(t, "10.0.0.5", nw.forward), nw.add(t, "10.0.0.6", nw.forward)}
		get := func(pause time.Duration) {
			t.Helper()
			time.Sleep(pause)
			for range 2 { // the first is what starts the look-up
				if err := c.Get(t.Context(), want("x")); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
		}
		get(2 * time.Minute)
		if moved[0].count()+moved[1].count() != 1 || proxies(c) != "10.0.0.5 10.0.0.6 http://one.test:80 DIRECT" {
			t.Errorf("dialed %v, proxies %s", nw.dialed, proxies(c))
		}
		z.set("squid.test", "10.0.0.6")
		get(2 * time.Minute)
		get(2 * time.Minute)
		if proxies(c) != "http://squid.test:80 http://one.test:80 DIRECT" {
			t.Errorf("proxies %s", proxies(c))
		}
		before, asked := s.count(), z.lookups()
		z.fail(true, false)
		get(2 * time.Minute)
		get(time.Hour)
		if s.count() != before+4 || z.lookups() <= asked || other.count() != 0 {
			t.Errorf("asked %d times, resolved %d times", s.count()-before, z.lookups()-asked)
		}
	})
}

// TestTTL: names are looked up again after their time to live, 60 s at least.
func TestTTL(t *testing.T) {
	for ttl, due := range map[time.Duration]time.Duration{
		0: time.Minute, time.Second: time.Minute, 5 * time.Minute: 5 * time.Minute, 1000 * time.Hour: 24 * time.Hour,
	} {
		bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
			z := &zone{ttl: ttl}
			z.set("server.test", "10.0.0.1")
			nw.add(t, "10.0.0.1", ok)
			c := open(Config{Servers: []string{"http://server.test"}, Resolver: z.resolve})
			ask := func() int {
				addrs, err := c.names.addresses(t.Context(), "server.test", false)
				if err != nil || len(addrs) != 1 {
					t.Error(addrs, err)
				}
				synctest.Wait()
				return z.lookups()
			}
			ask()
			time.Sleep(due - 1)
			if n := ask(); n != 1 {
				t.Errorf("ttl %v: resolved %d times before %v", ttl, n, due)
			}
			time.Sleep(time.Nanosecond)
			if n := ask(); n != 2 {
				t.Errorf("ttl %v: resolved %d times after %v", ttl, n, due)
			}
		})
	}
}

// TestNameServerDown: the error says so, and the next request sees it return.
func TestNameServerDown(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		z := &zone{gone: true}
		z.set("server.test", "10.0.0.1")
		z.set("squid.test", "10.0.0.2", "10.0.0.3")
		for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
			nw.add(t, a, ok)
		}
		for _, cfg := range []Config{{}, {Proxies: "squid.test:80"}} {
			z.fail(true, false)
			cfg.Servers, cfg.Resolver = []string{"http://server.test"}, z.resolve
			c := open(cfg)
			if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "server misbehaving") {
				t.Error(err)
			}
			z.fail(false, false)
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Error(err)
			}
			z.fail(false, true)
			c = open(cfg)
			start := time.Now()
			if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "took too long") {
				t.Error(err)
			}
			between(t, start, 6*time.Second, 30*time.Second)
			z.fail(false, false)
		}
		c := open(Config{Servers: []string{"http://no.test", "http://server.test"}, Resolver: z.resolve})
		asked := z.lookups()
		if err := c.Get(t.Context(), want("x")); err != nil || z.lookups() != asked+2 || c.Stats().Requests != 2 {
			t.Errorf("%v, resolved %d times", err, z.lookups()-asked)
		}
	})
}

// TestServerName: a server is what it is called, whatever its address.
func TestServerName(t *testing.T) {
	var asked []string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.TLS.ServerName+" "+r.Host)
		io.WriteString(w, good)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	z := &zone{}
	z.set("example.com", "127.0.0.9", "127.0.0.1") // nobody listens at the first
	z.set("other.test", "127.0.0.1")
	cfg := quick("https://example.com:" + port)
	cfg.CABundle, cfg.Resolver = bundle, z.resolve
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil || !slices.Equal(asked, []string{"example.com example.com:" + port}) {
		t.Errorf("%v, asked for %v", err, asked)
	}
	cfg.Servers = []string{"https://other.test:" + port}
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) || len(asked) != 1 {
		t.Errorf("the name in the certificate is not looked at: %v", err)
	}
}
