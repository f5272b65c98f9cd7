package cvmfstest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Rule is a fault that a server has been told to make.
type Rule struct {
	server  *Server
	match   Match
	times   int
	effects []Effect
	hits    int // guarded by server.mu
}

// Inject makes the effects, in this order, on the next times requests that
// match; 0 is all. Where several rules match, all take effect, the oldest first.
func (s *Server) Inject(match Match, times int, effects ...Effect) *Rule {
	r := &Rule{server: s, match: match, times: times, effects: effects}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, r)
	return r
}

// Remove ends the fault. Answers under way keep it.
func (r *Rule) Remove() {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	r.server.rules = slices.DeleteFunc(r.server.rules, func(o *Rule) bool { return o == r })
}

// Hits is how many requests the rule has changed.
func (r *Rule) Hits() int {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	return r.hits
}

// An Effect changes one answer.
type Effect func(*answer)

// An answer is what will be sent, unless effects change it.
type answer struct {
	status  int
	kind    string // Content-Type, if not that of an object
	header  http.Header
	content io.ReadSeeker
	waits   []func(context.Context) // before the first byte
	rate    int                     // bytes a second; 0: no limit
	dropAt  int64                   // the connection breaks after so many bytes of body; -1: never
	stallAt int64                   // wait for release after so many bytes of body; -1: never
	release <-chan struct{}
}

func (a *answer) replace(status int, body []byte) {
	a.status, a.content = status, bytes.NewReader(body)
}

// edit changes the body.
func (a *answer) edit(f func([]byte) []byte) {
	b, err := io.ReadAll(a.content)
	if err != nil {
		a.replace(http.StatusInternalServerError, []byte(err.Error()))
		return
	}
	a.content = bytes.NewReader(f(b))
}

// Status answers with a status code and no object.
func Status(code int) Effect {
	return func(a *answer) { a.replace(code, []byte(http.StatusText(code)+"\n")) }
}

// Header sends a header field, such as Retry-After.
func Header(key, value string) Effect {
	return func(a *answer) {
		if a.header == nil {
			a.header = http.Header{}
		}
		a.header.Set(key, value)
	}
}

// Replace answers with another body, status 200.
func Replace(body []byte) Effect { return func(a *answer) { a.replace(http.StatusOK, body) } }

// Portal answers as the log-in page of a hotel's network does: 200, HTML.
func Portal() Effect {
	return func(a *answer) {
		a.replace(http.StatusOK, []byte("<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>Please accept the terms.</body></html>\n"))
		a.kind = "text/html; charset=utf-8"
	}
}

// Truncate sends the first n bytes of the body (all if there are less) as if
// there were no more: Content-Length agrees.
func Truncate(n int) Effect {
	return func(a *answer) { a.edit(func(b []byte) []byte { return b[:min(n, len(b))] }) }
}

// Append sends more bytes than the body has; Content-Length agrees.
func Append(more []byte) Effect {
	return func(a *answer) { a.edit(func(b []byte) []byte { return append(b, more...) }) }
}

// FlipBit changes the lowest bit of the byte at offset, from the end if offset
// is negative. Bodies that are shorter stay as they are.
func FlipBit(offset int) Effect {
	return func(a *answer) {
		a.edit(func(b []byte) []byte {
			i := offset
			if i < 0 {
				i += len(b)
			}
			if i >= 0 && i < len(b) {
				b[i] ^= 1
			}
			return b
		})
	}
}

// Drop breaks the connection after n bytes of the body, of which Content-Length
// promised all; after 0, before any answer.
func Drop(n int64) Effect { return func(a *answer) { a.dropAt = n } }

// Delay waits before the answer begins.
func Delay(d time.Duration) Effect {
	return func(a *answer) { a.waits = append(a.waits, func(ctx context.Context) { wait(ctx, d) }) }
}

// Hang waits before the answer begins until release is closed, the client goes
// or the server closes.
func Hang(release <-chan struct{}) Effect {
	return func(a *answer) {
		a.waits = append(a.waits, func(ctx context.Context) {
			select {
			case <-release:
			case <-ctx.Done():
			}
		})
	}
}

// Stall sends n bytes of the body and then waits as Hang does.
func Stall(n int64, release <-chan struct{}) Effect {
	return func(a *answer) { a.stallAt, a.release = n, release }
}

// Rate sends so many bytes of the body a second.
func Rate(bytesPerSecond int) Effect { return func(a *answer) { a.rate = bytesPerSecond } }

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// send answers. It panics with http.ErrAbortHandler, which net/http takes as the
// wish to break the connection.
func (a *answer) send(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	for _, f := range a.waits {
		f(ctx)
	}
	if a.dropAt == 0 || ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if a.kind != "" {
		h.Set("Content-Type", a.kind)
	}
	for key, values := range a.header {
		h[key] = values
	}
	if a.dropAt > 0 || a.stallAt >= 0 || a.rate > 0 {
		w = &shaper{ResponseWriter: w, ctx: ctx, answer: a}
	}
	if a.status != http.StatusOK {
		n, _ := a.content.Seek(0, io.SeekEnd)
		a.content.Seek(0, io.SeekStart)
		h.Set("Content-Length", strconv.FormatInt(n, 10))
		w.WriteHeader(a.status)
		if r.Method != http.MethodHead {
			io.Copy(w, a.content)
		}
		return
	}
	h.Set("Cache-Control", "max-age=259200") // as Stratum 1s say, for proxies
	if strings.Contains(r.URL.Path, "/.cvmfs") {
		h.Set("Cache-Control", "max-age=61")
	}
	http.ServeContent(w, r, "", time.Time{}, a.content)
}

// A shaper slows, stalls or breaks off a body.
type shaper struct {
	http.ResponseWriter
	ctx    context.Context
	answer *answer
	sent   int64
}

func (s *shaper) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := s.piece(b[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// piece sends up to the next point at which something is to happen.
func (s *shaper) piece(b []byte) (int, error) {
	a := s.answer
	if s.sent == a.dropAt {
		panic(http.ErrAbortHandler)
	}
	if s.sent == a.stallAt {
		select {
		case <-a.release:
		case <-s.ctx.Done():
		}
		a.stallAt = -1
	}
	if s.ctx.Err() != nil {
		return 0, s.ctx.Err()
	}
	for _, at := range []int64{a.dropAt, a.stallAt} {
		if at > s.sent {
			b = b[:min(int64(len(b)), at-s.sent)]
		}
	}
	if a.rate > 0 {
		b = b[:min(len(b), max(1, a.rate/20))]
		wait(s.ctx, time.Duration(len(b))*time.Second/time.Duration(a.rate))
	}
	n, err := s.ResponseWriter.Write(b)
	s.sent += int64(n)
	http.NewResponseController(s.ResponseWriter).Flush()
	return n, err
}

// Unwrap lets http.ResponseController through.
func (s *shaper) Unwrap() http.ResponseWriter { return s.ResponseWriter }
