package cvmfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
)

// Bounds on objects whose size nobody tells beforehand, and on the slack of a
// compressed body over its content (RFC 1951's stored blocks, RFC 1950's frame).
const (
	maxMetadata  = 64 << 20
	maxCatalog   = 2 << 30
	stretchSlack = 64 << 10
	maxOpen      = 512 // objects kept open, one descriptor each
)

// What is kept open cannot be evicted, so that it may be no more than a part of
// the cache. The newest few stay in any case: an object larger than the quota
// lives only while it is open, and is read piece by piece.
const (
	minOpen       = 4
	openShare     = 8        // of the quota, in all repositories
	maxOpenMemory = 64 << 20 // bytes, while the disk fails and objects are in memory
)

// object says which bytes are wanted and how they are stored.
type object struct {
	hash        hash.Hash
	suffix      hash.Suffix
	compression catalog.Compression
	size        int64  // of the content, bytes; -1: unknown, at most limit
	limit       int64  // only where size is unknown
	guess       int64  // what is said of an unknown size, which may be wrong; 0: nothing
	url         string // external data: the whole URL
	span        *[2]int64
}

// key names the content in the cache. The hash is over the stored bytes, so
// the same hash has another content where the bytes are taken as they are.
func (o object) key() string {
	if o.compression == catalog.None {
		return o.hash.String() + ".raw"
	}
	return o.hash.String()
}

// name is what messages call it.
func (o object) name() string {
	if o.url != "" {
		return o.url
	}
	return o.hash.Path(o.suffix)
}

// flight names the download of o as it is asked for. Who asks in another way, by
// a wrong size or at a wrong place, as a wrong trace does, fails alone.
func (o object) flight() string {
	span := [2]int64{}
	if o.span != nil {
		span = *o.span
	}
	return fmt.Sprint(o.key(), " ", o.name(), " ", o.bound(), " ", span)
}

// expected is the size of the content as it was told, bytes; -1: it was not.
func (o object) expected() int64 {
	if o.size < 0 && o.guess > 0 {
		return o.guess
	}
	return o.size
}

// bound is how long the content may be.
func (o object) bound() int64 {
	if o.size >= 0 {
		return o.size
	}
	return o.limit
}

// counted counts who uses something that a list holds open; the list itself
// counts as one.
type counted struct{ refs atomic.Int64 }

