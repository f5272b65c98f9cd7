package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// The table of this file goes through the real daemon. Shown elsewhere, and not
// again here: what is wrong on every server (TestGoldenNegatives,
// TestMountWithoutAServer), but for objects; an older revision that is offered
// (TestGoldenRefresh, TestMountStaysAtTheNewestRevision); squid that dies in
// mid-download (TestNetworkSquidKilled); a start without any server, and that
// status says so (TestMountOffline).
const faultFQRN = "fault.example.org"

// What a fault is about.
const (
	everything  = "/cvmfs/"
	manifest    = ".cvmfspublished"
	whitelist   = ".cvmfswhitelist"
	certificate = "the certificate"
	rootCatalog = "the root catalog"
	content     = "the object"
)

type effects = []cvmfstest.Effect

// faulty is one row: what the first server does wrong, or both, and all that
// follows from it.
type faulty struct {
	name    string
	part    string  // what the fault is about; of the content it comes after the mount, else before
	a, b    effects // what the servers do, until it is lifted; nil: the whitelist that has expired
	once    bool    // each to one request only
	setUp   func(t *testing.T, w *faultSite, s *setup)
	slow    bool          // waits for a time-out
	proxy   bool          // a and b are proxies
	errno   syscall.Errno // of the read, until it is lifted
	says    string        // in the one line of the log
	asked   [2]int        // of a and b, for the part
	refused uint64        // bodies that failed verification
	maybe   uint64        // that may have failed besides, side by side with the first
}

var never = make(chan struct{}) // what hangs on it hangs until the client goes

