package cvmfstest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// A Request is one line of a server's log.
type Request struct {
	Method string
	Path   string // with /cvmfs/FQRN
	Host   string // as the client said; another than the server's when it is used as a proxy
	Header http.Header
	Status int   // 0 until the answer begins
	Bytes  int64 // of the answer's body, counted before they are sent

	// Began and Ended order the beginnings and ends of all requests of a server,
	// from 1; Ended is 0 while the request is under way. See Waves and Rounds.
	Began, Ended int
}

// Stats are a server's counters since its start or the last Reset. They are
// never behind what a client has seen, and InFlight leaves a request out before
// its last byte is sent.
type Stats struct {
	Requests    int
	Bytes       int64 // of bodies
	InFlight    int
	MaxInFlight int
}

// begin logs a request and finds the rules that apply, each of which it uses up
// by one.
func (s *Server) begin(r *http.Request) (*Request, []*Rule) {
	rec := &Request{Method: r.Method, Path: r.URL.Path, Host: r.Host, Header: r.Header.Clone()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	rec.Began = s.clock
	s.log = append(s.log, rec)
	s.stats.Requests++
	s.stats.InFlight++
	s.stats.MaxInFlight = max(s.stats.MaxInFlight, s.stats.InFlight)
	var use []*Rule
	for _, rule := range s.rules {
		if (rule.times == 0 || rule.hits < rule.times) && rule.match(r.URL.Path) {
			rule.hits++
			use = append(use, rule)
		}
	}
	s.changed()
	return rec, use
}

// end takes a request out of flight, once.
func (s *Server) end(rec *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec.Ended == 0 {
		s.clock++
		rec.Ended = s.clock
		s.stats.InFlight--
		s.changed()
	}
}

// changed wakes those who Wait; s.mu is held.
func (s *Server) changed() {
	close(s.turn)
	s.turn = make(chan struct{})
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Wait returns when the counters are as want says, or with ctx's error.
func (s *Server) Wait(ctx context.Context, want func(Stats) bool) error {
	for {
		s.mu.Lock()
		st, turn := s.stats, s.turn
		s.mu.Unlock()
		if want(st) {
			return nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return fmt.Errorf("cvmfstest: wait for requests, at %+v: %w", st, ctx.Err())
		}
	}
}

// Requests is the log, in the order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.log))
	for i, r := range s.log {
		all[i] = *r
	}
	return all
}

// Count is how many requests were made for paths that match.
func (s *Server) Count(match Match) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.log {
		if match(r.Path) {
			n++
		}
	}
	return n
}

// Reset empties the log and the counters; what is in flight stays so.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
	s.stats = Stats{InFlight: s.stats.InFlight, MaxInFlight: s.stats.InFlight}
	s.changed()
}

// A Match picks requests by the path of their URL.
type Match func(urlPath string) bool

// All matches every request.
func All(string) bool { return true }

// Path matches paths that contain part, such as "data/ab/cd" or ".cvmfspublished".
func Path(part string) Match {
	return func(p string) bool { return strings.Contains(p, part) }
}

// A recorder counts an answer while it is sent.
type recorder struct {
	http.ResponseWriter
	server *Server
	rec    *Request
	left   int64 // bytes until the answer is complete, -1 if not known
	wrote  bool
}

func (c *recorder) WriteHeader(status int) {
	c.wrote, c.left = true, -1
	if n, err := strconv.ParseInt(c.Header().Get("Content-Length"), 10, 64); err == nil {
		c.left = n
	}
	c.server.mu.Lock()
	c.rec.Status = status
	c.server.mu.Unlock()
	if c.left == 0 || c.rec.Method == http.MethodHead {
		c.server.end(c.rec)
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *recorder) Write(b []byte) (int, error) {
	if !c.wrote {
		c.WriteHeader(http.StatusOK)
	}
	s := c.server
	s.mu.Lock()
	c.rec.Bytes += int64(len(b))
	s.stats.Bytes += int64(len(b))
	s.changed()
	s.mu.Unlock()
	if c.left -= int64(len(b)); c.left == 0 {
		s.end(c.rec)
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController flush.
func (c *recorder) Unwrap() http.ResponseWriter { return c.ResponseWriter }
