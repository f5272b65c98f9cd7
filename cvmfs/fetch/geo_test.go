package fetch

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestGeo(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		var all []*stratum
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			all = append(all, nw.add(t, name, replica{geo: "3,1,5,2,4\n", wait: ms}.answer))
		}
		squid := nw.add(t, "squid", nw.forward)
		keep := &memory{}
		cfg := Config{Servers: servers("a", "b", "c", "d", "e"), Order: OrderGeo, Keep: keep, Proxies: "http://squid:80"}
		c := open(cfg)
		if err := c.Get(t.Context(), want("x")); err != nil || all[0].paths("/x") != 1 {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := hosts(c); got != "c a e b d" || c.Stats().OrderedBy != OrderGeo {
			t.Errorf("ordered %s by %s", got, c.Stats().OrderedBy)
		}
		if n := squid.paths("/repo/api/v1.0/geo/squid/a,b,c,d,e"); n != 1 || squid.count() != 2 {
			t.Errorf("asked %v", squid.urls)
		}
		next := open(cfg)
		if err := next.Get(t.Context(), want("y")); err != nil || all[2].paths("/y") != 1 || squid.count() != 3 {
			t.Errorf("%v; the order was not kept: %v", err, squid.urls)
		}
		cfg.Servers = cfg.Servers[:4] // another set
		if next = open(cfg); hosts(next) != "a b c d" {
			t.Errorf("an order of other servers is used: %s", hosts(next))
		}
		cfg.Keep, cfg.Proxies, cfg.GeoName = nil, "", "where"
		next = open(cfg)
		_ = next.Get(t.Context(), want("z"))
		time.Sleep(time.Minute)
		synctest.Wait()
		n := 0
		for _, s := range all[:4] {
			n += s.paths("/repo/api/v1.0/geo/where/a,b,c,d")
		}
		// The answer is of five servers: three are asked, and then it is probed.
		if n != geoServers || next.Stats().OrderedBy != OrderProbe {
			t.Errorf("asked %d times, ordered by %s", n, next.Stats().OrderedBy)
		}
	})
}

// TestGeoName: without a proxy each client has a name of its own.
func TestGeoName(t *testing.T) {
	a, b := client(t, quick("http://a.test", "http://b.test")), client(t, quick("http://a.test"))
	if a.geoName() == "" || a.geoName() == b.geoName() || strings.ContainsAny(a.geoName(), "/,.") {
		t.Errorf("%q and %q", a.geoName(), b.geoName())
	}
}

func TestPermute(t *testing.T) {
	all := []*host{{label: "a"}, {label: "b"}, {label: "c"}}
	for answer, want := range map[string]string{
		"2,1,3": "bac", "3,2,1\n": "cba", "": "", "1,2": "", "1,2,2": "", "0,1,2": "", "1,2,3,4": "", "2,3,4": "",
		"1, 2,3": "", "-1,2,3": "", "1,2,3,": "", "<html>": "", "99999999999999999999,1,2": "", "1,2,3,1": "",
	} {
		got := ""
		hosts, err := permute(all, answer)
		for _, h := range hosts {
			got += h.label
		}
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrContent) {
			t.Errorf("%q: %q, %v", answer, got, err)
		}
	}
}

// FuzzPermute: an answer is an order of all servers, or refused.
func FuzzPermute(f *testing.F) {
	f.Add("2,1,3\n", 3)
	f.Add("1", 1)
	f.Fuzz(func(t *testing.T, answer string, n int) {
		all := make([]*host, max(1, n%50))
		for i := range all {
			all[i] = &host{}
		}
		hosts, err := permute(all, answer)
		if err != nil {
			return
		}
		seen := map[*host]bool{}
		for _, h := range hosts {
			seen[h] = true
		}
		if len(hosts) != len(all) || len(seen) != len(all) {
			t.Errorf("%q: %d of %d", answer, len(seen), len(all))
		}
	})
}
