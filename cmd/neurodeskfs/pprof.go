package main

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"
)

// profiler serves the daemon's profiles; a nil one does nothing.
type profiler struct {
	server *http.Server
	ended  chan error
}

// startProfiler serves /debug/pprof/ of net/http/pprof at addr (IP:PORT) until
// close is called; "" starts none. Whoever can connect can see what the daemon
// does, so nothing but a loopback address is taken. That lets in every user of
// this machine: it is for looking into a problem, not for every day.
func startProfiler(addr string, l *slog.Logger) (*profiler, error) {
	if addr == "" {
		return nil, nil
	}
	if at, err := netip.ParseAddrPort(addr); err != nil || !at.Addr().IsLoopback() {
		return nil, failf(exitUsage, "--pprof %q is no loopback address and port: write --pprof 127.0.0.1:6060", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--pprof %s: %w; write --pprof 127.0.0.1:0 for any free port", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	p := &profiler{
		server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: slogError(l)},
		ended:  make(chan error, 1),
	}
	go func() { p.ended <- p.server.Serve(listener) }()
	l.Info("profiles are served", "url", "http://"+listener.Addr().String()+"/debug/pprof/")
	return p, nil
}

// close breaks off profiles under way.
func (p *profiler) close() error {
	if p == nil {
		return nil
	}
	err := p.server.Close()
	if served := <-p.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// slogError is a logger of the standard library's that writes errors to l.
func slogError(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelError) }
