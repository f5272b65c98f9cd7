package fetch

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// host is one server.
type host struct {
	base     *url.URL
	template string // with Here; "": paths go behind base
	label    string

	// Guarded by chain.mu.
	errors    uint64
	lastError string
	suspect   bool // has failed since it last delivered, or was begun with again
}

// Here, in the path of a server's URL, is where the path of a request is put
// in, escaped as one segment.
const Here = "@path@"

// templateHost is the server of a URL that has Here in it.
func templateHost(u *url.URL, template string) *host {
	base := *u
	before, _, _ := strings.Cut(u.Path, Here)
	base.Path, base.RawPath, base.RawQuery = before[:strings.LastIndexByte(before, '/')], "", ""
	return &host{base: &base, template: template, label: base.Redacted()}
}

// at is the address of a path below the server's base, or in its template. A
// plus sign is escaped there: some object stores take it for a blank.
func (h *host) at(path string) string {
	if h.template != "" {
		return strings.Replace(h.template, Here, strings.ReplaceAll(url.PathEscape(path), "+", "%2B"), 1)
	}
	u := *h.base
	u.Path += "/" + path
	return u.String()
}

// chain remembers which server and which proxy are in use.
type chain struct {
	hostReset, proxyReset time.Duration
	shard                 bool
	max                   int          // of hosts; 0: all
	all                   []*host      // as configured
	plan                  [][]*proxy   // as configured; at least one group, none empty
	lost                  *atomic.Bool // set when the first server is left; nil: nobody cares

	mu        sync.Mutex // guards all below, and the marked fields of host and proxy
	hosts     []*host    // in the order in which they are asked
	by        string     // who ordered them
	groups    [][]*proxy // plan, with a member for each address
	host      int
	hostLeft  time.Time // when hosts[0] was left; zero: in use
	proxy     *proxy
	proxyLeft time.Time // when the first proxy failed; zero: none has
}

func newChain(cfg Config, hosts []*host, groups [][]*proxy) *chain {
	ch := &chain{hostReset: cfg.HostReset, proxyReset: cfg.ProxyReset, shard: cfg.ShardProxies, max: cfg.MaxServers,
		all: hosts, plan: groups, groups: slices.Clone(groups)}
	ch.reorder(hosts, OrderFixed)
	ch.resetProxies()
	return ch
}

// pickHost returns the current server or, where that was tried, the next one
// that was not; nil when all were. others says whether one would be left.
func (ch *chain) pickHost(tried map[*host]bool) (h *host, others bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !ch.hostLeft.IsZero() && time.Since(ch.hostLeft) >= ch.hostReset {
		ch.setHost(0)
		ch.hosts[0].suspect = false
	}
	for i := range ch.hosts {
		next := ch.hosts[(ch.host+i)%len(ch.hosts)]
		switch {
		case tried[next]:
		case h == nil:
			h = next
		default:
			return h, true
		}
	}
	return h, false
}

// pickProxy does the same for proxies: the current one, then, group by group, a
// random one of those in order, then those that failed before. With sharding,
// none is current, and key chooses rather than chance.
func (ch *chain) pickProxy(tried map[*proxy]bool, key string) (p *proxy, others bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !ch.proxyLeft.IsZero() && time.Since(ch.proxyLeft) >= ch.proxyReset {
		inFirst := ch.proxy.group == 0 && ch.proxy.rank == 0 && !ch.proxy.down
		ch.clearDown()
		if !inFirst {
			ch.proxy = ch.choose(ch.groups[0], "")
		}
	}
	left := 0
	for _, g := range ch.groups {
		for _, q := range g {
			if !tried[q] {
				left++
			}
		}
	}
	if left == 0 {
		return nil, false
	}
	if !ch.shard && !tried[ch.proxy] {
		return ch.proxy, left > 1
	}
	return ch.nextProxy(tried, key), left > 1
}

// nextProxy returns an untried member of the first group that has one, those
// that are not down first. mu is held.
func (ch *chain) nextProxy(tried map[*proxy]bool, key string) *proxy {
	for _, down := range []bool{false, true} {
		for _, g := range ch.groups {
			var open []*proxy
			for _, p := range g {
				if !tried[p] && p.down == down {
					open = append(open, p)
				}
			}
			if len(open) > 0 {
				return ch.choose(open, key)
			}
		}
	}
	return nil
}

