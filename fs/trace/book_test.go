package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

const (
	fqrn = "trace.example.org"
	id   = "0123456789abcdef0123456789abcdef01234567"
)

// memory keeps traces.
type memory struct{ sync.Map }

func (m *memory) Get(bucket, key string) ([]byte, bool) {
	v, ok := m.Load(bucket + "\x00" + key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (m *memory) Put(bucket, key string, value []byte) {
	if value == nil {
		m.Delete(bucket + "\x00" + key)
		return
	}
	m.Store(bucket+"\x00"+key, value)
}

func (m *memory) Each(bucket string, fn func(key string, value []byte)) {
	m.Range(func(k, v any) bool {
		if key, ok := strings.CutPrefix(k.(string), bucket+"\x00"); ok {
			fn(key, v.([]byte))
		}
		return true
	})
}

// readers stands for the images: it hands on what a test reads.
type readers struct {
	mu      sync.Mutex
	seen    map[string]func(cvmfs.Object)
	told    map[string]bool
	fetches int
}

func (r *readers) Observe(id string, seen func(cvmfs.Object)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[id] = seen
}

func (r *readers) Foretold(id string, told bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told[id] = told
	if told {
		r.fetches++
	}
}

func (r *readers) read(objects ...Object) {
	r.mu.Lock()
	seen := r.seen[id]
	r.mu.Unlock()
	for _, o := range objects {
		if seen != nil {
			seen(cvmfs.Object(o))
		}
	}
}

// node is a machine with an empty cache and a book.
type node struct {
	*Book
	repo   *cvmfs.Repository
	images *readers
}

// place is a repository of some files, each an object.
type place struct {
	t       *testing.T
	server  *cvmfstest.Server
	keys    trust.Keys
	objects []Object
}

func newPlace(t *testing.T, files int) *place {
	t.Helper()
	keys, err := cvmfstest.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	repo, err := cvmfstest.New(cvmfstest.Options{FQRN: fqrn, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	tree := cvmfstest.NewTree()
	for i := range files {
		tree.File(fmt.Sprintf("f%d", i), fmt.Appendf(nil, "file %d", i), 0o644)
	}
	rev, err := repo.Publish(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t}
	if p.server, err = cvmfstest.NewServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.server.Close() })
	p.server.Add(fqrn, repo.Store)
	pem, err := keys.MasterPEM()
	if err == nil {
		p.keys, err = trust.ParseKeys(pem)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		path := strings.ReplaceAll(strings.TrimPrefix(rev.Objects(fmt.Sprintf("f%d", i))[0], "data/"), "/", "")
		h, err := hash.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		p.objects = append(p.objects, Object{Hash: h, Size: int64(len(fmt.Sprintf("file %d", i)))})
	}
	return p
}

func (p *place) node(o Options) *node {
	p.t.Helper()
	net, err := fetch.New(fetch.Config{Servers: []string{p.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	repo, err := cvmfs.Open(p.t.Context(), cvmfs.Options{
		FQRN: fqrn, Keys: p.keys, Net: net, Store: cache.NewMemory(64 << 20), Memo: &memory{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(repo.Close)
	n := &node{repo: repo, images: &readers{seen: map[string]func(cvmfs.Object){}, told: map[string]bool{}}}
	o.Keep, o.Images, o.Logger = &memory{}, n.images, slog.New(slog.DiscardHandler)
	n.Book = New(o)
	return n
}

// requests are those for the objects.
func (p *place) requests() (n int) { return len(p.server.Requests()) }

// fetched waits until all objects were asked for.
func (p *place) fetched(n int) {
	p.t.Helper()
	if err := p.server.Wait(p.t.Context(), func(s cvmfstest.Stats) bool { return s.Requests >= n && s.InFlight == 0 }); err != nil {
		p.t.Fatal(err)
	}
}

func TestATraceIsMadeMergedAndTakenElsewhere(t *testing.T) {
	p := newPlace(t, 20)
	first := p.node(Options{})
	first.Started(first.repo, id, "bet")
	first.images.read(p.objects[:12]...)
	first.images.read(p.objects[3:8]...) // again
	first.Started(first.repo, id, "bet")
	first.images.read(p.objects[12:]...)
	list := first.Traces()
	if len(list) != 1 || len(list[0].Objects) != 20 || list[0].Runs != 1 || list[0].Command != "bet" || list[0].Repository != fqrn {
		t.Fatalf("%+v", list)
	}
	for i, o := range list[0].Objects {
		if o != p.objects[i] {
			t.Errorf("object %d is out of order", i)
		}
	}
	first.repo.Close() // its own second start may be fetching still
	second := p.node(Options{})
	if err := second.Import(list); err != nil {
		t.Fatal(err)
	}
	p.server.Reset()
	for range 64 { // all at once, as a job array starts
		second.Started(second.repo, id, "bet")
	}
	p.fetched(20)
	if r, err := second.Replay(t.Context(), second.repo, id, "bet", func(cvmfs.Prefetched, int) {}); err != nil || r.There != 20 || r.Objects != 20 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := p.requests(); n != 20 {
		t.Errorf("%d requests for 20 objects", n)
	}
	second.images.mu.Lock()
	defer second.images.mu.Unlock()
	if !second.images.told[id] {
		t.Error("the images were not told that there is a trace")
	}
}

// TestACacheThatIsTooSmallIsNotLookedAtByEachStart: it loses something at all times,
// but not what a start has used just before.
func TestACacheThatIsTooSmallIsNotLookedAtByEachStart(t *testing.T) {
	p := newPlace(t, 3)
	var lost atomic.Int64
	n := p.node(Options{Lost: func() int64 { return lost.Add(1) }})
	if err := n.Import([]Trace{{Repository: fqrn, Image: id, Command: "bet", Objects: p.objects}}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		n.Started(n.repo, id, "bet")
	}
	n.mu.Lock()
	at := n.fetched[name{id, "bet"}]
	at.at = at.at.Add(-fetchAgain)
	n.fetched[name{id, "bet"}] = at
	n.mu.Unlock()
	n.Started(n.repo, id, "bet")
	n.repo.Close() // waits for them
	if n.images.fetches != 2 {
		t.Errorf("%d fetches, want 2", n.images.fetches)
	}
}

func TestRecordBeginsAnew(t *testing.T) {
	p := newPlace(t, 4)
	n := p.node(Options{})
	n.Started(n.repo, id, "bet")
	n.images.read(p.objects[:3]...)
	if list := n.Traces(); len(list) != 1 || len(list[0].Objects) != 3 {
		t.Fatalf("%+v", list)
	}
	n.Record(n.repo, id, "bet")
	n.images.read(p.objects[3])
	if list := n.Traces(); len(list) != 1 || len(list[0].Objects) != 1 || list[0].Objects[0] != p.objects[3] {
		t.Errorf("%+v", list)
	}
}

// TestAHostileTrace names what is not there: its start goes on, and the requests
// are bounded.
func TestAHostileTrace(t *testing.T) {
	p := newPlace(t, 1)
	n := p.node(Options{})
	bad := Trace{Repository: fqrn, Image: id, Command: "bet"}
	for i := range MaxObjects {
		bad.Objects = append(bad.Objects, numbered(i, 10))
	}
	if err := n.Import([]Trace{bad}); err != nil {
		t.Fatal(err)
	}
	p.server.Reset()
	if r, err := n.Replay(t.Context(), n.repo, id, "bet", func(cvmfs.Prefetched, int) {}); err == nil || r.There != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := p.requests(); got > 400 {
		t.Errorf("%d requests", got)
	}
	bad.Objects = append(bad.Objects, numbered(-1, 1))
	if err := n.Import([]Trace{bad}); !errors.Is(err, ErrFormat) {
		t.Errorf("too many: %v", err)
	}
	n.Started(n.repo, id, "../x") // no name: nothing comes of it
	if _, err := n.Replay(t.Context(), n.repo, id, "fslmaths", func(cvmfs.Prefetched, int) {}); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown command: %v", err)
	}
}

func TestTheSitesTracesAreUsed(t *testing.T) {
	p := newPlace(t, 5)
	asked := 0
	n := p.node(Options{Site: func(_ context.Context, image string) ([]byte, error) {
		asked++
		foreign := Trace{Repository: fqrn, Image: "f" + id[1:], Command: "other", Objects: p.objects}
		return Format([]Trace{{Repository: fqrn, Image: image, Command: "bet", Objects: p.objects}, foreign})
	}})
	for range 2 {
		if r, err := n.Replay(t.Context(), n.repo, id, "bet", func(cvmfs.Prefetched, int) {}); err != nil || r.There != 5 {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := n.Replay(t.Context(), n.repo, id, "unknown", func(cvmfs.Prefetched, int) {}); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	}
	if asked != 1 {
		t.Errorf("the site was asked %d times", asked)
	}
	n.mu.Lock()
	n.asked[id] = n.asked[id].Add(-askAgain - 1)
	n.mu.Unlock()
	if _, err := n.Replay(t.Context(), n.repo, id, "unknown", func(cvmfs.Prefetched, int) {}); !errors.Is(err, ErrUnknown) || asked != 2 {
		t.Errorf("an hour later: %v, asked %d times", err, asked)
	}
	if list := n.Traces(); len(list) != 1 {
		t.Errorf("%d traces, another image's among them", len(list))
	}
	if n.images.told[id] {
		t.Error("nothing runs, yet the images do not guess any more what is read")
	}
}
