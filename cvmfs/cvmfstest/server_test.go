package cvmfstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// client is for tests: no idle connection is left behind.
func client(proxy string) *http.Client {
	t := &http.Transport{DisableKeepAlives: true}
	if proxy != "" {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	return &http.Client{Transport: t}
}

// startServer starts a server and checks at the end that it leaves no goroutine.
func startServer(t *testing.T) *Server {
	t.Helper()
	before := runtime.NumGoroutine()
	s, err := NewServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > before {
			b := make([]byte, 1<<16)
			t.Errorf("%d goroutines left, %d before\n%s", n, before, b[:runtime.Stack(b, true)])
		}
	})
	return s
}

func get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	resp, err := client("").Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func mustGet(t *testing.T, url string) []byte {
	t.Helper()
	status, b := get(t, url)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d", url, status)
	}
	return b
}

// body is what the fault tests ask for.
var body = bytes.Repeat([]byte("0123456789abcdef"), 4096)

func serveBody(t *testing.T) (*Server, string) {
	t.Helper()
	s := startServer(t)
	store := NewStore()
	if err := store.WriteFile("data/ab/cd", body); err != nil {
		t.Fatal(err)
	}
	s.Add("r.example.org", store)
	return s, s.RepositoryURL("r.example.org") + "/data/ab/cd"
}

func TestBodyFaults(t *testing.T) {
	s, url := serveBody(t)
	flipped := bytes.Clone(body)
	flipped[len(body)-1] ^= 1
	for _, tc := range []struct {
		name   string
		effect Effect
		status int
		want   []byte
	}{
		{"status", Status(503), 503, []byte("Service Unavailable\n")},
		{"replace", Replace([]byte("other")), 200, []byte("other")},
		{"truncate", Truncate(100), 200, body[:100]},
		{"append", Append([]byte("xyz")), 200, append(bytes.Clone(body), "xyz"...)},
		{"flip", FlipBit(-1), 200, flipped},
		{"flip beyond", FlipBit(len(body)), 200, body},
		{"rate", Rate(100 << 20), 200, body},
		{"delay", Delay(time.Microsecond), 200, body},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rule := s.Inject(Path("/data/ab"), 1, tc.effect)
			if status, got := get(t, url); status != tc.status || !bytes.Equal(got, tc.want) {
				t.Errorf("status %d, %d bytes; want %d, %d", status, len(got), tc.status, len(tc.want))
			}
			if status, got := get(t, url); status != 200 || !bytes.Equal(got, body) {
				t.Errorf("the second answer is changed too: %d, %d bytes", status, len(got))
			}
			if rule.Hits() != 1 {
				t.Errorf("%d hits", rule.Hits())
			}
		})
	}
	store, _ := s.open("/cvmfs/r.example.org/data/ab/cd")
	if b, _ := io.ReadAll(store); !bytes.Equal(b, body) {
		t.Error("a fault changed the store")
	}
}

func TestPortal(t *testing.T) {
	s, url := serveBody(t)
	s.Inject(All, 0, Portal())
	resp, err := client("").Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !bytes.Contains(b, []byte("<html>")) {
		t.Errorf("%v %s", resp.Header, b)
	}
}

func TestDroppedConnections(t *testing.T) {
	s, url := serveBody(t)
	s.Inject(All, 1, Drop(0))
	if _, err := client("").Get(url); err == nil {
		t.Error("an answer came")
	}
	s.Inject(All, 1, Drop(1000))
	resp, err := client("").Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(b, body[:1000]) || resp.ContentLength != int64(len(body)) {
		t.Errorf("%d bytes of %d, %v", len(b), resp.ContentLength, err)
	}
}

func TestStall(t *testing.T) {
	s, url := serveBody(t)
	release := make(chan struct{})
	s.Inject(All, 1, Stall(1000, release))
	resp, err := client("").Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.InFlight != 1 || st.Bytes != 1000 {
		t.Errorf("while it stalls: %+v", st)
	}
	close(release)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(first, rest...), body) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

