package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Request is one object to get.
type Request struct {
	// Path is where the object lies below a server's base URL, unescaped, without
	// a leading "/": ".cvmfspublished", "data/ab/cdef...".
	Path string
	// URL, in place of Path, is an absolute address outside the servers
	// (external data). It goes by the same proxies.
	URL string
	// Limit is the greatest length of the body in bytes. 0: none. It also
	// decides how much of Config.MaxInFlight the request takes.
	Limit int64
	// Range asks for a part: offset and length in bytes. The body that Accept
	// gets then has exactly that length.
	Range *[2]int64
	// Version, with Range, is of which version of the file the part has to be;
	// every other is refused, with ErrChanged. If it is zero, Get fills it in: the
	// part may then end where the file does. The server must answer ranges.
	Version *Version
	// NoCache asks caches on the way to ask the server, at the first attempt
	// already.
	NoCache bool
	// Hurry is for the few small requests that a mount waits for: no server may
	// take longer than 4 s to connect, to answer or to stall, and none that fails
	// so is asked twice while another is left. Wrong bytes are asked for once more,
	// past the caches on the way.
	Hurry bool
	// Needed, with Hurry, is for what nothing kept can take the place of: the last
	// server that is left has its usual time, through the last proxy.
	Needed bool
	// Accept reads the body of one attempt to its end and verifies it. It is
	// called anew for each attempt and has to start over. An error that wraps
	// ErrContent means that the bytes are wrong, and the next attempt follows; so
	// it does after a read error, whatever Accept makes of that. Any other error
	// ends Get and is returned as it is. nil: delivered. It runs on the
	// goroutine of Get and must not keep body, whose method Size() int64 tells the
	// length in bytes that the server announced, -1 if it did not.
	Accept func(ctx context.Context, body io.Reader) error
}

// what names the request in messages.
func (r *Request) what() string {
	if r.URL == "" {
		return r.Path
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return "a URL that cannot be read"
	}
	return shown(u)
}

// shown is a URL without what gives access: a password, or the query, in which
// object stores have their signatures.
func shown(u *url.URL) string {
	plain := *u
	if plain.RawQuery != "" {
		plain.RawQuery = "..."
	}
	return plain.Redacted()
}

func (r *Request) check() error {
	switch {
	case (r.Path == "") == (r.URL == ""):
		return errors.New("fetch: a request needs a path or a URL, and not both")
	case strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("fetch: path %q must not begin with a slash", r.Path)
	case r.Accept == nil:
		return fmt.Errorf("fetch: %s: Accept is missing", r.what())
	case r.Range != nil && (r.Range[0] < 0 || r.Range[1] <= 0 || r.Range[0]+r.Range[1] < 0):
		return fmt.Errorf("fetch: %s: range %v makes no sense", r.what(), *r.Range)
	case r.Version != nil && r.Range == nil:
		return fmt.Errorf("fetch: %s: a version without a range", r.what())
	}
	return nil
}

// Get asks the servers in turn until Accept has taken the object. It returns
// Accept's own error, the context's, ErrClosed, or an error that names each server
// and proxy with its reason and matches ErrNotFound, ErrOffline or ErrFetch, and
// ErrContent where verification failed. Safe for concurrent use.
func (c *Client) Get(ctx context.Context, r Request) error {
	if err := r.check(); err != nil {
		return err
	}
	w := &walk{c: c, req: &r, anyVersion: r.Version != nil && *r.Version == Version{}}
	began := time.Now()
	if r.URL != "" {
		u, err := parseURL(r.URL)
		if err != nil {
			return fmt.Errorf("fetch: %s: %w", r.what(), err)
		}
		w.only = &host{base: u, label: shown(u)}
	} else if len(c.chain.all) == 0 {
		return fmt.Errorf("fetch %s: %w: no server is configured; set the source's servers", r.Path, ErrFetch)
	}
	merged, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	defer context.AfterFunc(c.ctx, func() { cancel(ErrClosed) })()

	c.expand(merged)
	c.orderHosts()
	for merged.Err() == nil && c.ctx.Err() == nil { // merged learns of Close a little later
		if len(w.tried) > 0 && time.Since(began) > c.cfg.GiveUp {
			return w.fail()
		}
		t := w.next()
		if t == nil {
			return w.fail()
		}
		f := t.run(merged)
		began = began.Add(t.queued) // to wait for a turn is no failure
		switch {
		case t.accepted:
			c.chain.delivered(t.host, t.proxy, w.hosts, w.suspects)
			return nil
		case f != nil && f.final:
			return f.cause
		case f != nil:
			w.failed(t, f)
		}
	}
	if ctx.Err() != nil {
		return w.interrupted(ctx.Err())
	}
	return ErrClosed
}

