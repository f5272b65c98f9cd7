package fetch

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// expander puts a member for each address in place of a proxy's name.
type expander struct {
	named []*proxy      // that have a name, as configured
	next  atomic.Int64  // when to look again, Unix nanoseconds
	first chan struct{} // closed when the first group's names were looked up

	mu      sync.Mutex          // guards all below, and is held while chain.mu is taken
	members map[*proxy][]*proxy // by the proxy as it is configured
}

func (e *expander) init() {
	e.first, e.members = make(chan struct{}), map[*proxy][]*proxy{}
}

func (c *Client) named(p *proxy) bool { return !p.direct() && c.names.resolves(p.url.Hostname()) }

// expand looks up the proxies' names, as often as an address may change. The
// very first request waits for the first group, whose addresses it would have to
// wait for anyway; all else is done in the background.
func (c *Client) expand(ctx context.Context) {
	e := &c.expander
	if len(e.named) == 0 {
		return
	}
	now, next := time.Now(), e.next.Load()
	if now.UnixNano() >= next && e.next.CompareAndSwap(next, now.Add(minTTL).UnixNano()) {
		c.expandAll(next == 0)
	}
	if isClosed(e.first) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout) // after that by name
	defer cancel()
	select {
	case <-e.first:
	case <-ctx.Done():
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// expandAll starts a look-up for each name.
func (c *Client) expandAll(isFirst bool) {
	var group sync.WaitGroup
	for _, p := range c.expander.named {
		done := func() {}
		if isFirst && p.group == 0 {
			group.Add(1)
			done = group.Done
		}
		if !c.background.start(func() { defer done(); c.expandOne(p) }) {
			done()
		}
	}
	if !isFirst {
		return
	}
	if !c.background.start(func() { group.Wait(); close(c.expander.first) }) {
		close(c.expander.first)
	}
}

// expandOne puts the addresses of p's name in its place, if there are several.
// With one, or none that can be found, p stands for itself: dialling looks its
// name up.
func (c *Client) expandOne(p *proxy) {
	addrs, err := c.names.addresses(c.ctx, p.url.Hostname(), true)
	if err != nil {
		c.cfg.Logger.Debug("fetch: a proxy's name cannot be looked up", "proxy", p.label, "err", err)
		return
	}
	// Another order means nothing, and which are dead is known of each member.
	slices.SortFunc(addrs, netip.Addr.Compare)
	e := &c.expander
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.members[p]
	var members []*proxy
	if len(addrs) > 1 {
		for _, a := range addrs {
			i := slices.IndexFunc(old, func(m *proxy) bool { return m.addr == a })
			if i >= 0 {
				members = append(members, old[i])
				continue
			}
			members = append(members, c.member(p, a))
		}
	}
	if slices.Equal(old, members) {
		return
	}
	e.members[p] = members
	p.retired.Store(false)
	c.chain.install(p.group, e.members)
	for _, m := range append(old, p) {
		if m != p && !slices.Contains(members, m) || m == p && len(members) > 0 {
			m.retire()
		}
	}
}

// member is p at one address.
func (c *Client) member(p *proxy, a netip.Addr) *proxy {
	m := &proxy{url: p.url, label: p.label + " at " + a.String(), group: p.group, timeout: p.timeout, addr: a}
	if a.Is6() != c.cfg.PreferIPv6 {
		m.rank = 1
	}
	m.transport = c.newTransport(m)
	return m
}

// retire closes the connections of a member whose address is gone. Requests
// under way end as they would.
func (p *proxy) retire() {
	p.retired.Store(true)
	p.transport.CloseIdleConnections()
}

// install makes up a group anew from what its proxies were expanded to.
func (ch *chain) install(group int, members map[*proxy][]*proxy) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	var all []*proxy
	for _, p := range ch.plan[group] {
		if m := members[p]; len(m) > 0 {
			all = append(all, m...)
		} else {
			all = append(all, p)
		}
	}
	gone := ch.proxy.group == group && !slices.Contains(all, ch.proxy)
	ch.groups[group] = all
	if gone {
		ch.proxy = ch.choose(all, "")
	}
}
