package fetch

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// proxy is one way to the servers: an HTTP proxy, or none (DIRECT). Each has a
// transport of its own, hence its own idle connections and time-outs.
type proxy struct {
	url       *url.URL // nil: DIRECT
	label     string
	group     int
	timeout   time.Duration
	transport *http.Transport
	addr      netip.Addr // of a member that stands for one address of the name
	rank      int        // 1: of the family that is not preferred
	retired   atomic.Bool

	// Guarded by chain.mu.
	down      bool
	errors    uint64
	lastError string
}

func (p *proxy) direct() bool { return p.url == nil }

const proxyHint = `write "http://host:3128", several as "http://a:3128|http://b:3128;DIRECT", or "DIRECT"`

// parseProxies turns the two proxy settings into groups; each holds at least one
// member. auto: the member "auto" was left out, as where WPAD finds none.
func parseProxies(regular, fallback string) (groups [][]*proxy, auto bool, err error) {
	groups, auto, err = parseGroups(regular)
	if err != nil {
		return nil, false, err
	}
	more, autoToo, err := parseGroups(fallback)
	if err != nil {
		return nil, false, err
	}
	auto = auto || autoToo
	if more = withoutDirect(more); len(more) > 0 {
		groups = append(withoutDirect(groups), more...)
	}
	switch {
	case len(groups) == 0 && auto:
		return nil, false, fmt.Errorf(`fetch: proxy "auto" (WPAD) is not supported, and there is no other; %s`, proxyHint)
	case len(groups) == 0:
		groups = [][]*proxy{{{label: "DIRECT"}}}
	}
	for i, g := range groups {
		for _, p := range g {
			p.group = i
		}
	}
	return groups, auto, nil
}

func parseGroups(s string) (groups [][]*proxy, auto bool, err error) {
	for group := range strings.SplitSeq(s, ";") {
		var members []*proxy
		for member := range strings.SplitSeq(group, "|") {
			if member = strings.TrimSpace(member); member == "" {
				continue
			}
			if strings.EqualFold(member, "auto") {
				auto = true
				continue
			}
			p, err := parseProxy(member)
			if err != nil {
				return nil, false, err
			}
			members = append(members, p)
		}
		if len(members) > 0 {
			groups = append(groups, members)
		}
	}
	return groups, auto, nil
}

func parseProxy(s string) (*proxy, error) {
	if strings.EqualFold(s, "direct") {
		return &proxy{label: "DIRECT"}, nil
	}
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of url.Parse repeats the text, which may hold a password.
		return nil, fmt.Errorf("fetch: a proxy's address cannot be read; %s", proxyHint)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("fetch: proxy %s: scheme %q is not known; %s", u.Redacted(), u.Scheme, proxyHint)
	case u.Hostname() == "" || u.Port() == "":
		// curl and Go disagree on the default port, so it has to be said.
		return nil, fmt.Errorf("fetch: proxy %s names no host and port; %s", u.Redacted(), proxyHint)
	}
	return &proxy{url: &url.URL{Scheme: u.Scheme, Host: u.Host, User: u.User},
		label: (&url.URL{Scheme: u.Scheme, Host: u.Host, User: u.User}).Redacted()}, nil
}

func withoutDirect(groups [][]*proxy) [][]*proxy {
	var out [][]*proxy
	for _, g := range groups {
		var members []*proxy
		for _, p := range g {
			if !p.direct() {
				members = append(members, p)
			}
		}
		if len(members) > 0 {
			out = append(out, members)
		}
	}
	return out
}
