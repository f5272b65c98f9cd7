package fetch

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// geoServers is how many servers are asked for the order, one by one.
	geoServers = 3
	// geoLimit bounds an answer, bytes.
	geoLimit = 4096

	// probeConnect is the time to connect to a server, to get the head of its
	// answer, and to stall; probeTime is that for the whole answer.
	probeConnect = 3 * time.Second
	probeTime    = 8 * time.Second
)

// measured is what a server's answer took.
type measured struct {
	host *host
	took time.Duration // from the request to the end of Accept
}

// measure makes one request of one server, which is asked once, by the proxy that
// is in use. It waits behind the requests of others and changes nothing about
// who is asked next.
func (c *Client) measure(h *host, r Request) (measured, error) {
	ctx, cancel := context.WithTimeout(Prefetch(c.ctx), probeTime)
	defer cancel()
	p, _ := c.chain.pickProxy(nil, r.Path)
	t := &try{c: c, req: &r, host: h, proxy: p, url: h.at(r.Path), noCache: r.NoCache, once: true, patience: probeConnect}
	f := t.run(ctx)
	switch {
	case t.accepted:
		return measured{h, time.Since(t.started)}, nil
	case f != nil:
		return measured{}, f
	}
	return measured{}, context.Cause(ctx)
}

// geoOrder asks some servers, at random to spread the load, for the order of all
// by distance. nil: none answered well.
func (c *Client) geoOrder() []*host {
	var names []string
	for _, h := range c.chain.all {
		names = append(names, h.base.Hostname())
	}
	asked := "api/v1.0/geo/" + c.geoName() + "/" + strings.Join(names, ",")
	for n, i := range mathrand.Perm(len(c.chain.all)) {
		if n == geoServers || c.ctx.Err() != nil {
			break
		}
		var hosts []*host
		h := c.chain.all[i]
		_, err := c.measure(h, Request{Path: asked, Limit: geoLimit, Accept: func(_ context.Context, body io.Reader) (err error) {
			b, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			hosts, err = permute(c.chain.all, string(b))
			return err
		}})
		if err == nil {
			return hosts
		}
		c.cfg.Logger.Debug("fetch: no order by the geo API", "host", h.label, "err", err)
	}
	return nil
}

// geoName is what the servers look up the client's place by: the proxy's name,
// or, when there is none, anything at all, and the connection's address counts.
func (c *Client) geoName() string {
	if c.cfg.GeoName != "" {
		return c.cfg.GeoName
	}
	if p, _ := c.chain.pickProxy(nil, ""); !p.direct() {
		return p.url.Hostname()
	}
	return rand.Text()
}

// permute reads a geo API's answer, such as "2,1,3": numbers from 1, each once.
func permute(all []*host, answer string) ([]*host, error) {
	var hosts []*host
	for text := range strings.SplitSeq(strings.TrimSpace(answer), ",") {
		i, err := strconv.Atoi(text)
		if err != nil || i < 1 || i > len(all) || slices.Contains(hosts, all[i-1]) {
			return nil, fmt.Errorf("%w: %.40q is no order of %d servers", ErrContent, answer, len(all))
		}
		hosts = append(hosts, all[i-1])
	}
	if len(hosts) != len(all) {
		return nil, fmt.Errorf("%w: %.40q is no order of %d servers", ErrContent, answer, len(all))
	}
	return hosts, nil
}
