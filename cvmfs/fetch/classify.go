package fetch

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// classify turns whatever ended an attempt into a failure.
func (t *try) classify(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var u *url.Error
	if errors.As(err, &u) { // it repeats the URL
		err = u.Err
	}
	f = &failure{reason: err.Error(), proxy: !t.proxy.direct(), retry: true, demote: true, network: true}
	f.overload = errors.Is(err, errNoAnswer) || errors.Is(err, errStalled) || errors.Is(err, errSlow)
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.As(err, &cert):
		// A proxy only passes the certificate on.
		f.proxy, f.retry = !t.proxy.direct() && t.proxy.url.Scheme == "https" && !strings.HasPrefix(t.url, "https:"), false
		f.reason += "; set the CA bundle if a private authority signed it"
	case errors.As(err, &dns) && dns.IsNotFound:
		f.retry = false
	}
	return f
}

// refuse returns the failure that an answer's head stands for, nil when its body
// is to be read. The classes are the reference client's.
func (t *try) refuse(resp *http.Response) *failure {
	code := resp.StatusCode
	ranged := t.req.Range
	switch {
	case t.req.Version != nil && (code == http.StatusPartialContent || code == http.StatusOK):
		return nil // versioned looks at it
	case t.req.Version != nil && code == http.StatusRequestedRangeNotSatisfiable && *t.req.Version == Version{} && ranged[0] == 0:
		return t.empty()
	case t.req.Version != nil && (code == http.StatusPreconditionFailed || code == http.StatusRequestedRangeNotSatisfiable):
		return t.changed(status(code)) // the version that was asked for has such a range
	case code == http.StatusPartialContent && ranged != nil:
		want := fmt.Sprintf("bytes %d-%d/", ranged[0], ranged[0]+ranged[1]-1)
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(strings.TrimSpace(got), want) {
			return t.badContent(nil, fmt.Sprintf("asked for the range %q, got %.60q", want, got))
		}
		return nil
	case code == http.StatusOK && ranged != nil && (ranged[0] != 0 || resp.ContentLength > ranged[1]):
		return &failure{reason: "the range asked for was ignored", reached: true}
	case code == http.StatusOK:
		return nil
	}
	f := &failure{reason: status(code), reached: true}
	if after := retryAfter(resp.Header); after > 0 {
		f.reason += fmt.Sprintf(", Retry-After in %s", after.Round(time.Second))
	}
	byProxy := !t.proxy.direct()
	switch {
	case code >= 500:
		f.retry, f.ifLast, f.demote = true, true, true
		f.overload = code == http.StatusServiceUnavailable
		f.after = min(retryAfter(resp.Header), t.c.cfg.BackoffMax)
		f.proxy = byProxy && proxyError(resp.Header)
	case code == http.StatusTooManyRequests:
		after := retryAfter(resp.Header)
		f.retry, f.demote, f.overload = true, true, true
		f.ifLast = after > t.c.cfg.BackoffMax // not to be waited out while others are there
		f.after = min(after, t.c.cfg.BackoffMax)
	case code == http.StatusBadRequest, code == http.StatusNotFound:
		f.proxy = byProxy && proxyError(resp.Header)
		f.notFound = code == http.StatusNotFound && !f.proxy
	default:
		f.proxy = byProxy
		if to := resp.Header.Get("Location"); to != "" {
			f.reason += fmt.Sprintf(" to %.100q, not followed (a login page?)", to)
		}
	}
	if f.proxy {
		f.reached = false
		f.reason += " from the proxy"
		if why := resp.Header.Get("X-Squid-Error"); why != "" {
			f.reason += fmt.Sprintf(" (%.60q)", why)
		}
	}
	return f
}

// proxyError reports whether the proxy marked the answer as its own failure.
func proxyError(h http.Header) bool {
	if h.Get("X-Squid-Error") != "" {
		return true
	}
	for _, v := range h.Values("Proxy-Status") {
		if strings.Contains(strings.ToLower(v), "error=") {
			return true
		}
	}
	return false
}

// bodyFailure is the failure of a body that could not be read to its end. by is
// what Accept made of it.
func (t *try) bodyFailure(by error) *failure {
	err := t.body.err
	switch {
	case errors.Is(err, errTooLong):
		return t.badContent(by, fmt.Sprintf("%v: more than %d bytes", err, t.body.limit))
	case errors.Is(err, errTooShort):
		f := t.badContent(by, fmt.Sprintf("%v, after %d bytes", err, t.body.n))
		// Who cut it off cannot be seen; a dying proxy must not fail all servers.
		f.proxy = !t.proxy.direct()
		return f
	}
	f := t.classify(err)
	f.reached = true
	f.reason = fmt.Sprintf("%s, after %d bytes", f.reason, t.body.n)
	return f
}

// badContent is the failure of an answer with the wrong bytes.
func (t *try) badContent(cause error, reason string) *failure {
	if !errors.Is(cause, ErrContent) {
		cause = fmt.Errorf("%w: %s", ErrContent, reason)
	}
	if t.body.webPage() {
		reason = "answered with a web page, is there a captive portal or login page? (" + reason + ")"
	}
	return &failure{reason: reason, cause: cause, content: true, reached: true}
}
