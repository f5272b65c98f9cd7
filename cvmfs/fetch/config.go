package fetch

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says where a Client gets its objects. The zero value of each field
// means its default; only Servers has none.
type Config struct {
	// Servers are the base URLs, http or https, in the order of preference,
	// with the repository's name already put in; or URLs that have Here where a
	// request's path goes. With none, only requests by URL can be made.
	Servers []string

	// Proxies has the syntax of CVMFS_HTTP_PROXY: groups split by ";" are asked
	// in that order, of the members split by "|" a random one. "auto" (WPAD) is left
	// out, and an error where there is nothing else. Default DIRECT.
	Proxies string
	// FallbackProxies are further groups behind Proxies. When there are any,
	// DIRECT is taken out of both, as in the reference client.
	FallbackProxies string

	// ShardProxies asks for each object the same member of a group as long as
	// it works, so that the members' caches share the work rather than all
	// fetch the same (CVMFS_PROXY_SHARD). Default: one random member for all.
	ShardProxies bool

	// Order is who decides in which order the servers are asked: "fixed", the
	// configuration; "geo", the servers' geo API, or probing where that fails;
	// "probe", probing. Default "fixed". The servers are asked as configured
	// until the order is found, which is done in the background of the first
	// requests and never delays one; it is used for 7 days, and found anew by
	// probing when its first server turns bad.
	Order string
	// MaxServers keeps the first of the servers, in their order. Default 0: all.
	MaxServers int
	// Keep remembers the order from one run to the next. Default: it is found
	// in each run.
	Keep Keep
	// GeoName is what the geo API is asked with. Default the proxy's name; with
	// none, a random one, which makes it go by the connection's address.
	GeoName string

	// Timeout is for requests by proxy, TimeoutDirect for the others: the time
	// to connect, to wait for an answer's head, and to be slower than
	// LowSpeedLimit. Default 5 s and 10 s.
	Timeout, TimeoutDirect time.Duration
	// LowSpeedLimit is the least mean speed in bytes/s. Default 1024; -1: none,
	// but a transfer that stalls for a whole time-out still fails.
	LowSpeedLimit int64

	// MaxRetries is how often one URL is asked again. Default 1; -1: never.
	MaxRetries int
	// BackoffInit bounds the first random pause before asking again; it doubles
	// up to BackoffMax, which bounds Retry-After too. Default 2 s and 10 s.
	BackoffInit, BackoffMax time.Duration
	// HostReset and ProxyReset are the times after which the first server and
	// the first proxy group are asked again. Default 30 min and 5 min.
	HostReset, ProxyReset time.Duration

	// GiveUp is the time after which a request that has met nothing but failures
	// makes no further try; what it waits for its turns does not count. A try that
	// is under way then is not cut short, so that a long transfer is none the worse
	// for it. Default 1 min.
	GiveUp time.Duration

	// MaxInFlight bounds the downloads at one time. Default 16. Four whose
	// Limit is at most 256 KiB count as one, and so do two of at most 2 MiB. A quarter of the room, at least for
	// one, is never taken by prefetch (where it is 1, prefetch may take it), and as
	// much again is for Urgent ones only. The
	// bound halves when a server says 429 or 503 or does not answer in time, and
	// comes back as downloads go well.
	MaxInFlight int
	// MaxRedirects is how many redirects are followed. Default 0: a redirect
	// is a failure, since it is mostly a login page.
	MaxRedirects int

	// UserAgent is sent with each request. Default "cvmfs Fuse neurodeskfs".
	UserAgent string
	// CABundle is a PEM file with authorities that are trusted for https besides
	// the system's. Default none.
	CABundle string

	// Dial opens connections to servers and proxies. Default a net.Dialer's.
	// Its context ends with the time-out and with Close. It gets addresses, and
	// names only where Resolver is nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver looks up the names of servers and proxies. Each address is used,
	// one that fails only after the others; an answer counts for its time to
	// live, at least 60 s, and for longer while no other can be had. Default the
	// system's; none if Dial is set.
	Resolver Resolver
	// PreferIPv6 uses IPv6 addresses before IPv4 ones. Default: after them.
	PreferIPv6 bool
	// Logger gets one line for each fail-over. Default none.
	Logger *slog.Logger
}

