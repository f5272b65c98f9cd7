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

// parseProxies turns the two proxy settings into groups; each holds at least one
// member.
func parseProxies(regular, fallback string) ([][]*proxy, error) {
	groups, err := parseGroups(regular)
	if err != nil {
		return nil, err
	}
	more, err := parseGroups(fallback)
	if err != nil {
		return nil, err
	}
	if more = withoutDirect(more); len(more) > 0 {
		groups = append(withoutDirect(groups), more...)
	}
	if len(groups) == 0 {
		groups = [][]*proxy{{{label: "DIRECT"}}}
	}
	for i, g := range groups {
		for _, p := range g {
			p.group = i
		}
	}
	return groups, nil
}

func parseGroups(s string) ([][]*proxy, error) {
	var groups [][]*proxy
	for group := range strings.SplitSeq(s, ";") {
		var members []*proxy
		for member := range strings.SplitSeq(group, "|") {
			if member = strings.TrimSpace(member); member == "" {
				continue
			}
			p, err := parseProxy(member)
			if err != nil {
				return nil, err
			}
			members = append(members, p)
		}
		if len(members) > 0 {
			groups = append(groups, members)
		}
	}
	return groups, nil
}

func parseProxy(s string) (*proxy, error) {
	const hint = `write "http://host:3128", several as "http://a:3128|http://b:3128;DIRECT", or "DIRECT"`
	switch strings.ToLower(s) {
	case "direct":
		return &proxy{label: "DIRECT"}, nil
	case "auto":
		return nil, fmt.Errorf(`fetch: proxy "auto" (WPAD) is not supported; %s`, hint)
	}
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of url.Parse repeats the text, which may hold a password.
		return nil, fmt.Errorf("fetch: a proxy's address cannot be read; %s", hint)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("fetch: proxy %s: scheme %q is not known; %s", u.Redacted(), u.Scheme, hint)
	case u.Hostname() == "" || u.Port() == "":
		// curl and Go disagree on the default port, so it has to be said.
		return nil, fmt.Errorf("fetch: proxy %s names no host and port; %s", u.Redacted(), hint)
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
