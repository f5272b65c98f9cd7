package fetch

// Stats is what a Client has done since New, and where it stands.
type Stats struct {
	Requests       uint64 // HTTP requests sent, repeated ones included
	Bytes          uint64 // of bodies received
	Errors         uint64 // requests that failed
	Failovers      uint64 // times a request went on to another server or proxy
	VerifyFailures uint64 // requests whose bytes were refused
	InFlight       int    // downloads now
	OrderedBy      string // who decided the order of Hosts: OrderFixed, OrderGeo, OrderProbe
	Hosts          []HostState
	Proxies        []ProxyState
}

// HostState is one server, in the order in which they are asked.
type HostState struct {
	URL       string // without password
	Current   bool   // is asked first
	Errors    uint64
	LastError string // empty: none so far
}

// ProxyState is one proxy, or one address of a name that has several, in the
// order of the configuration.
type ProxyState struct {
	URL       string // without password, or DIRECT
	Group     int    // from 0
	Current   bool
	Errors    uint64 // failures that were the proxy's; those of DIRECT are the server's
	LastError string
}

// Stats is cheap and safe for concurrent use. Its counters are read one after
// another, so they may differ by what happens meanwhile.
func (c *Client) Stats() Stats {
	s := Stats{
		Requests:       c.requests.Load(),
		Bytes:          c.bytes.Load(),
		Errors:         c.errors.Load(),
		Failovers:      c.failovers.Load(),
		VerifyFailures: c.verifyFailures.Load(),
		InFlight:       c.slots.inFlight(),
	}
	ch := c.chain
	ch.mu.Lock()
	defer ch.mu.Unlock()
	s.OrderedBy = ch.by
	for i, h := range ch.hosts {
		s.Hosts = append(s.Hosts, HostState{URL: h.label, Current: i == ch.host, Errors: h.errors, LastError: h.lastError})
	}
	for _, g := range ch.groups {
		for _, p := range g {
			s.Proxies = append(s.Proxies, ProxyState{URL: p.label, Group: p.group, Current: p == ch.proxy || ch.shard && p.group == ch.proxy.group && !p.down, Errors: p.errors, LastError: p.lastError})
		}
	}
	return s
}
