package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const good = "the very bytes"

// stratum is a server or a proxy of which a test counts the requests.
type stratum struct {
	*httptest.Server
	mu      sync.Mutex
	headers []http.Header
	urls    []string
}

// serve starts one on loopback. The handler gets the number of the request, from 1.
func serve(t *testing.T, h func(n int, w http.ResponseWriter, r *http.Request)) *stratum {
	t.Helper()
	s := &stratum{}
	s.Server = httptest.NewServer(s.handler(h))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *stratum) handler(h func(n int, w http.ResponseWriter, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.headers = append(s.headers, r.Header.Clone())
		s.urls = append(s.urls, r.URL.String())
		n := len(s.urls)
		s.mu.Unlock()
		h(n, w, r)
	})
}

func (s *stratum) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.urls)
}

func (s *stratum) header(i int, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers[i].Get(key)
}

// The ways of a server to answer.
type answer = func(n int, w http.ResponseWriter, r *http.Request)

func ok(_ int, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, good) }

func says(code int, header ...string) answer {
	return func(_ int, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func sends(body string) answer {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func truncates(_ int, w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", fmt.Sprint(len(good)))
	io.WriteString(w, good[:4])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// hangs holds the request until the client or the server goes.
func hangs(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func stalls(_ int, w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", fmt.Sprint(len(good)))
	io.WriteString(w, good[:4])
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// refused is the address of a port on which nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// quick returns a configuration with short pauses.
func quick(servers ...string) Config {
	return Config{Servers: servers, BackoffInit: time.Nanosecond, BackoffMax: time.Millisecond}
}

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	before := runtime.NumGoroutine()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if n := c.Stats().InFlight; n != 0 {
			t.Errorf("%d slots are in use at the end", n)
		}
		noMoreGoroutines(t, before)
	})
	return c
}

// noMoreGoroutines fails if none of ours has gone within a while. The servers'
// goroutines, which started after the client, end with its connections.
func noMoreGoroutines(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if runtime.NumGoroutine() <= before {
			return
		}
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines at the start, %d at the end:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

// want returns a request that accepts the good bytes only.
func want(path string) Request {
	return Request{Path: path, Limit: 1 << 20, Accept: func(_ context.Context, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if string(b) != good {
			return fmt.Errorf("hash mismatch: %w", ErrContent)
		}
		return nil
	}}
}

// logged collects log lines.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}

// network is HTTP servers in memory, by host name, for tests in a synctest
// bubble, where time-outs of seconds take none.
type network struct {
	mu     sync.Mutex
	hosts  map[string]*pipes
	dialed map[string]int
}

// pipes is a net.Listener. nil conns: nobody answers a dial.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// add starts a server called name; with no handler, connecting to it hangs.
func (nw *network) add(t *testing.T, name string, h answer) *stratum {
	if nw.hosts == nil {
		nw.hosts, nw.dialed = map[string]*pipes{}, map[string]int{}
	}
	p := &pipes{done: make(chan struct{})}
	nw.hosts[name+":80"] = p
	s := &stratum{}
	if h == nil {
		return s
	}
	p.conns = make(chan net.Conn)
	srv := &http.Server{Handler: s.handler(h)}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(p) }()
	t.Cleanup(func() { srv.Close(); <-served })
	return s
}

func (nw *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	nw.mu.Lock()
	nw.dialed[address]++
	p := nw.hosts[address]
	nw.mu.Unlock()
	if p == nil {
		return nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forward makes a proxy of a server of the network.
func (nw *network) forward(_ int, w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: nw.dial}
	resp, err := tr.RoundTrip(out)
	if err != nil {
		w.Header().Set("X-Squid-Error", "ERR_CONNECT_FAIL 111")
		w.WriteHeader(503)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}
