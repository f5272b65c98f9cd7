package fetch

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// forward makes a proxy of a test server.
func forward(_ int, w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(out)
	if err != nil {
		w.Header().Set("X-Squid-Error", "ERR_CONNECT_FAIL 111")
		w.WriteHeader(503)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

func TestProxyClasses(t *testing.T) {
	for name, tt := range map[string]struct {
		proxy answer
		asked int
	}{
		"squid error":      {says(503, "X-Squid-Error", "ERR_DNS_FAIL 0"), 1},
		"squid 404":        {says(404, "X-Squid-Error", "ERR_X"), 1},
		"proxy-status":     {says(502, "Proxy-Status", "cache.example; error=connection_refused"), 1},
		"403":              {says(403), 1},
		"407":              {says(407), 1},
		"redirect":         {says(302, "Location", "http://login.invalid/"), 1},
		"dies in mid-body": {truncates, 2},
		"closes":           {func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, p, q := serve(t, ok), serve(t, tt.proxy), serve(t, forward)
			var log logged
			cfg := quick(s.URL, s.URL+"/second")
			cfg.Proxies, cfg.Logger = p.URL+";"+q.URL+";DIRECT", log.logger()
			c := client(t, cfg)
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Fatal(err)
			}
			st := c.Stats()
			if p.count() != tt.asked || q.count() != 1 || s.count() != 1 || s.urls[0] != "/x" {
				t.Errorf("asked %d, %d, %v", p.count(), q.count(), s.urls)
			}
			if st.Failovers != 1 || st.Hosts[0].Errors != 0 || !st.Hosts[0].Current ||
				st.Proxies[0].Errors != uint64(tt.asked) || !st.Proxies[1].Current || st.Proxies[2].Group != 2 {
				t.Errorf("%+v", st)
			}
			if l := log.lines(); len(l) != 1 || !strings.Contains(l[0], "proxy="+p.URL) {
				t.Errorf("logged %q", l)
			}
			if err := c.Get(t.Context(), want("y")); err != nil || p.count() != tt.asked {
				t.Errorf("the failed proxy was asked again: %v", err)
			}
		})
	}
}

// TestProxyKilled: it dies in mid-download, and nobody listens there any more.
func TestProxyKilled(t *testing.T) {
	s := serve(t, ok)
	var p *stratum
	p = serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		p.Listener.Close()
		truncates(n, w, r)
	})
	cfg := quick(s.URL)
	cfg.Proxies = p.URL + ";DIRECT"
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil || p.count() != 1 || s.count() != 1 {
		t.Errorf("%v; asked %d and %d times", err, p.count(), s.count())
	}
	if st := c.Stats(); st.Hosts[0].Errors != 0 || !st.Proxies[1].Current || !strings.Contains(st.Proxies[0].LastError, "refused") {
		t.Errorf("%+v", st)
	}
}