func TestHangCountsInFlight(t *testing.T) {
	s, url := serveBody(t)
	release := make(chan struct{})
	rule := s.Inject(All, 0, Hang(release))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, err := client("").Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body)
		})
	}
	if err := s.Wait(ctx, func(st Stats) bool { return st.InFlight == 8 }); err != nil {
		t.Error(err)
	}
	rule.Remove()
	get(t, url) // is not held up
	close(release)
	wg.Wait()
	want := Stats{Requests: 9, Bytes: 9 * int64(len(body)), InFlight: 0, MaxInFlight: 9}
	if st := s.Stats(); st != want {
		t.Errorf("counters %+v, want %+v", st, want)
	}
	if n := s.Count(Path("/ab/")); n != 9 {
		t.Errorf("%d requests for the object", n)
	}
	s.Reset()
	if st := s.Stats(); st != (Stats{}) || len(s.Requests()) != 0 {
		t.Errorf("after a reset: %+v", st)
	}
}

func TestCloseEndsWhatHangs(t *testing.T) {
	s, url := serveBody(t)
	s.Inject(Path("ab/cd"), 0, Hang(nil))
	failed := make(chan error, 1)
	go func() {
		_, err := client("").Get(url)
		failed <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Wait(ctx, func(st Stats) bool { return st.InFlight == 1 }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := <-failed; err == nil {
		t.Error("an answer came")
	}
	done, stop := context.WithCancel(context.Background())
	stop()
	if err := s.Wait(done, func(Stats) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}

func TestRangesMethodsAndLog(t *testing.T) {
	s, url := serveBody(t)
	ask := func(method, rng, url string) (int, []byte) {
		t.Helper()
		r, _ := http.NewRequest(method, url, nil)
		if rng != "" {
			r.Header.Set("Range", rng)
		}
		resp, err := client("").Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, b
	}
	base := s.RepositoryURL("r.example.org")
	for _, tc := range []struct {
		method, rng, url string
		status           int
		want             []byte
	}{
		{"GET", "bytes=10-19", url, 206, body[10:20]},
		{"GET", "bytes=999999-", url, 416, nil},
		{"HEAD", "", url, 200, []byte{}},
		{"POST", "", url, 405, nil},
		{"GET", "", base + "/data/ab", 404, nil},
		{"GET", "", base + "/nothing", 404, nil},
		{"GET", "", base + "/data/ab/cd/x", 404, nil},
		{"GET", "", base + "/data/%ff%00", 404, nil},
		{"GET", "", base + "/../../etc/passwd", 404, nil},
		{"GET", "", "http://" + s.Addr() + "/cvmfs/other.example.org/data/ab/cd", 404, nil},
		{"GET", "", "http://" + s.Addr() + "/", 404, nil},
	} {
		status, b := ask(tc.method, tc.rng, tc.url)
		if status != tc.status || tc.want != nil && !bytes.Equal(b, tc.want) {
			t.Errorf("%s %s %s: status %d, %d bytes", tc.method, tc.url, tc.rng, status, len(b))
		}
	}
	log := s.Requests()
	if len(log) != 11 || log[0].Status != 206 || log[0].Bytes != 10 || log[0].Header.Get("Range") != "bytes=10-19" ||
		log[0].Path != "/cvmfs/r.example.org/data/ab/cd" || log[3].Method != "POST" || log[2].Bytes != 0 {
		t.Errorf("log %+v", log)
	}
	if st := s.Stats(); st.InFlight != 0 || st.MaxInFlight != 1 {
		t.Errorf("counters %+v", st)
	}
}

func TestServesAsAProxy(t *testing.T) {
	s, _ := serveBody(t)
	resp, err := client(s.Addr()).Get("http://stratum1.example.org/cvmfs/r.example.org/data/ab/cd")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if !bytes.Equal(b, body) || s.Requests()[0].Host != "stratum1.example.org" {
		t.Errorf("%d bytes for host %s", len(b), s.Requests()[0].Host)
	}
}

func TestStores(t *testing.T) {
	dir := t.TempDir()
	for name, s := range map[string]*Store{"memory": NewStore(), "directory": NewDirStore(dir)} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if err := s.WriteFile("data/x", fmt.Append(nil, i)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if b := mustOpen(t, s, "data/x"); len(b) != 1 {
				t.Errorf("content %q", b)
			}
			for _, bad := range []string{"", "../x", "/x", "a/../x"} {
				if err := s.WriteFile(bad, nil); err == nil {
					t.Errorf("%q was stored", bad)
				}
			}
			if err := s.Remove("data/x"); err != nil {
				t.Error(err)
			}
			if err := s.Remove("data/x"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("remove again: %v", err)
			}
			if _, err := s.Open("data/x"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("open: %v", err)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