// count books one failed attempt where it belongs.
func (ch *chain) count(h *host, p *proxy, f *failure) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if f.proxy {
		p.errors++
		p.lastError = f.reason
		return
	}
	h.errors++
	h.lastError = f.reason
}

// leaveHost goes on to the next server if h is the current one, and reports
// whether it was.
func (ch *chain) leaveHost(h *host) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if len(ch.hosts) < 2 || ch.hosts[ch.host] != h {
		return false
	}
	ch.setHost((ch.host + 1) % len(ch.hosts))
	return true
}

// suspected notes a failure of h and reports whether it is the first since it
// last delivered: requests that fail side by side, or again and again, are one
// fault, to be logged once.
func (ch *chain) suspected(h *host) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	was := h.suspect
	h.suspect = true
	return !was
}

// leaveProxy marks p as down; if it is the current one, or was not down before
// while objects choose theirs, others take over, and the answer is true.
func (ch *chain) leaveProxy(p *proxy) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.markDown(p)
}

// markDown does leaveProxy's work. mu is held.
func (ch *chain) markDown(p *proxy) bool {
	was := p.down
	p.down = true
	if ch.proxyLeft.IsZero() {
		ch.proxyLeft = time.Now()
	}
	if ch.proxy != p && !ch.shard {
		return false
	}
	next := ch.nextProxy(map[*proxy]bool{p: true}, "")
	if next == nil {
		return false
	}
	if next.down { // all are: begin anew rather than stay on a later group
		ch.clearDown()
		next = ch.choose(ch.groups[0], "")
	}
	ch.proxy = next
	return !ch.shard || !was
}

// delivered makes h the current server when a request came to it because the
// current one, among hosts, had failed that request. suspects are the proxies by
// which content failed; if p is another, they are left.
func (ch *chain) delivered(h *host, p *proxy, hosts map[*host]bool, suspects map[*proxy]bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	h.suspect = false
	for i := range ch.hosts {
		if ch.hosts[i] == h && hosts[ch.hosts[ch.host]] {
			ch.setHost(i)
			break
		}
	}
	if suspects[p] { // it passes good bytes too: the server garbled
		return
	}
	for q := range suspects {
		ch.markDown(q)
	}
}

// setHost makes hosts[i] the current one. mu is held.
func (ch *chain) setHost(i int) {
	switch {
	case i == 0:
		ch.hostLeft = time.Time{}
	case ch.hostLeft.IsZero():
		ch.hostLeft = time.Now()
		if ch.lost != nil {
			ch.lost.Store(true)
		}
	}
	ch.host = i
}

// resetProxies begins again with the first group.
func (ch *chain) resetProxies() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.clearDown()
	ch.proxy = ch.choose(ch.groups[0], "")
}

// clearDown forgets which proxies failed. mu is held.
func (ch *chain) clearDown() {
	for _, g := range ch.groups {
		for _, p := range g {
			p.down = false
		}
	}
	ch.proxyLeft = time.Time{}
}

// choose returns one of the members of the best rank: with sharding and a key the
// one that the key falls to, which stays the same whoever else comes and goes
// (rendezvous hashing), else a random one. mu is held.
func (ch *chain) choose(members []*proxy, key string) *proxy {
	best := slices.MinFunc(members, func(a, b *proxy) int { return cmp.Compare(a.rank, b.rank) }).rank
	var open []*proxy
	for _, p := range members {
		if p.rank == best {
			open = append(open, p)
		}
	}
	if !ch.shard || key == "" {
		return open[rand.IntN(len(open))]
	}
	return slices.MaxFunc(open, func(a, b *proxy) int { return cmp.Compare(a.weight(key), b.weight(key)) })
}

// weight is the same for all clients.
func (p *proxy) weight(key string) uint64 {
	sum := sha256.Sum256([]byte(p.label + "\x00" + key))
	return binary.BigEndian.Uint64(sum[:])
}

// allGroups is a copy of what is in use now.
func (ch *chain) allGroups() [][]*proxy {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return slices.Clone(ch.groups)
}
