package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// maxHeader bounds the head of an answer, bytes.
const maxHeader = 64 << 10

// Client gets objects. Make one with New and end it with Close.
type Client struct {
	cfg        Config
	pool       *x509.CertPool
	chain      *chain
	order      *order // nil: as configured
	names      *names
	expander   expander
	background background
	slots      *slots
	flights    flights
	ctx        context.Context // ends with Close
	cancel     context.CancelCauseFunc

	requests, bytes, errors, failovers, verifyFailures atomic.Uint64
}

// New checks the configuration and returns a Client; nothing is connected yet.
// The error says which setting is wrong and what to write.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	hosts, err := parseServers(cfg.Servers)
	if err != nil {
		return nil, err
	}
	groups, auto, err := parseProxies(cfg.Proxies, cfg.FallbackProxies)
	if err != nil {
		return nil, err
	}
	if auto {
		cfg.Logger.Warn(`fetch: the proxy "auto" (WPAD) is not supported, and left out`, "proxy", groups[0][0].label)
	}
	pool, err := loadCA(cfg.CABundle)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, pool: pool, chain: newChain(cfg, hosts, groups), slots: newSlots(cfg.MaxInFlight)}
	c.order = newOrder(cfg, c.chain)
	c.flights.running = map[string]*flight{}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.names = &names{resolver: cfg.Resolver, prefer6: cfg.PreferIPv6, badFor: cfg.ProxyReset, ctx: c.ctx, background: &c.background, known: map[string]*name{}}
	c.expander.init()
	for _, g := range groups {
		for _, p := range g {
			if c.named(p) {
				c.expander.named = append(c.expander.named, p)
			}
			p.timeout = cfg.Timeout
			if p.direct() {
				p.timeout = cfg.TimeoutDirect
			}
			p.transport = c.newTransport(p)
		}
	}
	return c, nil
}

// Close cuts off every Get and every Once, waits for the functions that Once
// runs and for the background's, and closes the connections. It must not be called from such a function.
// It may be called more than once.
func (c *Client) Close() {
	c.cancel(ErrClosed)
	c.flights.close()
	c.background.close()
	for _, g := range append(c.chain.allGroups(), c.chain.plan...) {
		for _, p := range g {
			p.transport.CloseIdleConnections()
		}
	}
}

// newTransport makes the connections of one proxy. The proxies named in the
// environment are not looked at.
func (c *Client) newTransport(p *proxy) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.dial(ctx, p, network, address)
		},
		TLSClientConfig:        &tls.Config{RootCAs: c.pool},
		TLSHandshakeTimeout:    p.timeout,
		DisableCompression:     true, // objects are hashed as they are stored
		MaxIdleConns:           0,    // no bound over all hosts
		MaxIdleConnsPerHost:    (c.slots.max + c.slots.aside) / smallWeight,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if p.direct() {
		return t
	}
	t.Proxy = http.ProxyURL(p.url)
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return &failure{reason: "the proxy refused CONNECT: " + status(resp.StatusCode), proxy: true}
	}
	return t
}

// dial opens one connection. The transport goes on dialling when the request
// has gone, so the time-out and Close have to end it here.
func (c *Client) dial(ctx context.Context, p *proxy, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, errConnect)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	if p.addr.IsValid() {
		address = net.JoinHostPort(p.addr.String(), p.url.Port())
	}
	conn, err := c.dialName(ctx, p.timeout, network, address)
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == errConnect {
		err = errConnect // what the watch says, whichever comes first
	}
	return conn, err
}

func status(code int) string {
	if text := http.StatusText(code); text != "" {
		return fmt.Sprintf("status %d %s", code, text)
	}
	return fmt.Sprintf("status %d", code)
}