var faults = []faulty{
	{name: "down", part: everything, slow: true, setUp: silentHost, says: "connecting took too long"},
	{name: "refused", part: everything, setUp: func(_ *testing.T, w *faultSite, _ *setup) { w.a.Close() }, says: "connection refused"},
	{name: "DNS gone", part: everything, setUp: namelessHost, says: "no such host"},
	{name: "hangs at the mount", part: manifest, slow: true, a: effects{cvmfstest.Hang(never)}, says: "no answer in time", asked: [2]int{1, 1}},
	{name: "hangs", part: content, slow: true, a: effects{cvmfstest.Hang(never)}, says: "no answer in time", asked: [2]int{2, 1}},
	{name: "stalls", part: content, slow: true, a: effects{cvmfstest.Stall(1000, never)}, says: "the transfer stalled, after 1000 bytes", asked: [2]int{2, 1}},
	{name: "slow", part: content, slow: true, a: effects{cvmfstest.Rate(500)}, says: "slower than the low-speed limit", asked: [2]int{2, 1}},
	{name: "404", part: content, a: effects{cvmfstest.Status(404)}, says: "status 404", asked: [2]int{1, 1}},
	{name: "404 of the catalog", part: rootCatalog, a: effects{cvmfstest.Status(404)}, says: "status 404", asked: [2]int{1, 1}},
	{name: "500", part: content, a: effects{cvmfstest.Status(500)}, says: "status 500", asked: [2]int{1, 1}},
	{name: "500 of the manifest", part: manifest, a: effects{cvmfstest.Status(500)}, says: "status 500", asked: [2]int{1, 1}},
	{name: "Retry-After in an hour", part: content, a: effects{cvmfstest.Status(503), cvmfstest.Header("Retry-After", "3600")}, says: "status 503", asked: [2]int{1, 1}},
	{name: "Retry-After in a second, everywhere", part: content, once: true,
		a: effects{cvmfstest.Status(503), cvmfstest.Header("Retry-After", "1")}, b: effects{cvmfstest.Status(503), cvmfstest.Header("Retry-After", "1")},
		says: "status 503", asked: [2]int{1, 2}},
	{name: "truncated", part: content, a: effects{cvmfstest.Truncate(100)}, says: "has hash", asked: [2]int{2, 1}, refused: 2},
	{name: "breaks off", part: content, a: effects{cvmfstest.Drop(100)}, says: "ended early, after 100 bytes", asked: [2]int{2, 1}, refused: 2},
	{name: "truncated manifest", part: manifest, a: effects{cvmfstest.Truncate(100)}, says: "manifest", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the manifest", part: manifest, a: effects{cvmfstest.FlipBit(3)}, says: "manifest", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the signature", part: manifest, a: effects{cvmfstest.FlipBit(-1)}, says: "signature", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the whitelist", part: whitelist, a: effects{cvmfstest.FlipBit(3)}, says: "whitelist", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the certificate", part: certificate, a: effects{cvmfstest.FlipBit(77)}, says: "object", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the catalog", part: rootCatalog, a: effects{cvmfstest.FlipBit(77)}, says: "object", asked: [2]int{2, 1}, refused: 2},
	{name: "flipped bit in the object", part: content, a: effects{cvmfstest.FlipBit(77)}, says: "has hash", asked: [2]int{2, 1}, refused: 2},
	{name: "expired whitelist", part: whitelist, a: effects{nil}, says: "expired", asked: [2]int{2, 1}, refused: 2},
	{name: "one of three garbles everything", part: everything, a: effects{cvmfstest.FlipBit(9)}, setUp: thirdHost, says: "cvmfs", refused: 2, maybe: 2},
	{name: "one of three truncates everything", part: everything, a: effects{cvmfstest.Truncate(9)}, setUp: thirdHost, says: "cvmfs", refused: 2, maybe: 2},
	{name: "captive portal", part: content, a: effects{cvmfstest.Portal()}, says: "captive portal", asked: [2]int{2, 1}, refused: 2},
	{name: "captive portal at the mount", part: manifest, a: effects{cvmfstest.Portal()}, says: "captive portal", asked: [2]int{2, 1}, refused: 2},
	{name: "proxy dies in mid-download", part: content, proxy: true, a: effects{cvmfstest.Drop(1000)}, says: "ended early, after 1000 bytes", asked: [2]int{2, 1}, refused: 2},
	{name: "proxy is a portal", part: manifest, proxy: true, a: effects{cvmfstest.Portal()}, says: "captive portal", asked: [2]int{2, 1}, refused: 2},

	{name: "another object", part: content, a: effects{cvmfstest.Replace([]byte("x\x9cK\xcf\xcfOI\xe5\x02"))}, says: "has hash", asked: [2]int{2, 1}, refused: 2},
	{name: "longer than it can be", part: content, a: effects{cvmfstest.Append(make([]byte, 1<<20))}, says: "longer than expected", asked: [2]int{2, 1}, refused: 2},
	{name: "redirect to a login page", part: content, a: effects{cvmfstest.Status(302), cvmfstest.Header("Location", "http://login.example.org/")}, says: "status 302", asked: [2]int{1, 1}},
	{name: "429", part: content, a: effects{cvmfstest.Status(429)}, says: "status 429", asked: [2]int{2, 1}},
	{name: "proxy garbles", part: content, proxy: true, a: effects{cvmfstest.FlipBit(77)}, says: "has hash", asked: [2]int{2, 1}, refused: 2},
	{name: "proxy refuses", part: content, proxy: true, a: effects{cvmfstest.Status(403)}, says: "status 403", asked: [2]int{1, 1}},

	{name: "hangs everywhere", part: content, slow: true, a: effects{cvmfstest.Hang(never)}, b: effects{cvmfstest.Hang(never)}, errno: unix.EIO, says: "no answer in time"},
	{name: "404 everywhere", part: content, a: effects{cvmfstest.Status(404)}, b: effects{cvmfstest.Status(404)}, errno: unix.EIO, says: "status 404"},
	{name: "500 everywhere", part: content, a: effects{cvmfstest.Status(500)}, b: effects{cvmfstest.Status(500)}, errno: unix.EIO, says: "status 500"},
	{name: "flipped bit everywhere", part: content, a: effects{cvmfstest.FlipBit(77)}, b: effects{cvmfstest.FlipBit(78)}, errno: unix.EIO, says: "has hash", refused: 4, maybe: 8},
	{name: "captive portal everywhere", part: content, a: effects{cvmfstest.Portal()}, b: effects{cvmfstest.Portal()}, errno: unix.EIO, says: "captive portal", refused: 4, maybe: 8},
}

// faultRepository is what all rows read; its keys are slow to make.
var faultRepository = sync.OnceValues(func() (*faultyRepo, error) {
	r := &faultyRepo{content: pattern(3, 50_000)}
	tree := cvmfstest.NewTree()
	tree.File("object", r.content, 0o644)
	var err error
	if r.Repository, err = cvmfstest.New(cvmfstest.Options{FQRN: faultFQRN}); err != nil {
		return nil, err
	}
	rev, err := r.Publish(context.Background(), tree)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	r.expired, err = r.Keys.Whitelist(faultFQRN, hash.SHA1, r.Certificate, now.Add(-48*time.Hour), now.Add(-24*time.Hour))
	if err != nil {
		return nil, err
	}
	r.paths = map[string]string{rootCatalog: rev.Objects("")[0], content: rev.Objects("object")[0]}
	for line := range strings.Lines(string(rev.Manifest)) {
		if hex, ok := strings.CutPrefix(strings.TrimSpace(line), "X"); ok {
			r.paths[certificate] = "data/" + hex[:2] + "/" + hex[2:]
		}
	}
	return r, nil
})

type faultyRepo struct {
	*cvmfstest.Repository
	content []byte
	expired []byte            // a whitelist
	paths   map[string]string // by what a fault is about
}

// faultSite is the repository on servers a and b.
type faultSite struct {
	*faultyRepo
	a, b  *stratum
	src   source
	named string // the first server, as the log names it
}

func newFaultSite(t *testing.T, proxy bool) *faultSite {
	t.Helper()
	repo, err := faultRepository()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := repo.Keys.MasterPEM()
	if err != nil {
		t.Fatal(err)
	}
	w := &faultSite{faultyRepo: repo, a: newStratum(t), b: newStratum(t)}
	w.a.Add(faultFQRN, repo.Store)
	w.b.Add(faultFQRN, repo.Store)
	w.src = source{FQRN: faultFQRN, Servers: []string{w.a.URL(), w.b.URL()}, Layout: "none", Keys: filepath.Join(shortDir(t), "key.pub")}
	if proxy {
		w.src.Servers = []string{"http://127.0.0.1:1/cvmfs/@fqrn@"} // the proxies answer for it
		w.src.Proxies = "http://" + w.a.Addr() + ";http://" + w.b.Addr()
	}
	w.named = w.a.Addr()
	if err := os.WriteFile(w.src.Keys, pem, 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// silentHost puts a server first to which connections are never made, as to a
// host that is switched off: its queue is full.
func silentHost(t *testing.T, w *faultSite, s *setup) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		t.Cleanup(func() { unix.Close(fd) })
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	w.named = fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
	s.Sources[0].Servers[0] = "http://" + w.named + "/cvmfs/@fqrn@"
}

// namelessHost puts a server first whose name cannot be looked up: no label has 64
// characters, so that no name server is asked either.
func namelessHost(_ *testing.T, w *faultSite, s *setup) {
	w.named = strings.Repeat("n", 64) + ".invalid"
	s.Sources[0].Servers[0] = "http://" + w.named + "/cvmfs/@fqrn@"
}

func thirdHost(t *testing.T, w *faultSite, s *setup) {
	c := newStratum(t)
	c.Add(faultFQRN, w.Store)
	s.Sources[0].Servers = append(s.Sources[0].Servers, c.URL())
}

// TestFaults: for each fault what the user sees, what is logged once, who was
// asked, that nothing wrong is in the cache, and that all is well when it is over.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newFaultSite(t, f.proxy)
			s := setup{Sources: []source{w.src}}
			if f.setUp != nil {
				f.setUp(t, w, &s)
			}
			if f.slow {
				s.Sources[0].Timeout = "1s"
			}
			var rules []*cvmfstest.Rule
			inject := func() {
				w.a.Reset()
				w.b.Reset()
				rules = f.inject(w)
			}
			if f.part != content {
				inject()
			}
			m := mount(t, s)
			if f.part == content {
				inject()
			}
			f.check(t, w, m)
			for _, r := range rules {
				r.Remove()
			}
			if b, err := os.ReadFile(m.Raw(faultFQRN, "object")); err != nil || !bytes.Equal(b, w.content) {
				t.Errorf("when it is over: %d bytes, %v", len(b), err)
			}
			w.checkStored(t, m.Cache)
			if r := neurodeskfs(t, "cache", "verify", "--config", m.Config); r.Status != 0 {
				t.Errorf("verify: exit status %d, %s%s", r.Status, r.Stdout, r.Stderr)
			}
		})
	}
}

