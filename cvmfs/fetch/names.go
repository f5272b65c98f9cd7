package fetch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Resolver finds the addresses of a name, and for how long they may be kept; 0 is
// not known. An error should be a *net.DNSError: one that says IsNotFound is
// not asked again. It ends with ctx. Safe for concurrent use.
type Resolver func(ctx context.Context, name string) (addrs []netip.Addr, ttl time.Duration, err error)

// The reference client's figures.
const (
	minTTL         = time.Minute
	maxTTL         = 24 * time.Hour
	resolveTimeout = 3 * time.Second
	resolveTries   = 2
)

const (
	// maxAddresses bounds the addresses that are used of one name.
	maxAddresses = 16
	// leastShare is the least time to connect to one of several addresses.
	leastShare = time.Second
)

var errResolve = errors.New("looking up the name took too long")

// systemResolver asks as the machine is set up to: hosts file, then DNS. It is
// not told how long an answer may be kept.
func systemResolver(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	return addrs, 0, err
}

// names remembers addresses of names, and which of them are dead. Addresses that
// were found once are used until others are: no request waits for a name server
// that has gone.
type names struct {
	resolver   Resolver // nil: names are left to Config.Dial
	prefer6    bool
	badFor     time.Duration
	ctx        context.Context // ends with Close
	background *background

	mu    sync.Mutex // guards all below
	known map[string]*name
}

// name is guarded by names.mu.
type name struct {
	addrs  []netip.Addr // the preferred family first
	due    time.Time
	bad    map[netip.Addr]time.Time // until when
	lookup *lookup                  // under way
}

type lookup struct {
	done chan struct{}
	err  error // set before done is closed
}

// resolves reports whether s is a name, which is to be looked up here.
func (ns *names) resolves(s string) bool {
	if ns.resolver == nil {
		return false
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}

// addresses returns what is known of a name, dead addresses last; it waits for a
// look-up only when nothing is known, or, with fresh, when what is has expired.
func (ns *names) addresses(ctx context.Context, s string, fresh bool) ([]netip.Addr, error) {
	ns.mu.Lock()
	n := ns.known[s]
	if n == nil {
		n = &name{bad: map[netip.Addr]time.Time{}}
		ns.known[s] = n
	}
	addrs, due := n.ordered(), !time.Now().Before(n.due)
	if due && n.lookup == nil {
		l := &lookup{done: make(chan struct{}), err: ErrClosed}
		if !ns.background.start(func() { ns.run(s, n, l) }) {
			close(l.done)
		}
		n.lookup = l
	}
	l := n.lookup
	ns.mu.Unlock()
	if len(addrs) > 0 && !(fresh && due) {
		return addrs, nil
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if addrs = n.ordered(); len(addrs) > 0 {
		return addrs, nil
	}
	return nil, l.err
}

// run makes one look-up.
func (ns *names) run(s string, n *name, l *lookup) {
	addrs, ttl, err := ns.resolve(s)
	ns.mu.Lock()
	n.lookup = nil
	if err == nil {
		n.addrs = addrs
		n.due = time.Now().Add(min(max(ttl, minTTL), maxTTL))
	} else if len(n.addrs) > 0 {
		n.due = time.Now().Add(minTTL) // go on with what was found before
	}
	ns.mu.Unlock()
	l.err = err
	close(l.done)
}

func (ns *names) resolve(s string) (addrs []netip.Addr, ttl time.Duration, err error) {
	for range resolveTries {
		ctx, cancel := context.WithTimeoutCause(ns.ctx, resolveTimeout, errResolve)
		addrs, ttl, err = ns.resolver(ctx, s)
		cause := context.Cause(ctx)
		cancel()
		if addrs = ns.sorted(addrs); err == nil && len(addrs) == 0 {
			err = &net.DNSError{Err: "it has no address", Name: s, IsNotFound: true}
		}
		var dns *net.DNSError
		if err == nil || ns.ctx.Err() != nil || errors.As(err, &dns) && dns.IsNotFound {
			return addrs, ttl, err
		}
		if cause == errResolve {
			err = &net.DNSError{Err: errResolve.Error(), Name: s, IsTimeout: true}
		}
	}
	return nil, 0, err
}

// sorted puts the preferred family first and takes out what is no address, or
// is there twice.
func (ns *names) sorted(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, six := range []bool{ns.prefer6, !ns.prefer6} {
		for _, a := range addrs {
			if a = a.Unmap(); a.IsValid() && a.Is6() == six && !slices.Contains(out, a) && len(out) < maxAddresses {
				out = append(out, a)
			}
		}
	}
	return out
}

// ordered is the addresses, those that are dead at the end. names.mu is held.
func (n *name) ordered() []netip.Addr {
	out := make([]netip.Addr, 0, len(n.addrs))
	for _, bad := range []bool{false, true} {
		for _, a := range n.addrs {
			if time.Now().Before(n.bad[a]) == bad {
				out = append(out, a)
			}
		}
	}
	return out
}

// fail marks an address as dead for a while, and reports whether the name has
// another that is not.
func (ns *names) fail(s string, a netip.Addr) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.known[s]
	if n == nil || len(n.addrs) < 2 {
		return false
	}
	for old := range n.bad {
		if !slices.Contains(n.addrs, old) {
			delete(n.bad, old)
		}
	}
	n.bad[a] = time.Now().Add(ns.badFor)
	return !time.Now().Before(n.bad[n.ordered()[0]])
}

// addressed is a connection to one of a name's addresses.
type addressed struct {
	net.Conn
	name string
	addr netip.Addr
}

// addressOf finds the addressed below a connection, nil if there is none.
func addressOf(c net.Conn) *addressed {
	if below, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = below.NetConn()
	}
	a, _ := c.(*addressed)
	return a
}

// dialName connects to a name's addresses in turn. ctx has a deadline.
func (c *Client) dialName(ctx context.Context, timeout time.Duration, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !c.names.resolves(host) {
		return c.cfg.Dial(ctx, network, address)
	}
	addrs, err := c.names.addresses(ctx, host, false)
	if err != nil {
		return nil, err
	}
	// A request in a hurry must not run out of time at the first of them.
	share := max(leastShare, min(timeout, hurryTimeout)/time.Duration(len(addrs)))
	var conn net.Conn
	for i, a := range addrs {
		one, cancel := ctx, context.CancelFunc(func() {})
		if i < len(addrs)-1 {
			one, cancel = context.WithTimeoutCause(ctx, share, errConnect)
		}
		conn, err = c.cfg.Dial(one, network, net.JoinHostPort(a.String(), port))
		cancel()
		if err == nil {
			return &addressed{Conn: conn, name: host, addr: a}, nil
		}
		if ctx.Err() != nil && context.Cause(ctx) != errConnect {
			return nil, err // nobody waits any more
		}
		c.names.fail(host, a)
	}
	return nil, err
}
