package fetch

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestSharding: each object has its proxy, the same for all clients; the objects
// of one that fails are spread over the others, and no other moves.
func TestSharding(t *testing.T) {
	bubble(t, func(t *testing.T, nw *network, open func(Config) *Client) {
		nw.add(t, "server.test", ok)
		refuses := false
		var group []*stratum
		for _, name := range []string{"p", "q", "r"} {
			group = append(group, nw.add(t, name, func(n int, w http.ResponseWriter, r *http.Request) {
				if refuses && name == "q" {
					w.WriteHeader(403)
					return
				}
				ok(n, w, r)
			}))
		}
		var log logged
		cfg := Config{Servers: []string{"http://server.test"}, Proxies: "http://p:80|http://q:80|http://r:80;DIRECT", ShardProxies: true, Logger: log.logger()}
		where := func(c *Client) (all []int) {
			t.Helper()
			for i := range 90 {
				path := fmt.Sprintf("data/%d", i)
				before := []int{group[0].count(), group[1].count(), group[2].count()}
				if err := c.Get(t.Context(), want(path)); err != nil {
					t.Fatal(err)
				}
				for j := range group {
					if group[j].count() != before[j] && !(refuses && j == 1) {
						all = append(all, j)
					}
				}
			}
			return all
		}
		c := open(cfg)
		first := where(c)
		if again := where(open(cfg)); !slices.Equal(first, again) {
			t.Error("another client chooses otherwise")
		}
		for j, p := range group {
			if n := p.count(); n < 20 || n > 100 { // 60 expected
				t.Errorf("proxy %d got %d of 180", j, n)
			}
		}
		refuses = true
		asked := group[1].count()
		then := where(c)
		if len(then) != len(first) || group[1].count() != asked+1 || len(log.lines()) != 1 {
			t.Errorf("%d delivered, the failed one was asked %d times, logged %q", len(then), group[1].count()-asked, log.lines())
		}
		for i := range then {
			if first[i] != 1 && then[i] != first[i] {
				t.Errorf("object %d moved from %d to %d", i, first[i], then[i])
			}
		}
		refuses = false
		time.Sleep(5 * time.Minute)
		if back := where(c); !slices.Equal(first, back) {
			t.Error("the failed proxy is not used again after its time")
		}
	})
}
