package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

const (
	// probeFastest is of how many servers the throughput is measured.
	probeFastest = 5
	// probeQuiet is how long the throughput is not measured after the first
	// request, so as not to take bandwidth from a mount that is starting.
	probeQuiet = 10 * time.Second
	// probeSize is how much of a root catalog is read for that, bytes.
	probeSize = 4 << 20
	// probeLag is how much older a server's revision may be than the newest
	// that another has, before the server counts as one that is not kept up.
	probeLag = 24 * time.Hour
)

// sample is one server's manifest. It is not verified: who lies here is asked
// first, and found out by the first object.
type sample struct {
	measured
	manifest *trust.Manifest
	lags     bool
	tested   bool
	rate     float64 // bytes/s of the root catalog; 0: not measured, or failed
}

// rank is the first key of the order.
func (s *sample) rank() int {
	switch {
	case s.lags:
		return 3
	case s.rate > 0:
		return 0
	case s.tested:
		return 2
	}
	return 1
}

// probeOrder asks all servers at once for their manifest, then the fastest, one
// by one, for their root catalog. The order is by throughput, then by the time
// that the manifest took, then, for those that failed, as configured. nil: none
// answered.
//
// Behind a proxy, the server whose catalog the proxy has cached is the fastest, so
// that the nodes of a site come to the same order and share one cached copy.
func (c *Client) probeOrder(quiet time.Duration) []*host {
	found := c.probeManifests()
	if len(found) == 0 {
		return nil
	}
	hosts := c.withRest(found)
	if !slices.ContainsFunc(found, func(s *sample) bool { return c.chain.isFirst(s.host) }) {
		c.chain.reorder(hosts, OrderProbe) // the first is dead: at once
	}
	fastest := found[:min(len(found), probeFastest)]
	if len(fastest) > 1 {
		select {
		case <-time.After(quiet):
		case <-c.ctx.Done():
		}
		for _, s := range fastest {
			c.probeCatalog(s)
		}
	}
	slices.SortStableFunc(found, func(a, b *sample) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(b.rate, a.rate))
	})
	return c.withRest(found)
}

// probeManifests returns those that answered, the fastest first.
func (c *Client) probeManifests() []*sample {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex // guards found
		found []*sample
	)
	for _, h := range c.chain.all {
		wait.Go(func() {
			s := &sample{}
			var err error
			s.measured, err = c.measure(h, Request{Path: ".cvmfspublished", Limit: trust.MaxSize, NoCache: true, Accept: s.accept})
			if err != nil {
				c.cfg.Logger.Debug("fetch: a server failed the probe", "host", h.label, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, s)
		})
	}
	wait.Wait()
	var newest time.Time
	for _, s := range found {
		if s.manifest.Published.After(newest) {
			newest = s.manifest.Published
		}
	}
	for _, s := range found {
		s.lags = newest.Sub(s.manifest.Published) > probeLag
	}
	slices.SortFunc(found, func(a, b *sample) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.took, b.took))
	})
	return found
}

func (s *sample) accept(_ context.Context, body io.Reader) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if s.manifest, err = trust.ParseManifest(b); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return nil
}

// probeCatalog measures the throughput of one server; 0 if it fails.
func (c *Client) probeCatalog(s *sample) {
	root := s.manifest.RootCatalog
	s.tested = true
	var n int64
	m, err := c.measure(s.host, Request{Path: root.Path(hash.Catalog), Accept: func(_ context.Context, body io.Reader) error {
		sum := root.Algorithm.New()
		var err error
		n, err = io.CopyN(sum, body, probeSize)
		switch {
		case err == nil: // enough
			return nil
		case !errors.Is(err, io.EOF):
			return err
		case hash.Of(root.Algorithm, sum) != root:
			return fmt.Errorf("%w: the root catalog %s has another hash", ErrContent, root)
		}
		return nil
	}})
	if err != nil {
		c.cfg.Logger.Debug("fetch: a server failed the probe of its root catalog", "host", s.host.label, "err", err)
		return
	}
	s.rate = float64(n) / max(m.took, time.Microsecond).Seconds()
}

// withRest is the hosts of found, then all others.
func (c *Client) withRest(found []*sample) []*host {
	var hosts []*host
	for _, s := range found {
		hosts = append(hosts, s.host)
	}
	for _, h := range c.chain.all {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// isFirst reports whether h is the server that is asked first of all.
func (ch *chain) isFirst(h *host) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return len(ch.hosts) > 0 && ch.hosts[0] == h
}
