// Package delay is a TCP proxy that makes a near server far: whoever connects to
// it sees the server behind it at a round trip of his choice, whatever the client
// is. So all clients of a comparison suffer the same.
//
// Each byte is on its way for half a round trip, in both directions, and what a
// new connection says first is a whole round trip later, as it is after TCP's
// handshake. Bandwidth is not limited, and there is no slow start: up to 16 MiB
// are under way in each direction, beyond that a sender waits.
package delay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	pieceSize = 64 << 10 // bytes read at once
	underWay  = 256      // pieces in each direction
)

// A Proxy forwards connections to one server. Safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	rtt      time.Duration
	done     chan struct{} // closed by Close
	owned    sync.WaitGroup

	mu     sync.Mutex // guards all below
	closed bool
	conns  map[net.Conn]bool
	count  int
}

// New starts a proxy to target (host:port) on a free port of the loopback
// interface. rtt is the round trip time; 0 forwards at once.
func New(target string, rtt time.Duration) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("delay: listen: %w", err)
	}
	p := &Proxy{listener: l, target: target, rtt: rtt, done: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.owned.Go(p.accept)
	return p, nil
}

// Addr is host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Connections is how many connections were accepted so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Close breaks all connections and returns when all goroutines have ended. It
// may be called several times.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.done)
		p.listener.Close()
		for c := range p.conns {
			c.Close()
		}
	}
	p.mu.Unlock()
	p.owned.Wait()
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files
			select {
			case <-p.done:
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		p.owned.Go(func() { p.serve(client, time.Now()) })
	}
}

// own registers a connection so that Close ends it; false after Close.
func (p *Proxy) own(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) release(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// serve forwards one connection, which was accepted at opened.
func (p *Proxy) serve(client net.Conn, opened time.Time) {
	if !p.own(client) {
		return
	}
	defer p.release(client)
	p.mu.Lock()
	p.count++
	p.mu.Unlock()
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.own(server) {
		return // the client sees a connection that breaks
	}
	defer p.release(server)
	var both sync.WaitGroup
	both.Go(func() { p.forward(server, client, opened.Add(p.rtt)) })
	both.Go(func() { p.forward(client, server, opened) })
	both.Wait()
}

// piece is bytes under way, and when they arrive.
type piece struct {
	bytes []byte
	due   time.Time
}

// forward carries what src says to dst, and its end. Nothing leaves before the
// time not.
func (p *Proxy) forward(dst, src net.Conn, not time.Time) {
	way := make(chan piece, underWay)
	var sender sync.WaitGroup
	sender.Go(func() { p.deliver(dst, way) })
	buffer := make([]byte, pieceSize)
	for {
		n, err := src.Read(buffer)
		left := time.Now()
		if left.Before(not) {
			left = not
		}
		if n > 0 {
			way <- piece{append([]byte(nil), buffer[:n]...), left.Add(p.rtt / 2)}
		}
		if err != nil {
			way <- piece{nil, left.Add(p.rtt / 2)} // the end of the stream
			if !errors.Is(err, io.EOF) {
				dst.Close() // a broken one breaks the other side, too
			}
			break
		}
	}
	close(way)
	sender.Wait()
}

// deliver writes each piece at its time. It empties way to the end, so that who
// fills it never hangs.
func (p *Proxy) deliver(dst net.Conn, way <-chan piece) {
	broken := false
	for piece := range way {
		if wait := time.Until(piece.due); wait > 0 && !broken {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-p.done:
				timer.Stop()
				broken = true
			}
		}
		if broken {
			continue
		}
		if piece.bytes == nil {
			if half, ok := dst.(*net.TCPConn); ok {
				half.CloseWrite()
			}
			continue
		}
		if _, err := dst.Write(piece.bytes); err != nil {
			broken = true
		}
	}
}
