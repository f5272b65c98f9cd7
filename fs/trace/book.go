package trace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// Window is how long after its start what is read of an image counts as read by
// the command.
const Window = 2 * time.Minute

// Pauses before the same is asked for again.
const (
	// askAgain is for the site's traces of an image of which none are kept: its
	// server may have been away, or have had none yet.
	askAgain = time.Hour
	// fetchAgain is for a trace of which the cache may have lost a part: what was
	// used so shortly before is the last to go. Where a cache that is too small loses
	// something at all times, each start of an array would look at all of it.
	fetchAgain = 10 * time.Second
)

// saveEarly is when a run's first part is kept, so that a crash does not lose it.
const saveEarly = 10 * time.Second

// maxRuns is how many runs are recorded at a time, of up to 2 MB each: anybody may
// announce starts.
const maxRuns = 64

// bucket is where the book lies in its Keep.
const bucket = "trace"

// ErrUnknown is returned for a command that has no trace.
var ErrUnknown = errors.New("no trace of it")

// Keep is where traces last; it may forget. Safe for concurrent use.
type Keep interface {
	Get(bucket, key string) ([]byte, bool)
	// Put keeps a value; nil removes it.
	Put(bucket, key string, value []byte)
	// Each calls fn for all of a bucket.
	Each(bucket string, fn func(key string, value []byte))
}

// Images tells what is read; *image.Images does.
type Images interface {
	Observe(id string, seen func(cvmfs.Object))
	// Foretold says whether a trace tells what the image is read for.
	Foretold(id string, told bool)
}

// Options make a Book.
type Options struct {
	Keep   Keep
	Images Images
	// Lost counts the objects that the cache has let go of. A start whose trace
	// was fetched already, with none lost since, fetches nothing. Default: none is.
	Lost func() int64
	// Site returns the site's file of traces of an image, nil if it has none.
	// Default: it never has.
	Site   func(ctx context.Context, image string) ([]byte, error)
	Logger *slog.Logger
}

// Book is the traces of a mount. Safe for concurrent use.
type Book struct {
	o Options

	learnt sync.Once // kept is read

	mu      sync.Mutex // guards all below
	runs    map[name]*run
	fetched map[name]fetched     // when each trace was fetched last
	asked   map[string]time.Time // when the site's traces of each image were looked for last
	kept    map[name]keeping     // what Keep has
	text    int64                // sum of kept's sizes
}

// fetched is when a trace was fetched.
type fetched struct {
	lost int64 // Options.Lost
	at   time.Time
}

// name is what a trace goes by.
type name struct{ image, command string }

func (n name) key() string { return n.image + "/" + n.command }

func (t *Trace) name() name { return name{t.Image, t.Command} }

// run is the time after a start in which reads are noted.
type run struct {
	repository string
	fresh      bool          // what is known already counts no more
	end        chan struct{} // closed to end it early

	mu      sync.Mutex // guards all below
	objects []Object
	seen    map[Object]bool
	bytes   int64
	counted bool // in Trace.Runs
}

// New makes a book.
func New(o Options) *Book {
	if o.Lost == nil {
		o.Lost = func() int64 { return 0 }
	}
	return &Book{o: o, runs: map[name]*run{}, fetched: map[name]fetched{}, asked: map[string]time.Time{}, kept: map[name]keeping{}}
}

// Started notes that a command of image, which lies in repo, starts now, and
// fetches in the background what it will need. It waits for nothing.
func (b *Book) Started(repo *cvmfs.Repository, image, command string) {
	n := name{image, command}
	if t := (&Trace{Repository: repo.FQRN(), Image: image, Command: command}); t.check() != nil {
		return
	}
	b.mu.Lock()
	now := b.now()
	before, ok := b.fetched[n]
	there := ok && (before.lost == now.lost || now.at.Sub(before.at) < fetchAgain)
	if !there {
		b.fetched[n] = now
	}
	b.mu.Unlock()
	b.record(repo, n, false)
	if there {
		return
	}
	repo.Background(func(ctx context.Context) {
		if r, err := b.fetch(ctx, repo, n, func(cvmfs.Prefetched, int) {}); errors.Is(err, ErrUnknown) || r.There < r.Objects {
			b.mu.Lock()
			delete(b.fetched, n) // the next start may do better
			b.mu.Unlock()
		}
	})
}