// acquire adds a user, unless the last has already gone.
func (c *counted) acquire() bool {
	for {
		n := c.refs.Load()
		if n == 0 {
			return false
		}
		if c.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// drop takes a user away and reports whether it was the last.
func (c *counted) drop() bool { return c.refs.Add(-1) == 0 }

// handle is an open object that several readers share.
type handle struct {
	*cache.Object
	counted
}

func (h *handle) release() {
	if h.drop() {
		h.Object.Close()
	}
}

// objects fetches, verifies and opens objects.
type objects struct {
	store cache.Store
	claim func(context.Context, string) (func(), error) // Options.Claim
	net   *fetch.Client
	tiers []*tier.Tier // asked before the network
	fill  *tier.Tier   // takes what comes from the network; nil: none does
	open  *lru.Cache[string, *handle]
	alt   atomic.Pointer[hash.Hash]
	quota int64 // of the store, this repository's part, bytes; 0: none

	intake *intake

	mu       sync.Mutex // guards additions to and removals from open, and what follows
	onDisk   int64      // bytes that open holds
	inMemory int64
}

// path is where o lies below the repository's URL, "" for external data. A root
// catalog lies outside data/ when the manifest says so (field A), for access
// control by path.
func (s *objects) path(o object) string {
	if o.url != "" {
		return ""
	}
	if alt := s.alt.Load(); alt != nil && *alt == o.hash && o.suffix == hash.Catalog {
		return ".cvmfsalt-" + o.hash.String() + "C"
	}
	return o.hash.Path(o.suffix)
}

func newObjects(o Options) *objects {
	s := &objects{store: o.Store, claim: o.Claim, net: o.Net, tiers: o.Tiers, fill: o.Fill, quota: o.Quota / int64(o.Sharing), intake: newIntake()}
	open, err := lru.NewWithEvict(descriptors(maxOpen, 4*o.Sharing), func(_ string, h *handle) {
		*s.held(h) -= h.Size()
		h.release()
	})
	if err != nil {
		panic(err) // only for a size below 1
	}
	s.open = open
	return s
}

func (s *objects) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.Purge()
}

// held is the sum that h counts in. mu is held.
func (s *objects) held(h *handle) *int64 {
	if h.Bytes() != nil {
		return &s.inMemory
	}
	return &s.onDisk
}

// get returns the object, fetched if need be. The caller releases it.
func (s *objects) get(ctx context.Context, o object) (*handle, error) {
	observe(ctx, o)
	key := o.key()
	for range 3 { // an object in memory may be gone again before we hold it
		if h, ok := s.opened(key); ok {
			return s.sized(h, o)
		}
		obj, err := s.store.Open(key)
		if err == nil {
			return s.sized(s.hold(key, obj), o)
		}
		if !errors.Is(err, cache.ErrNotCached) {
			return nil, fmt.Errorf("cvmfs: object %s: %w", o.hash, err)
		}
		err = s.net.Once(ctx, o.flight(), func(ctx context.Context) error {
			if h, ok := s.opened(key); ok { // a run ended between our look and this one's start
				h.release()
				return nil
			}
			obj, err := s.bring(ctx, o)
			if err == nil {
				s.hold(key, obj).release()
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cvmfs: object %s: %w", o.name(), err)
		}
	}
	return nil, fmt.Errorf("cvmfs: object %s does not stay in the cache: give the cache more room", o.hash)
}

func (s *objects) opened(key string) (*handle, bool) {
	h, ok := s.open.Get(key)
	return h, ok && h.acquire()
}

// hold puts obj among the open objects and returns it with a reference.
func (s *objects) hold(key string, obj *cache.Object) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.opened(key); ok {
		obj.Close()
		return h
	}
	h := &handle{Object: obj}
	h.refs.Store(2)
	*s.held(h) += h.Size()
	s.open.Add(key, h)
	for s.open.Len() > minOpen && s.tooMuch() {
		s.open.RemoveOldest()
	}
	return h
}

// tooMuch reports whether more is kept open than the cache can spare. mu is held.
func (s *objects) tooMuch() bool {
	return s.quota > 0 && s.onDisk > s.quota/openShare || s.inMemory > maxOpenMemory
}

// sized refuses an object that is not as long as its catalog row says.
func (s *objects) sized(h *handle, o object) (*handle, error) {
	if o.size >= 0 && h.Size() != o.size {
		defer h.release()
		return nil, fmt.Errorf("cvmfs: object %s has %d bytes, its catalog says %d", o.hash, h.Size(), o.size)
	}
	return h, nil
}

// bring fetches one object, or waits while another process does. It is run by
// net.Once, and looks again: the run before may have ended, or the other process,
// since its caller did.
func (s *objects) bring(ctx context.Context, o object) (*cache.Object, error) {
	if s.claim != nil {
		release, err := s.claim(ctx, o.key())
		if err != nil {
			return nil, err
		}
		defer release()
	}
	if obj, err := s.store.Recheck(o.key()); !errors.Is(err, cache.ErrNotCached) {
		return obj, err
	}
	return s.download(ctx, o)
}

// download brings one object into the cache, verified: from a shared tier, else
// from the network.
func (s *objects) download(ctx context.Context, o object) (*cache.Object, error) {
	if obj := s.fromTiers(ctx, o); obj != nil {
		return obj, nil
	}
	var obj *cache.Object
	req := s.request(o)
	req.Accept = func(ctx context.Context, body io.Reader) (err error) {
		if s.fill != nil {
			return s.filling(o, body, func(body io.Reader) error {
				obj, err = s.take(ctx, body, o)
				return err
			})
		}
		obj, err = s.take(ctx, body, o)
		return err
	}
	if err := s.net.Get(o.priority(ctx), req); err != nil {
		return nil, err
	}
	return obj, nil
}

// data tells what is read from what shows which data there are.
func (o object) data() bool { return o.suffix == hash.File || o.suffix == hash.Chunk }

// priority is the context to fetch o with.
func (o object) priority(ctx context.Context) context.Context {
	if o.data() {
		return ctx
	}
	return fetch.Urgent(ctx)
}

// request asks the network for o; Accept is to be set.
func (s *objects) request(o object) fetch.Request {
	return fetch.Request{Path: s.path(o), URL: o.url, Range: o.span, Limit: o.stored()}
}

// stored is how long the stored object may be, bytes.
func (o object) stored() int64 {
	bound := o.bound()
	if n := o.expected(); n >= 0 {
		bound = n
	}
	if o.compression == catalog.None {
		return bound
	}
	return bound + bound/1000 + stretchSlack
}

// take verifies what body brings, to its end, and puts the content into the cache.
func (s *objects) take(ctx context.Context, body io.Reader, o object) (*cache.Object, error) {
	w, err := s.store.Create(o.key(), o.size)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if err := s.intake.accept(ctx, w, body, o); err != nil {
		return nil, err
	}
	return w.Commit()
}