// walk is the way of one Get through servers and proxies. Used by one goroutine.
type walk struct {
	c    *Client
	req  *Request
	only *host // of a request by URL

	anyVersion bool // what each server has will do

	// Allocated at the first failure.
	hosts    map[*host]bool  // that failed
	proxies  map[*proxy]bool // that failed for the current server
	suspects map[*proxy]bool // by which content failed verification
	round    int             // suspects at the start of this round

	tried    []tried
	failure  *failure // of the last try, with its place
	at       *try
	asking   *try // the last one handed out
	moved    bool
	notFound bool           // every server said 404
	changed  map[*host]bool // have another version
	reached  bool           // a server answered
	content  error
}

// next returns what to try now, nil when nothing is left.
func (w *walk) next() *try {
	for {
		h, others := w.pickHost()
		if h == nil {
			if !w.anew() {
				return nil
			}
			continue
		}
		p, more := w.c.chain.pickProxy(w.proxies, w.req.what())
		if p == nil {
			w.dropHost(h)
			w.c.chain.resetProxies()
			continue
		}
		t := &try{c: w.c, req: w.req, host: h, proxy: p, later: len(w.tried) > 0, lastHost: !others, lastProxy: !more, noCache: w.req.NoCache}
		t.url = h.base.String()
		if w.only == nil {
			t.url = h.at(w.req.Path)
		}
		if w.anyVersion {
			*w.req.Version = Version{} // that of one that failed binds no other
		}
		if w.failure != nil {
			w.failover(t)
		}
		w.asking = t
		return t
	}
}

func (w *walk) pickHost() (h *host, others bool) {
	if w.only == nil {
		return w.c.chain.pickHost(w.hosts)
	}
	if w.hosts[w.only] {
		return nil, false
	}
	return w.only, false
}

// anew begins again with all servers when some failed verification by a proxy
// and another proxy has not been seen to.
func (w *walk) anew() bool {
	if len(w.suspects) == w.round {
		return false
	}
	w.round = len(w.suspects)
	if p, _ := w.c.chain.pickProxy(w.suspects, w.req.what()); p == nil {
		return false
	}
	clear(w.hosts)
	w.resetProxies()
	return true
}

func (w *walk) dropHost(h *host) {
	w.hosts[h] = true
	w.resetProxies()
}

func (w *walk) resetProxies() {
	clear(w.proxies)
	if w.round > 0 {
		maps.Copy(w.proxies, w.suspects)
	}
}

// failed books a failure and decides what is not asked again.
func (w *walk) failed(t *try, f *failure) {
	if w.hosts == nil {
		w.hosts, w.proxies, w.suspects, w.changed = map[*host]bool{}, map[*proxy]bool{}, map[*proxy]bool{}, map[*host]bool{}
		w.notFound = true
	}
	w.failure, w.at = f, t
	w.tried = append(w.tried, tried{host: t.host, proxy: t.proxy, reason: f.reason})
	w.notFound = w.notFound && f.notFound
	w.reached = w.reached || f.reached
	w.changed[t.host] = errors.Is(f.cause, ErrChanged)
	if f.content && (w.content == nil || !w.changed[t.host]) {
		w.content = f.cause
	}
	if f.content {
		if !t.proxy.direct() && !f.proxy {
			w.suspects[t.proxy] = true
		}
	}
	switch {
	case f.proxy:
		w.moved = w.c.chain.leaveProxy(t.proxy)
		w.proxies[t.proxy] = true
	default:
		left := !f.demote || w.c.chain.leaveHost(t.host)
		w.moved = w.c.chain.suspected(t.host) && left
		w.dropHost(t.host)
	}
}

// failover counts and logs that the request goes on to another place: as a
// warning for the request that made the others go there too.
func (w *walk) failover(to *try) {
	w.c.failovers.Add(1)
	level := slog.LevelDebug
	if w.moved {
		level = slog.LevelWarn
	}
	w.c.cfg.Logger.Log(context.Background(), level, "fetch: going on to the next server or proxy",
		"host", w.at.host.label, "proxy", w.at.proxy.label, "path", w.req.what(), "attempt", len(w.tried),
		"reason", w.failure.reason, "next_host", to.host.label, "next_proxy", to.proxy.label)
}

// fail is the error when nothing is left.
func (w *walk) fail() error {
	e := &failedEverywhere{what: w.req.what(), class: ErrFetch, tried: w.tried, content: w.content}
	if errors.Is(e.content, ErrChanged) && !w.allChanged() {
		e.content = ErrContent
	}
	switch {
	case w.notFound:
		e.class = ErrNotFound
	case !w.reached:
		e.class = ErrOffline
	}
	return e
}

// allChanged reports whether all servers have another version of the file: one
// that does not answer may still have the one that was asked for.
func (w *walk) allChanged() bool {
	hosts := w.c.chain.all
	if w.only != nil {
		hosts = []*host{w.only}
	}
	return !slices.ContainsFunc(hosts, func(h *host) bool { return !w.changed[h] })
}

// interrupted is the error when the caller's context ended: whoever set a
// deadline wants to know what took so long.
func (w *walk) interrupted(err error) error {
	class := err
	if w.asking != nil {
		class = fmt.Errorf("%w, while asking %s", err, place(w.asking.host, w.asking.proxy))
	}
	return &failedEverywhere{what: w.req.what(), class: class, tried: w.tried}
}
