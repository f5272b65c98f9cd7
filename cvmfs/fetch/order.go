package fetch

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Orders of the servers, for Config.Order.
const (
	OrderFixed = "fixed" // as configured
	OrderGeo   = "geo"   // as the servers' geo API says, else by probing
	OrderProbe = "probe" // by probing
)

// Keep remembers small data from one run to the next. It may forget at any time.
// What Get returns is not trusted. Safe for concurrent use.
type Keep interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
}

const (
	// orderBucket is where the order is kept, by the repository's name.
	orderBucket = "host-order"
	// orderFor is how long an order is good.
	orderFor = 7 * 24 * time.Hour
	// orderPause is the least time from one search for an order to the next.
	orderPause = 10 * time.Minute
)

// order decides when the servers are put in order anew. A client with a fixed
// order has none.
type order struct {
	mode string
	keep Keep // may be nil
	key  string
	lost atomic.Bool // the first server was left

	mu      sync.Mutex // guards all below
	running bool
	due     time.Time
	last    time.Time // when the last search ended; zero: there was none
}

// kept is an order as it is stored, in JSON.
type kept struct {
	By    string    // OrderGeo or OrderProbe
	At    time.Time // when it was found
	Order []string  // the servers' labels
}

func newOrder(cfg Config, ch *chain) *order {
	if cfg.Order == OrderFixed || len(ch.all) < 2 {
		return nil
	}
	o := &order{mode: cfg.Order, keep: cfg.Keep, key: path.Base(ch.all[0].base.Path)}
	ch.lost = &o.lost
	if k, hosts := o.load(ch.all); hosts != nil {
		ch.reorder(hosts, k.By)
		o.due = k.At.Add(orderFor)
	}
	return o
}

// load returns the order of an earlier run, if it is of the same servers and
// not too old.
func (o *order) load(all []*host) (k kept, hosts []*host) {
	if o.keep == nil {
		return k, nil
	}
	b, ok := o.keep.Get(orderBucket, o.key)
	if !ok || json.Unmarshal(b, &k) != nil || len(k.Order) != len(all) {
		return k, nil
	}
	if age := time.Since(k.At); age < 0 || age > orderFor || k.By != OrderProbe && k.By != o.mode {
		return k, nil
	}
	for _, label := range k.Order {
		i := slices.IndexFunc(all, func(h *host) bool { return h.label == label && !slices.Contains(hosts, h) })
		if i < 0 {
			return k, nil
		}
		hosts = append(hosts, all[i])
	}
	return k, hosts
}

// start reports whether the servers are to be put in order now, and whether that
// is because the first of them turned bad. The caller then calls done.
func (o *order) start() (now, lost bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := time.Now()
	lost = o.lost.Load()
	switch {
	case o.running, !lost && t.Before(o.due), !o.last.IsZero() && t.Sub(o.last) < orderPause:
		return false, false
	}
	o.running = true
	return true, lost
}

// done ends what start began.
func (o *order) done(found bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = false
	o.last = time.Now()
	o.due = o.last.Add(orderPause)
	if found {
		o.lost.Store(false)
		o.due = o.last.Add(orderFor)
	}
}

// orderHosts puts the servers in order in the background when that is due. No
// request waits for it.
func (c *Client) orderHosts() {
	if c.order == nil {
		return
	}
	now, lost := c.order.start()
	if !now {
		return
	}
	if !c.background.start(func() { c.order.done(c.findOrder(lost)) }) {
		c.order.done(false)
	}
}

// findOrder asks the geo API, unless the first server is bad, which that would
// not know, and otherwise probes.
func (c *Client) findOrder(lost bool) (found bool) {
	if c.order.mode == OrderGeo && !lost {
		if hosts := c.geoOrder(); hosts != nil {
			c.adopt(hosts, OrderGeo)
			return true
		}
	}
	quiet := probeQuiet
	if lost {
		quiet = 0
	}
	hosts := c.probeOrder(quiet)
	if hosts == nil || c.ctx.Err() != nil {
		return false
	}
	c.adopt(hosts, OrderProbe)
	return true
}

// adopt makes an order the current one and keeps it.
func (c *Client) adopt(hosts []*host, by string) {
	c.chain.reorder(hosts, by)
	k := kept{By: by, At: time.Now()}
	for _, h := range hosts {
		k.Order = append(k.Order, h.label)
	}
	c.cfg.Logger.Info("fetch: servers put in order", "by", by, "hosts", fmt.Sprint(k.Order))
	if b, err := json.Marshal(k); err == nil && c.order.keep != nil {
		c.order.keep.Put(orderBucket, c.order.key, b)
	}
}

// reorder puts the servers in another order, of which the first is then asked.
func (ch *chain) reorder(hosts []*host, by string) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.max > 0 {
		hosts = hosts[:min(len(hosts), ch.max)]
	}
	ch.hosts, ch.by = slices.Clone(hosts), by
	ch.setHost(0)
}