// path is what a request for the part has in its path.
func (f *faulty) path(w *faultSite) string {
	if p, ok := w.paths[f.part]; ok {
		return p
	}
	return f.part
}

func (f *faulty) inject(w *faultSite) (rules []*cvmfstest.Rule) {
	times := 0
	if f.once {
		times = 1
	}
	for _, on := range []struct {
		*stratum
		effects
	}{{w.a, f.a}, {w.b, f.b}} {
		for i, e := range on.effects {
			if e == nil {
				on.effects[i] = cvmfstest.Replace(w.expired)
			}
		}
		if len(on.effects) > 0 {
			rules = append(rules, on.Inject(cvmfstest.Path(f.path(w)), times, on.effects...))
		}
	}
	return rules
}

func (f *faulty) check(t *testing.T, w *faultSite, m *mounted) {
	t.Helper()
	b, err := os.ReadFile(m.Raw(faultFQRN, "object"))
	switch {
	case f.errno == 0 && (err != nil || !bytes.Equal(b, w.content)):
		t.Errorf("read: %d bytes, %v", len(b), err)
	case f.errno != 0 && (!errors.Is(err, f.errno) || len(b) > 0):
		t.Errorf("read: %d bytes, %v, want %v", len(b), err, f.errno)
	}
	st := m.Status()
	got := st.Sources[0]
	if (st.IOErrors > 0) != (f.errno != 0) || got.Offline || got.Error != "" || got.HTTPErrors == 0 {
		t.Errorf("status %+v", st)
	}
	if got.VerifyFailures < f.refused || got.VerifyFailures > f.refused+f.maybe {
		t.Errorf("%d bodies failed verification, want %d", got.VerifyFailures, f.refused)
	}
	path := cvmfstest.Path(f.path(w))
	asked := [2]int{w.a.Count(path), w.b.Count(path)}
	switch {
	case f.asked != [2]int{} && asked != f.asked:
		t.Errorf("asked %v for %s, want %v", asked, f.part, f.asked)
	case f.part == everything && (asked[0] > 4 || asked[1] < 4): // manifest and whitelist are asked for side by side
		t.Errorf("asked %v, want a server that fails to be left", asked)
	case f.errno != 0 && (asked[0] == 0 || asked[1] == 0):
		t.Errorf("asked %v, want both", asked)
	}
	f.checkLog(t, w, m.Log())
}