// TestServerFailsByProxy: what is the server's fault costs no proxy.
func TestServerFailsByProxy(t *testing.T) {
	for name, fault := range map[string]answer{"404": says(404), "500": says(500), "garbled": sends("x")} {
		t.Run(name, func(t *testing.T) {
			a, b := serve(t, fault), serve(t, ok)
			p, q := serve(t, forward), serve(t, forward)
			cfg := quick(a.URL, b.URL)
			cfg.Proxies = p.URL + ";" + q.URL
			c := client(t, cfg)
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Fatal(err)
			}
			if st := c.Stats(); q.count() != 0 || !st.Proxies[0].Current || !st.Hosts[1].Current || st.Proxies[0].Errors != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestServerDownBehindProxies: all proxies fail for the first server, none for
// the second.
func TestServerDownBehindProxies(t *testing.T) {
	s, p, q := serve(t, ok), serve(t, forward), serve(t, forward)
	cfg := quick(refused(t), s.URL)
	cfg.Proxies = p.URL + "|" + q.URL
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil {
		t.Fatal(err)
	}
	if p.count()+q.count() != 3 || s.count() != 1 {
		t.Errorf("asked %d, %d, %d", p.count(), q.count(), s.count())
	}
	if err := c.Get(t.Context(), want("y")); err != nil || p.count()+q.count() != 4 {
		t.Errorf("the second server was not remembered: %v", err)
	}
}

func TestAllProxiesRefuse(t *testing.T) {
	s := serve(t, ok)
	cfg := quick(s.URL, s.URL+"/second")
	cfg.Proxies = refused(t) + "|" + refused(t) + ";" + refused(t)
	c := client(t, cfg)
	err := c.Get(t.Context(), want("x"))
	if !errors.Is(err, ErrOffline) || strings.Count(err.Error(), " by proxy ") != 2 || !strings.HasSuffix(err.Error(), "; 4 more: connection refused") {
		t.Error(err)
	}
	if st := c.Stats(); st.Requests != 12 || st.Failovers != 5 || s.count() != 0 {
		t.Errorf("%+v", st)
	}
	cfg.Proxies += ";DIRECT"
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 1 {
		t.Error(err)
	}
	cfg.FallbackProxies = refused(t)
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) {
		t.Errorf("DIRECT beside a fallback proxy: %v", err)
	}
}

// TestGarblingProxy: when all servers fail verification by one proxy, the next
// proxy is asked, and remembered.
func TestGarblingProxy(t *testing.T) {
	a, b := serve(t, ok), serve(t, ok)
	p := serve(t, sends("<html>Please log in"))
	cfg := quick(a.URL, b.URL)
	cfg.Proxies = p.URL + ";DIRECT"
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil || p.count() != 4 || a.count() != 1 || b.count() != 0 {
		t.Errorf("%v; asked %d, %d, %d", err, p.count(), a.count(), b.count())
	}
	if err := c.Get(t.Context(), want("x")); err != nil || p.count() != 4 {
		t.Errorf("%v; the garbling proxy was asked again", err)
	}

	a, b = serve(t, sends("x")), serve(t, sends("y")) // it is the servers after all
	p = serve(t, forward)
	cfg = quick(a.URL, b.URL)
	cfg.Proxies = p.URL + ";DIRECT"
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrContent) || p.count() != 4 || a.count() != 4 || b.count() != 4 {
		t.Errorf("%v; asked %d, %d, %d", err, p.count(), a.count(), b.count())
	}
}

// TestBalance: one client stays with one member; many clients use both.
func TestBalance(t *testing.T) {
	s, p, q := serve(t, ok), serve(t, forward), serve(t, forward)
	cfg := quick(s.URL)
	cfg.Proxies = p.URL + "|" + q.URL
	for range 40 {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		before := [2]int{p.count(), q.count()}
		for range 2 {
			if err := c.Get(t.Context(), want("x")); err != nil {
				t.Fatal(err)
			}
		}
		if p.count() != before[0] && q.count() != before[1] {
			t.Error("one client used both")
		}
		c.Close()
	}
	if p.count() == 0 || q.count() == 0 { // 1 in 2^39
		t.Errorf("asked %d and %d times", p.count(), q.count())
	}
}

func TestEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("http_proxy", refused(t))
	t.Setenv("HTTP_PROXY", refused(t))
	nw := &network{}
	s := nw.add(t, "server.test", ok)
	cfg := quick("http://server.test")
	cfg.Dial = nw.dial
	c := client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil || s.count() != 1 {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, good) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	c := client(t, quick(s.URL))
	if err := c.Get(t.Context(), want("x")); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "CA bundle") {
		t.Errorf("an unknown authority: %v", err)
	}
	if st := c.Stats(); st.Requests != 1 {
		t.Errorf("%+v", st)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := quick(s.URL)
	cfg.CABundle = bundle
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil {
		t.Error(err)
	}

	p := serve(t, says(403)) // refuses CONNECT
	cfg.Proxies = p.URL + ";DIRECT"
	c = client(t, cfg)
	if err := c.Get(t.Context(), want("x")); err != nil {
		t.Error(err)
	}
	if st := c.Stats(); st.Proxies[0].Errors != 1 || !strings.Contains(st.Proxies[0].LastError, "CONNECT: status 403") {
		t.Errorf("%+v", st)
	}
}
