package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// shelf is object storage: one file at /x/NAME, a list at /list, and what a
// test does to them.
type shelf struct {
	*httptest.Server
	mu       sync.Mutex // guards all below
	content  []byte
	etag     string
	modified time.Time
	heedless bool // it looks at no condition of a request
	list     string
	fault    func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	log      []string                                          // Range of each request for the file
}

func newShelf(t *testing.T, size int) *shelf {
	t.Helper()
	s := &shelf{content: random(1, size), etag: `"v1"`, list: "a.sif\n"}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	content, etag, modified, list, fault := s.content, s.etag, s.modified, s.list, s.fault
	if s.heedless {
		r.Header.Del("If-Match")
	}
	if r.URL.Path != "/list" {
		s.log = append(s.log, r.Header.Get("Range"))
	}
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	switch {
	case r.URL.Path == "/list":
		fmt.Fprint(w, list)
	case content == nil:
		http.NotFound(w, r)
	default:
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", modified, bytes.NewReader(content))
	}
}

// set changes the shelf.
func (s *shelf) set(change func(*shelf)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// asked is the log since it was asked for last.
func (s *shelf) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

// mapMemo is a Memo in memory.
type mapMemo struct{ sync.Map }

func (m *mapMemo) Get(bucket, key string) ([]byte, bool) {
	v, ok := m.Load(bucket + "\x00" + key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (m *mapMemo) Put(bucket, key string, value []byte) { m.Store(bucket+"\x00"+key, value) }

// daemon is what outlives one run.
type daemon struct {
	store cache.Store
	claim func(context.Context, string) (func(), error)
	memo  *mapMemo
	log   bytes.Buffer
}

func newDaemon() *daemon { return &daemon{store: cache.NewMemory(64 << 20), memo: &mapMemo{}} }

// open makes a bucket of a shelf and its mirrors, as a start of the daemon does.
func (d *daemon) open(t *testing.T, s *shelf, mirrors ...*shelf) *Bucket {
	t.Helper()
	urls := []string{s.URL + "/x/@image@"}
	for _, m := range mirrors {
		urls = append(urls, m.URL+"/y/@image@?signed=1")
	}
	log := slog.New(slog.NewTextHandler(&d.log, nil))
	b, err := New(Options{Name: "shelf", URLs: urls, Index: []string{s.URL + "/list"}, Net: fetch.Config{BackoffInit: time.Nanosecond, BackoffMax: time.Nanosecond, MaxRedirects: 4, Logger: slog.New(slog.DiscardHandler)}, Store: d.store, Claim: d.claim, Memo: d.memo, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func find(t *testing.T, b *Bucket) *Reader {
	t.Helper()
	f, err := b.Find(t.Context(), "a.sif")
	if err != nil {
		t.Fatal(err)
	}
	return b.Open(f)
}

// readAll reads in pieces that do not fit to the blocks.
func readAll(ctx context.Context, r *Reader) ([]byte, error) {
	var all []byte
	p := make([]byte, 700_001)
	for {
		n, err := r.ReadAt(ctx, p, int64(len(all)))
		all = append(all, p[:n]...)
		if n == 0 || err != nil {
			return all, err
		}
	}
}

func TestReadsBlocksOnce(t *testing.T) {
	s := newShelf(t, 3*BlockSize+17)
	b := newDaemon().open(t, s)
	r := find(t, b)
	if log := s.asked(); len(log) != 1 || r.Size() != 3*BlockSize+17 {
		t.Errorf("Find asked %q; %d bytes", log, r.Size())
	}
	var readers sync.WaitGroup
	for range 20 {
		readers.Go(func() {
			if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	readers.Wait()
	log := s.asked()
	if want := fmt.Sprintf("bytes=%d-%d", 3*BlockSize, 3*BlockSize+16); len(log) != 3 || !strings.Contains(strings.Join(log, " "), want) {
		t.Errorf("asked for %q: each of the other blocks once, the last with %s", log, want)
	}
	for _, c := range []struct{ off, size, want int64 }{{-1, 5, 0}, {r.Size(), 5, 0}, {r.Size() - 3, 10, 3}, {BlockSize - 1, 2, 2}, {0, 0, 0}} {
		p := make([]byte, c.size)
		n, err := r.ReadAt(t.Context(), p, c.off)
		if int64(n) != c.want || err != nil || n > 0 && !bytes.Equal(p[:n], s.content[c.off:c.off+int64(n)]) {
			t.Errorf("%d bytes at %d: %d, %v", c.size, c.off, n, err)
		}
	}
	if log := s.asked(); len(log) != 0 {
		t.Errorf("cached blocks were asked for: %q", log)
	}
}

// TestResumes: a new run asks for one byte to see that the file is the same, and
// for the blocks that are not cached.
func TestResumes(t *testing.T) {
	s, d := newShelf(t, 3*BlockSize), newDaemon()
	r := find(t, d.open(t, s))
	if err := r.Warm(t.Context(), BlockSize, 1); err != nil {
		t.Fatal(err)
	}
	s.asked()
	r = find(t, d.open(t, s))
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if log := strings.Join(s.asked(), " "); log != fmt.Sprintf("bytes=0-0 bytes=%d-%d", 2*BlockSize, 3*BlockSize-1) {
		t.Errorf("asked for %s", log)
	}
	s.Close()
	again := d.open(t, s)
	if got, err := readAll(t.Context(), find(t, again)); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("offline: %d bytes, %v", len(got), err)
	}
	if text, err := again.Index(t.Context()); err == nil {
		t.Errorf("a list that was never fetched: %q", text)
	}
}

// TestPrefetch fetches what is missing, once, and tells how far it is; offline
// all can be read then.
func TestPrefetch(t *testing.T) {
	s, d := newShelf(t, 5*BlockSize+1), newDaemon()
	r := find(t, d.open(t, s))
	var last Prefetched
	tell := func(p Prefetched) {
		if p.Blocks != last.Blocks+1 {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}
	want := Prefetched{Blocks: 6, Present: 1, Bytes: 5*BlockSize + 1, Here: BlockSize}
	if done, err := r.Prefetch(t.Context(), tell); err != nil || done != want || last != want || len(s.asked()) != 6 {
		t.Errorf("%+v, told %+v, %v", done, last, err)
	}
	s.Close()
	last, want.Present, want.Here = Prefetched{}, 6, want.Bytes
	r = find(t, d.open(t, s))
	if done, err := r.Prefetch(t.Context(), tell); err != nil || done != want {
		t.Errorf("again, offline: %+v, %v", done, err)
	}
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("offline: %d bytes, %v", len(got), err)
	}
}

// TestChangedMidRead: a reader of the old version gets what is cached, never a
// byte of the new one, and one line is logged.
func TestChangedMidRead(t *testing.T) {
	for name, change := range map[string]func(*shelf){
		"another ETag, the same length":         func(s *shelf) { s.content, s.etag = random(2, 3*BlockSize), `"v2"` },
		"another length":                        func(s *shelf) { s.content, s.etag = random(2, 2*BlockSize), `"v2"` },
		"a server that looks at no condition":   func(s *shelf) { s.content, s.etag, s.heedless = random(2, 3*BlockSize), `"v2"`, true },
		"there, shorter than what is asked for": func(s *shelf) { s.content, s.etag, s.heedless = random(2, BlockSize), `"v2"`, true },
	} {
		t.Run(name, func(t *testing.T) {
			s, d := newShelf(t, 3*BlockSize), newDaemon()
			b := d.open(t, s)
			old, content := find(t, b), s.content
			s.set(change)
			for range 3 {
				p := make([]byte, 10)
				if n, err := old.ReadAt(t.Context(), p, BlockSize+5); n != 0 || !errors.Is(err, ErrChanged) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if n, err := old.ReadAt(t.Context(), p, 5); n != 10 || err != nil || !bytes.Equal(p, content[5:15]) {
					t.Errorf("cached: %d bytes, %v", n, err)
				}
			}
			if n := strings.Count(d.log.String(), "was replaced"); n != 1 {
				t.Errorf("%d lines are logged:\n%s", n, d.log.String())
			}
			select {
			case <-b.Changed():
			default:
				t.Error("nobody is told")
			}
			if changed, err := b.Refresh(t.Context()); err != nil || !changed {
				t.Errorf("refresh: %v, %v", changed, err)
			}
			fresh := find(t, b)
			if fresh.id == old.id {
				t.Error("the new version has the old one's name")
			}
			if got, err := readAll(t.Context(), fresh); err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("the new version: %d bytes, %v", len(got), err)
			}
			if changed, err := b.Refresh(t.Context()); err != nil || changed {
				t.Errorf("refresh of the same: %v, %v", changed, err)
			}
		})
	}
}

// TestJobsFetchABlockOnce: daemons of several jobs that share a cache read a file
// at the same time.
func TestJobsFetchABlockOnce(t *testing.T) {
	s := newShelf(t, 9*BlockSize)
	dir := t.TempDir()
	jobs, memo := make([]*Reader, 4), &mapMemo{}
	slow := func(http.ResponseWriter, *http.Request) bool { time.Sleep(20 * time.Millisecond); return false }
	s.set(func(s *shelf) { s.fault = slow })
	var all sync.WaitGroup
	for i := range jobs {
		disk, err := cache.Open(dir, cache.Options{Joint: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { disk.Close() })
		b := (&daemon{store: disk, claim: disk.Claim, memo: memo}).open(t, s)
		all.Go(func() { jobs[i] = find(t, b) })
	}
	all.Wait()
	first := fmt.Sprintf("bytes=0-%d", BlockSize-1)
	if asked := s.asked(); len(asked) > 4 || slices.Index(asked, first) != 0 || slices.Contains(asked[1:], first) {
		t.Errorf("the first block was asked for in %q", asked)
	}
	for _, r := range jobs {
		all.Go(func() {
			if b, err := readAll(t.Context(), r); err != nil || !bytes.Equal(b, s.content) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	all.Wait()
	if asked := s.asked(); len(asked) != 8 { // the first came with the look for the file
		t.Errorf("%d requests for 8 blocks: %q", len(asked), asked)
	}
}
