package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// drainSize bounds the bodies of failures that are read, bytes.
const drainSize = 4096

// try is the attempts at one URL by one proxy. It is the transport, the retry
// policy and the back-off of one retryablehttp.Client. Used by one goroutine.
type try struct {
	c         *Client
	req       *Request
	host      *host
	proxy     *proxy
	url       string
	later     bool // the request has failed elsewhere
	lastHost  bool // no other server is left to this request
	lastProxy bool // no other proxy is left for this server
	noCache   bool
	once      bool          // never ask again
	patience  time.Duration // the greatest time-out; 0: as configured
	started   time.Time     // of the last attempt, when it had its slot
	queued    time.Duration // that the attempts have waited for theirs
	conn      net.Conn      // of the last attempt, if it had one
	retries   int
	body      *body
	failure   *failure // of the last attempt
	before    *failure // of the one before it, while the last is under way
	accepted  bool
}

// run asks until Accept has taken the body or asking again is of no use, and
// returns the last failure, or nil: Accept took it, or ctx or the client ended.
func (t *try) run(ctx context.Context) *failure {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return &failure{reason: err.Error(), cause: err, final: true}
	}
	req.Header.Set("User-Agent", t.c.cfg.UserAgent)
	if r := t.req.Range; r != nil {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r[0], r[0]+r[1]-1))
	}
	if v := t.req.Version; v != nil {
		v.condition(req.Header)
	}
	if t.noCache {
		setNoCache(req.Header)
	}
	req.SetResponseHandler(func(resp *http.Response) error { return t.receive(ctx, resp) })
	client := retryablehttp.Client{
		HTTPClient:   &http.Client{Transport: t, CheckRedirect: t.redirect},
		RetryMax:     t.c.cfg.MaxRetries + 1, // one more for bad content; again counts
		CheckRetry:   t.again,
		Backoff:      t.pause,
		PrepareRetry: t.prepare,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	// The policy, again, has classified the error already.
	if _, err = client.Do(req); err != nil && t.failure == nil && ctx.Err() == nil && t.c.ctx.Err() == nil {
		return &failure{reason: err.Error(), cause: err, final: true}
	}
	return t.failure
}

// RoundTrip makes http.RoundTripper of t: one HTTP request, within a slot and
// under watch. It hides the transport's CloseIdleConnections, which
// retryablehttp would call after each failure.
func (t *try) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var promoted chan struct{}
	if f, ok := ctx.Value(flightKey{}).(*flight); ok {
		promoted = f.promoted
	}
	came := time.Now()
	slot, err := t.c.slots.acquire(ctx, t.weight(), t.later || !t.started.IsZero(), promoted)
	t.queued += time.Since(came)
	if err != nil {
		return nil, err
	}
	release := func() { t.release(slot) }
	t.c.requests.Add(1)
	t.started, t.conn = time.Now(), nil
	w := newWatch(ctx, t.timeout())
	w.arm(errConnect)
	traced := httptrace.WithClientTrace(w.ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			t.conn = info.Conn
			w.arm(errNoAnswer)
		},
	})
	resp, err := t.proxy.transport.RoundTrip(req.WithContext(traced))
	w.disarm()
	if err != nil {
		err = w.explain(err)
		w.end()
		release()
		return nil, err
	}
	t.body = &body{
		rc: resp.Body, w: w, closed: release, header: resp.Header,
		count:    func(n int) { t.c.bytes.Add(uint64(n)) },
		minSpeed: t.c.cfg.LowSpeedLimit, want: resp.ContentLength, limit: -1,
	}
	resp.Body = t.body
	return resp, nil
}

// release gives back a slot, and the connection if it leads to an address that
// is gone.
func (t *try) release(slot *ticket) {
	if t.proxy.retired.Load() {
		t.proxy.transport.CloseIdleConnections()
	}
	t.c.slots.release(slot)
}

// weight is what the request takes of the slots.
func (t *try) weight() int {
	if r := t.req.Range; r != nil {
		return weigh(r[1])
	}
	return weigh(t.req.Limit)
}

// hurryTimeout is the time-out of a request with Request.Hurry.
const hurryTimeout = 4 * time.Second