// checkLog wants one line about the fault, with who and why: a warning when the
// next server had it right, an error as well when none had.
func (f *faulty) checkLog(t *testing.T, w *faultSite, log string) {
	t.Helper()
	want := map[string]int{"WARN": 1, "ERROR": 0}
	if f.errno != 0 {
		want["ERROR"] = 1
	}
	for level, n := range want {
		var lines []string
		for line := range strings.Lines(log) {
			if strings.Contains(line, "level="+level) {
				lines = append(lines, line)
			}
		}
		if len(lines) != n {
			t.Errorf("%d lines of level %s, want %d", len(lines), level, n)
		}
		for _, line := range lines {
			if !strings.Contains(line, f.says) || !strings.Contains(line, w.named) {
				t.Errorf("logged %swant %q of %s in it", line, f.says, w.named)
			}
		}
	}
}

// checkStored compares every object in the cache with what was published.
func (w *faultSite) checkStored(t *testing.T, cache string) {
	t.Helper()
	n := 0
	top := filepath.Join(cache, "objects")
	err := filepath.WalkDir(top, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		n++
		name := filepath.Join("data", strings.TrimPrefix(p, top))
		want, err := w.published(name)
		if err == nil && !bytes.Equal(got[:max(0, len(got)-trailerSize)], want) {
			err = fmt.Errorf("%s is in the cache with other bytes", name)
		}
		return err
	})
	if err != nil || n < 3 {
		t.Errorf("%d objects in the cache, %v", n, err)
	}
}

// published is the content of an object of the store, whatever its suffix.
func (w *faultSite) published(name string) ([]byte, error) {
	for _, suffix := range []string{"", "C", "X", "H", "M"} {
		f, err := w.Store.Open(name + suffix)
		if err != nil {
			continue
		}
		defer f.Close()
		z, err := zlib.NewReader(f)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	return nil, fmt.Errorf("%s was never published", name)
}
