package cvmfstest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// A Server serves repositories at http://127.0.0.1:PORT/cvmfs/FQRN/. Asked with
// a full URL, as a proxy is, it serves the same for any host: it can stand for a
// proxy too. Safe for concurrent use.
type Server struct {
	scheme string
	addr   string
	http   *http.Server
	stop   context.CancelFunc // ends what hangs: every request's context
	owned  sync.WaitGroup     // the accept loop and the connections

	mu    sync.Mutex // guards all below
	repos map[string]fs.FS
	rules []*Rule
	stats Stats
	log   []*Request
	clock int           // counts beginnings and ends of requests
	turn  chan struct{} // closed and replaced whenever stats change
}

// NewServer starts a server on a free port of the loopback interface.
func NewServer() (*Server, error) { return newServer(nil) }

// NewTLSServer is NewServer by https, with a certificate for 127.0.0.1 that only
// those trust who have authority, a PEM file's content.
func NewTLSServer() (s *Server, authority []byte, err error) {
	cert, authority, err := selfSigned()
	if err != nil {
		return nil, nil, fmt.Errorf("cvmfstest: make a TLS certificate: %w", err)
	}
	s, err = newServer(&tls.Config{Certificates: []tls.Certificate{cert}})
	return s, authority, err
}

// newServer starts a server, by https if tlsConfig is not nil.
func newServer(tlsConfig *tls.Config) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: listen: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		scheme: "http",
		addr:   l.Addr().String(),
		stop:   stop,
		repos:  make(map[string]fs.FS),
		turn:   make(chan struct{}),
	}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // dropped connections are meant
		ConnState:         s.connState,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	if tlsConfig != nil {
		s.scheme = "https"
		s.http.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1, as Stratum 1s
		l = tls.NewListener(l, tlsConfig)
	}
	s.owned.Go(func() { s.http.Serve(l) })
	return s, nil
}

// connState counts the connections, so that Close can wait for their goroutines.
func (s *Server) connState(_ net.Conn, st http.ConnState) {
	switch st {
	case http.StateNew:
		s.owned.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.owned.Done()
	}
}

// Close ends every answer under way and returns when all goroutines have ended.
// It may be called several times.
func (s *Server) Close() error {
	s.stop()
	err := s.http.Close()
	s.owned.Wait()
	return err
}

// Addr is host:port.
func (s *Server) Addr() string { return s.addr }

// URL is the server's URL with the place-holder for the repository's name, as
// clients are configured: http://127.0.0.1:PORT/cvmfs/@fqrn@
func (s *Server) URL() string { return s.scheme + "://" + s.addr + "/cvmfs/@fqrn@" }

// RepositoryURL is the URL of one repository, without a slash at its end.
func (s *Server) RepositoryURL(fqrn string) string {
	return s.scheme + "://" + s.addr + "/cvmfs/" + fqrn
}

// Add serves root as /cvmfs/fqrn/, in place of what was there. Its files must
// seek, as those of os.DirFS and of Store do.
func (s *Server) Add(fqrn string, root fs.FS) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[fqrn] = root
}

// open finds the file of a request.
func (s *Server) open(urlPath string) (fs.File, error) {
	rest, ok := strings.CutPrefix(path.Clean(urlPath), "/cvmfs/")
	fqrn, name, ok2 := strings.Cut(rest, "/")
	s.mu.Lock()
	root := s.repos[fqrn]
	s.mu.Unlock()
	if !ok || !ok2 || root == nil {
		return nil, fs.ErrNotExist
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return f, nil
}

// ServeHTTP answers one request; it is what the listener calls.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec, rules := s.begin(r)
	defer s.end(rec)
	a := &answer{status: http.StatusOK, dropAt: -1, stallAt: -1}
	f, err := s.open(r.URL.Path)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		a.replace(http.StatusMethodNotAllowed, []byte("only GET\n"))
	case errors.Is(err, fs.ErrPermission):
		a.replace(http.StatusForbidden, []byte("forbidden\n"))
	case err != nil: // also a name below a file, or one that the file system cannot have
		a.replace(http.StatusNotFound, []byte("not found\n"))
	default:
		defer f.Close()
		a.content, _ = f.(io.ReadSeeker)
	}
	if f != nil && a.content == nil {
		a.replace(http.StatusInternalServerError, []byte("this file cannot seek\n"))
	}
	for _, rule := range rules {
		for _, e := range rule.effects {
			e(a)
		}
	}
	a.send(r.Context(), &recorder{ResponseWriter: w, server: s, rec: rec}, r)
}
