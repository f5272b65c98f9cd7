package fetch

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The classes of failure. Every error of Get that is not a context's and not
// Accept's own matches ErrFetch, ErrNotFound, ErrOffline or ErrClosed.
var (
	// ErrContent is what Accept wraps when the bytes it was given are not the
	// ones it wanted: wrong hash, garbled, too short, too long. Get then asks
	// elsewhere. An error of Get matches it when at least one server failed so.
	ErrContent = errors.New("content is not what was asked for")

	// ErrFetch is returned when no server delivered, for mixed reasons.
	ErrFetch = errors.New("no server delivered it")

	// ErrNotFound is returned when every server answered 404.
	ErrNotFound = errors.New("not found on any server")

	// ErrOffline is returned when no server could be reached at all.
	ErrOffline = errors.New("no server could be reached; check the network, and the servers and proxies of the configuration")

	// ErrClosed is returned for everything asked after Close, or cut off by it.
	ErrClosed = errors.New("fetch: the client is closed")
)

// Causes that the watch and the body reader give.
var (
	errConnect  = errors.New("connecting took too long")
	errNoAnswer = errors.New("no answer in time")
	errStalled  = errors.New("the transfer stalled")
	errSlow     = errors.New("the transfer was slower than the low-speed limit")
	errTooLong  = errors.New("the body is longer than expected")
	errTooShort = errors.New("the body ended early")
)

// maxReason bounds one reason in a message, bytes: some of it was written by a
// server.
const maxReason = 300

// failure says why one attempt failed and what is to follow.
type failure struct {
	reason   string        // one line, for messages
	cause    error         // an error of Accept; what Get's error wraps
	proxy    bool          // the proxy is to blame, else the server
	content  bool          // the bytes were wrong
	final    bool          // nothing else is to be tried
	retry    bool          // the same URL may do better
	ifLast   bool          // retry only where nothing else is left
	demote   bool          // the server is to be left at once
	reached  bool          // the server answered
	notFound bool          // the server answered 404
	network  bool          // the connection failed
	overload bool          // the server has too much to do
	after    time.Duration // Retry-After, bounded; 0: not given
}

func (f *failure) Error() string { return f.reason }

// tried is one server by one proxy, and how the last attempt there ended.
type tried struct {
	host   *host
	proxy  *proxy
	reason string
}

// failedEverywhere is the error of a Get that has run out of servers.
type failedEverywhere struct {
	what    string // path or URL
	class   error
	tried   []tried
	content error // the last ErrContent error, or nil
}

// namedAlike is how many tries that ended alike are named; ten servers without a
// network would fill the terminal.
const namedAlike = 2

func (e *failedEverywhere) Error() string {
	var b strings.Builder
	b.WriteString("fetch " + e.what + ": " + e.class.Error())
	sep := ": "
	var ends []string // of reasons, in the order of the tries
	count := map[string]int{}
	for _, t := range e.tried {
		end := t.reason[strings.LastIndex(t.reason, ": ")+1:]
		if count[end]++; count[end] == 1 {
			ends = append(ends, end)
		}
		if count[end] <= namedAlike {
			b.WriteString(sep + place(t.host, t.proxy) + ": " + t.reason)
			sep = "; "
		}
	}
	for _, end := range ends {
		if more := count[end] - namedAlike; more > 0 {
			fmt.Fprintf(&b, "%s%d more: %s", sep, more, strings.TrimSpace(end))
		}
	}
	return b.String()
}

func (e *failedEverywhere) Unwrap() []error {
	if e.content == nil {
		return []error{e.class}
	}
	return []error{e.class, e.content}
}

// place names a server and the way to it.
func place(h *host, p *proxy) string {
	if p.direct() {
		return h.label
	}
	return h.label + " by proxy " + p.label
}

// oneLine makes a reason fit for a log line.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
