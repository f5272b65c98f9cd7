package delay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// through starts a web server that answers with the request's body, and a proxy
// to it, both of which are gone when the test ends.
func through(t *testing.T, rtt time.Duration) (*Proxy, *http.Client, string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	p, err := New(server.Listener.Addr().String(), rtt)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		p.Close()
		server.Close()
	})
	return p, &http.Client{Transport: transport}, "http://" + p.Addr() + "/"
}

func post(client *http.Client, url string, body []byte) error {
	answer, err := client.Post(url, "", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if sha256.Sum256(got) != sha256.Sum256(body) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(got), len(body))
	}
	return nil
}

// TestRoundTrips: the first request of a connection takes two round trips, a
// later one takes one. Only what cannot be faster is asserted.
func TestRoundTrips(t *testing.T) {
	const rtt = 40 * time.Millisecond
	p, client, url := through(t, rtt)
	for i, least := range []time.Duration{2 * rtt, rtt, rtt} {
		start := time.Now()
		if err := post(client, url, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < least {
			t.Errorf("request %d took %v, less than %v", i, took, least)
		}
	}
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections, not 1", n)
	}
}

// TestMuchIsUnderWay sends more than one piece in each direction.
func TestMuchIsUnderWay(t *testing.T) {
	for _, rtt := range []time.Duration{0, 20 * time.Millisecond} {
		_, client, url := through(t, rtt)
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				if err := post(client, url, bytes.Repeat([]byte{byte(i), 1, 2}, 1<<18)); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
}

// TestHalfClosed: a client that has said all still hears the answer.
func TestHalfClosed(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	var server sync.WaitGroup
	server.Go(func() {
		c, err := target.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		c.Write(bytes.ToUpper(all))
	})
	defer server.Wait()
	p, err := New(target.Addr().String(), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "all of it")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "ALL OF IT" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestClose ends what is under way.
func TestClose(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	p, err := New(target.Addr().String(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	far, err := target.Accept() // so the proxy serves it
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	p.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the client read %d bytes, %v", n, err)
	}
	if n, err := far.Read(make([]byte, 8)); n != 0 || err == nil {
		t.Errorf("%d bytes reached the server an hour early, %v", n, err)
	}
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("a closed proxy accepts connections")
	}
	p.Close()
}

// TestNoServer: the client of a server that is not there is told.
func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, err := New(l.Addr().String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("read %d, %v", n, err)
	}
}