// withDefaults fills in what is zero and refuses what makes no sense.
func (cfg Config) withDefaults() (Config, error) {
	if err := cfg.setTimes(); err != nil {
		return cfg, err
	}
	if err := cfg.checkOrder(); err != nil {
		return cfg, err
	}
	if cfg.MaxInFlight < 0 || cfg.MaxRedirects < 0 {
		return cfg, fmt.Errorf("fetch: MaxInFlight is %d, MaxRedirects %d: neither may be negative", cfg.MaxInFlight, cfg.MaxRedirects)
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 16
	}
	switch {
	case cfg.LowSpeedLimit == 0:
		cfg.LowSpeedLimit = 1024
	case cfg.LowSpeedLimit < 0:
		cfg.LowSpeedLimit = 0
	}
	switch {
	case cfg.MaxRetries == 0:
		cfg.MaxRetries = 1
	case cfg.MaxRetries < 0:
		cfg.MaxRetries = 0
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "cvmfs Fuse neurodeskfs"
	}
	if cfg.Dial == nil {
		if cfg.Resolver == nil {
			cfg.Resolver = systemResolver
		}
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// setTimes fills in and checks the durations.
func (cfg *Config) setTimes() error {
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Timeout", &cfg.Timeout, 5 * time.Second},
		{"TimeoutDirect", &cfg.TimeoutDirect, 10 * time.Second},
		{"BackoffInit", &cfg.BackoffInit, 2 * time.Second},
		{"BackoffMax", &cfg.BackoffMax, 10 * time.Second},
		{"HostReset", &cfg.HostReset, 30 * time.Minute},
		{"ProxyReset", &cfg.ProxyReset, 5 * time.Minute},
		{"GiveUp", &cfg.GiveUp, time.Minute},
	} {
		if *d.value < 0 {
			return fmt.Errorf("fetch: %s is %v: write a positive duration, or 0 for %v", d.name, *d.value, d.def)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	return nil
}

// checkOrder fills in and checks how the servers are ordered.
func (cfg *Config) checkOrder() error {
	switch cfg.Order {
	case "":
		cfg.Order = OrderFixed
	case OrderFixed, OrderGeo, OrderProbe:
	default:
		return fmt.Errorf("fetch: Order %q is not known: write \"geo\", \"probe\" or \"fixed\"", cfg.Order)
	}
	if cfg.MaxServers < 0 {
		return fmt.Errorf("fetch: MaxServers is %d: write how many servers to use, or 0 for all", cfg.MaxServers)
	}
	return nil
}

// parseServers turns base URLs into hosts; one named twice counts once.
func parseServers(servers []string) ([]*host, error) {
	var hosts []*host
	seen := map[string]bool{}
	for _, s := range servers {
		u, err := parseURL(s)
		if err != nil {
			return nil, fmt.Errorf("fetch: server %q: %w", s, err)
		}
		if strings.Contains(u.Path, Here) {
			if !seen[s] {
				hosts = append(hosts, templateHost(u, s))
			}
			seen[s] = true
			continue
		}
		if strings.Contains(s, "@") && u.User == nil {
			return nil, fmt.Errorf("fetch: server %q: put the repository's name in place of the @ placeholders", s)
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("fetch: server %q: a server's URL has no query and no fragment; write http://host/cvmfs/REPOSITORY", s)
		}
		u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
		if seen[u.String()] {
			continue
		}
		seen[u.String()] = true
		hosts = append(hosts, &host{base: u, label: u.Redacted()})
	}
	return hosts, nil
}

// parseURL takes http and https URLs that name a host.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; write http://host/path or https://host/path", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("scheme %q is not known; write http://host/path or https://host/path", u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("no host is named; write http://host/path or https://host/path")
	}
	return u, nil
}

// loadCA returns the system's authorities and those of a file, or nil for the
// system's alone.
func loadCA(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("fetch: read CA bundle: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("fetch: CA bundle %s holds no certificate: write a file of PEM blocks (-----BEGIN CERTIFICATE-----)", file)
	}
	return pool, nil
}