// now is what a trace is marked with that is fetched now.
func (b *Book) now() fetched { return fetched{b.o.Lost(), time.Now()} }

// Forget says that the cache was emptied, so that the next starts fetch again.
func (b *Book) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.fetched)
}

// Record begins anew with the trace of a command: what was known of it counts no
// more. Where it starts within Window, what it then reads is its trace.
func (b *Book) Record(repo *cvmfs.Repository, image, command string) {
	b.record(repo, name{image, command}, true)
}

// record opens the window of a run, if there is none.
func (b *Book) record(repo *cvmfs.Repository, n name, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.runs[n]; old != nil {
		if !fresh {
			return
		}
		close(old.end)
	} else if len(b.runs) >= maxRuns {
		return
	}
	r := &run{repository: repo.FQRN(), fresh: fresh, end: make(chan struct{}), seen: map[Object]bool{}}
	b.runs[n] = r
	b.observe(n.image)
	repo.Background(func(ctx context.Context) {
		early, end := time.NewTimer(saveEarly), time.NewTimer(Window)
		defer early.Stop()
		defer end.Stop()
		for {
			select {
			case <-early.C:
				b.save(n, r)
				continue
			case <-end.C:
			case <-r.end:
				return // another run took its place
			case <-ctx.Done():
			}
			break
		}
		b.mu.Lock()
		delete(b.runs, n)
		b.observe(n.image)
		b.mu.Unlock()
		b.save(n, r)
	})
}

// observe has those runs told that read image now. mu is held.
func (b *Book) observe(image string) {
	var runs []*run
	for n, r := range b.runs {
		if n.image == image {
			runs = append(runs, r)
		}
	}
	if len(runs) == 0 {
		b.o.Images.Observe(image, nil)
		b.o.Images.Foretold(image, false)
		return
	}
	b.o.Images.Observe(image, func(o cvmfs.Object) {
		for _, r := range runs {
			r.add(Object(o))
		}
	})
}

// add notes one object.
func (r *run) add(o Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[o] || len(r.objects) == MaxObjects || r.bytes+o.charge() > MaxBytes {
		return
	}
	r.seen[o] = true
	r.bytes += o.charge()
	r.objects = append(r.objects, o)
}

// save merges what a run saw so far into what is kept.
func (b *Book) save(n name, r *run) {
	r.mu.Lock()
	objects, first := slices.Clone(r.objects), !r.counted
	r.counted = r.counted || len(objects) > 0
	r.mu.Unlock()
	if len(objects) == 0 {
		return // all came from the kernel's caches
	}
	b.learn()
	b.mu.Lock()
	t, ok := b.get(n)
	if !ok || r.fresh && first {
		t = Trace{Repository: r.repository, Image: n.image, Command: n.command}
	}
	if first {
		t.Runs++
	}
	t.Used = time.Now().UTC()
	t.merge(objects)
	b.put(t)
	if !ok {
		b.fetched[n] = b.now() // by the run
	}
	b.mu.Unlock()
}

// Traces returns all traces, those of runs that go on included, by image and command.
func (b *Book) Traces() []Trace {
	b.flush()
	var all []Trace
	b.o.Keep.Each(bucket, func(_ string, text []byte) {
		var t Trace
		if json.Unmarshal(text, &t) == nil && t.check() == nil {
			all = append(all, t)
		}
	})
	slices.SortFunc(all, func(x, y Trace) int {
		return cmp.Or(cmp.Compare(x.Image, y.Image), cmp.Compare(x.Command, y.Command))
	})
	return all
}

// flush saves what runs saw so far.
func (b *Book) flush() {
	b.mu.Lock()
	runs := map[name]*run{}
	for n, r := range b.runs {
		runs[n] = r
	}
	b.mu.Unlock()
	for n, r := range runs {
		b.save(n, r)
	}
}

// Import merges traces into what is kept.
func (b *Book) Import(traces []Trace) error {
	for _, t := range traces {
		if err := t.check(); err != nil {
			return err
		}
	}
	b.learn()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range traces {
		n := t.name()
		if old, ok := b.get(n); ok {
			t = Union([]Trace{old}, []Trace{t})[0]
		}
		t.Used = time.Now().UTC()
		b.put(t)
		delete(b.fetched, n)
	}
	return nil
}