func (t *try) timeout() time.Duration {
	limit := t.proxy.timeout
	if t.req.Hurry && !(t.req.Needed && t.lastHost && t.lastProxy) {
		limit = min(limit, hurryTimeout)
	}
	if t.patience > 0 {
		limit = min(limit, t.patience)
	}
	return limit
}

// receive classifies an answer and gives its body to Accept.
func (t *try) receive(ctx context.Context, resp *http.Response) error {
	defer resp.Body.Close()
	if f := t.refuse(resp); f != nil {
		if resp.ContentLength >= 0 && resp.ContentLength <= drainSize {
			_, _ = io.Copy(io.Discard, resp.Body) // or the connection is lost
		}
		return f
	}
	b := t.body
	if t.req.Limit > 0 {
		b.limit = t.req.Limit
	}
	if r := t.req.Range; r != nil {
		b.want, b.limit = r[1], r[1]
	}
	if t.req.Version != nil {
		length, f := t.versioned(resp)
		if f != nil {
			return f
		}
		b.want, b.limit = length, length
	}
	if b.limit >= 0 && resp.ContentLength > b.limit {
		b.err = errTooLong
		return t.bodyFailure(b.err)
	}
	err := t.req.Accept(ctx, b)
	switch {
	case err == nil:
		t.accepted = true
		t.c.slots.recovered()
		b.finish(resp.ContentLength)
		return nil
	case b.err != nil && b.err != io.EOF:
		return t.bodyFailure(err)
	case errors.Is(err, ErrContent):
		return t.badContent(err, err.Error())
	}
	return &failure{reason: err.Error(), cause: err, final: true}
}

// again is the retry policy. retryablehttp calls it with no error before the
// answer is received, and with the outcome after.
func (t *try) again(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if err == nil {
		t.before, t.failure = t.failure, nil
		return false, nil
	}
	if ctx.Err() != nil || t.c.ctx.Err() != nil {
		t.failure = cmp.Or(t.failure, t.before)
		return false, err // nobody's fault; the failure before it stays
	}
	f := t.classify(err)
	f.reason = oneLine(f.reason)
	t.failure = f
	if f.final {
		return false, f
	}
	t.c.errors.Add(1)
	if f.content {
		t.c.verifyFailures.Add(1)
	}
	t.c.chain.count(t.host, t.proxy, f)
	if f.network {
		t.failAddress()
	}
	if f.overload {
		t.c.slots.overloaded()
	}
	again := false
	switch {
	case t.once:
	case f.content:
		again = !t.noCache
		t.noCache = true
	case t.retries < t.c.cfg.MaxRetries:
		again = f.retry && (!t.req.Hurry || t.lastHost) && (!f.ifLast || t.lastHost && (t.lastProxy || !f.proxy))
		t.retries++
	}
	t.c.cfg.Logger.Debug("fetch: attempt failed", "host", t.host.label, "proxy", t.proxy.label,
		"path", t.req.what(), "reason", f.reason, "again", again)
	return again, f
}

// failAddress passes over the address that the attempt went to, if the name has
// another.
func (t *try) failAddress() {
	if t.conn == nil {
		return // dialling has tried them all
	}
	if a := addressOf(t.conn); a != nil && t.c.names.fail(a.name, a.addr) {
		t.proxy.transport.CloseIdleConnections() // some lead there
	}
}

// pause is the back-off: random, growing, or what the server asked for.
func (t *try) pause(_, _ time.Duration, _ int, _ *http.Response) time.Duration {
	cfg := &t.c.cfg
	switch {
	case t.failure == nil || t.failure.content:
		return 0
	case t.failure.after > 0:
		return t.failure.after
	}
	limit := cfg.BackoffInit
	for i := 1; i < t.retries && limit < cfg.BackoffMax; i++ {
		limit *= 2
	}
	return rand.N(min(limit, cfg.BackoffMax) + 1)
}

// prepare sets the headers of a repeated request.
func (t *try) prepare(req *http.Request) error {
	if t.noCache {
		// The map is still the former request's, which may be being written.
		req.Header = req.Header.Clone()
		setNoCache(req.Header)
	}
	return nil
}

func (t *try) redirect(to *http.Request, via []*http.Request) error {
	if len(via) > t.c.cfg.MaxRedirects || to.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return http.ErrUseLastResponse
	}
	return nil
}

func setNoCache(h http.Header) {
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
}

// retryAfter reads a Retry-After header: seconds or a date. Zero: none.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
