package tree

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/launch"
)

const (
	indexWorkers = 64               // images read at once
	retryPause   = 30 * time.Second // before what failed is tried again
)

// img is one image of one source.
type img struct {
	about
	container          container
	source             string // the source's name
	app, version, date string // no date: the version is the build

	former  *seen                     // of a silent image, in the index before
	found   atomic.Pointer[[]Command] // of a silent image, once it was looked into
	refused atomic.Pointer[string]    // why a silent image cannot be used, once that is known

	// guarded by index.mu until ready is closed; info never changes after
	ready   chan struct{} // closed when info is there
	running bool
	err     error // the last failure
	info    Info
}

// shut is why the image, which was read, was refused before it was known by its
// content; "" if it was not.
func (m *img) shut() string {
	if reason := m.refused.Load(); reason != nil && m.info.unusable() {
		return *reason
	}
	return ""
}

// retired reports whether m is known to be retired; index.mu is held or m is known.
func (m *img) retired() bool { return m.known() && m.info.Retired }

// build is the name of the image's directory in that of its app.
func (m *img) build() string { return launch.BuildName(m.version, m.date) }

// index knows which image has which commands. It is built in the background
// and on demand. Safe for concurrent use.
type index struct {
	ctx    context.Context // urgent; ends with the tree, or when a newer index takes over
	stop   context.CancelFunc
	stores []store
	old    *index // the one before, whose images need not be read again
	unseen *seen  // the last that inherit made for an image nobody had asked for
	log    *slog.Logger
	images *image.Images
	memo   Memo
	never  map[string]bool
	pins   pins
	waited bool // for tried: by a refresh, or by all refreshes after a take-over

	patience patience
	retry    time.Duration
	listed   chan struct{}       // closed when the sources were listed
	tried    chan struct{}       // closed when every image was read or has failed once
	all      chan struct{}       // closed when every image is ready
	spawn    func(func()) bool   // runs it beside; false: the tree is closed
	changed  func(apps []string) // called when listings are other than they were: bin's, that of apps, those of apps
	listable func()              // called when a source can be listed that could not be

	mu         sync.Mutex        // guards all below
	byApp      map[string][]*img // newest first
	order      []*img
	partial    map[string]bool       // apps that were listed without the images that failed
	left       int                   // images that are not ready
	owners     map[string]Owner      // of the images that are ready; nil: to be made
	listErr    map[string]error      // by FQRN: sources that could not be listed
	catalogues map[string]*catalogue // by source: those read so far
	step       chan struct{}         // closed and replaced at every progress
}

func newIndex(ctx context.Context, o Options, old *index, spawn func(func()) bool, changed func([]string), listable func()) *index {
	never := o.Never
	if never == nil {
		never = DefaultNever
	}
	var stores []store
	for _, s := range o.Sources {
		if s.Layout != LayoutRaw {
			stores = append(stores, s.store(o.Images))
		}
	}
	ctx, stop := context.WithCancel(fetch.Urgent(ctx))
	return &index{
		ctx: ctx, stop: stop, stores: stores, old: old, waited: old != nil || o.Begin != nil, log: o.Logger, images: o.Images, memo: o.Memo, never: neverSet(never), pins: o.Pins, changed: changed, listable: listable,
		spawn: spawn, patience: usualPatience, retry: retryPause, tried: make(chan struct{}), partial: map[string]bool{},
		listed: make(chan struct{}), all: make(chan struct{}), step: make(chan struct{}),
		byApp: map[string][]*img{}, listErr: map[string]error{},
		catalogues: map[string]*catalogue{},
	}
}

// build lists the sources and reads every image, until it is done or the index
// is closed. An image that fails is tried again. A source that can be listed later
// is for the next index: its place among the others decides what it shadows. Images
// are read behind all that readers wait for, save where something waits for the
// index: it would wait as long as the mount is busy.
func (x *index) build() {
	reading := x.ctx
	if !x.waited {
		reading = fetch.Prefetch(x.ctx)
	}
	var lists sync.WaitGroup
	lists.Go(x.readCatalogues) // beside the listing: both cost the same round trips
	failing := slices.DeleteFunc(slices.Clone(x.stores), x.listOnce)
	x.old = nil // or each would hold all before it, for as long as a source cannot be listed
	lists.Wait()
	close(x.listed)
	for pause := time.Duration(0); ; pause = x.retry {
		select {
		case <-x.ctx.Done():
			return
		case <-time.After(pause):
		}
		if pause > 0 && slices.ContainsFunc(failing, x.lists) {
			x.listable()
		}
		done := x.readAll(reading) && len(failing) == 0
		if x.ctx.Err() != nil {
			return
		}
		if done {
			close(x.all)
		}
		if pause == 0 {
			close(x.tried)
			reading = fetch.Prefetch(x.ctx)
		}
		x.changed(x.takePartial())
		if done {
			return
		}
	}
}

// takePartial returns the apps whose listing may have been incomplete.
func (x *index) takePartial() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	apps := slices.Collect(maps.Keys(x.partial))
	clear(x.partial)
	return apps
}

// lists reports whether a source can be listed now.
func (x *index) lists(s store) bool {
	err := s.list(x.ctx, func(container) {})
	return err == nil || errors.Is(err, iofs.ErrNotExist)
}

// listOnce adds a source's images and reports whether that is all it has.
func (x *index) listOnce(s store) bool {
	err := x.list(s)
	if err != nil {
		x.log.Error("the images of a source cannot be listed", "source", s.name(), "err", err)
		if !errors.Is(err, iofs.ErrNotExist) {
			x.carryOver(s.name())
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.listErr[s.name()] = err
	for _, list := range x.byApp {
		slices.SortFunc(list, func(a, b *img) int {
			return newerFirst(a.version, a.date, b.version, b.date)
		})
	}
	return err == nil || errors.Is(err, iofs.ErrNotExist)
}

// unlisted says which sources could not be listed, if any.
func (x *index) unlisted() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for fqrn, err := range x.listErr {
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", fqrn, err))
		}
	}
	return errors.Join(errs...)
}

// readAll reads what is not read yet and reports whether nothing is left.
func (x *index) readAll(ctx context.Context) bool {
	x.mu.Lock()
	images := slices.Clone(x.order)
	x.mu.Unlock()
	work := make(chan *img)
	var workers sync.WaitGroup
	for range min(indexWorkers, len(images)) {
		workers.Go(func() {
			for m := range work {
				x.await(ctx, m)
			}
		})
	}
	for _, m := range images {
		if m.silent {
			continue // until somebody asks for it
		}
		select {
		case work <- m:
		case <-x.ctx.Done():
		}
	}
	close(work)
	workers.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.left == 0
}

// list finds the images of a source by the names of their containers.
func (x *index) list(s store) error {
	return s.list(x.ctx, func(c container) {
		about := c.about()
		m := &img{about: about, container: c, source: s.name(), app: about.app, version: about.version, ready: make(chan struct{})}
		if m.app == "" {
			var ok bool
			if m.app, m.version, m.date, ok = splitImageName(about.dir); !ok {
				return
			}
		}
		x.add(m)
	})
}

// add adds an image that earlier sources do not have.
func (x *index) add(m *img) {
	x.inherit(m)
	x.mu.Lock()
	defer x.mu.Unlock()
	if slices.ContainsFunc(x.byApp[m.app], func(o *img) bool { return o.build() == m.build() }) {
		return // earlier sources shadow later ones
	}
	x.byApp[m.app] = append(x.byApp[m.app], m)
	x.order = append(x.order, m)
	x.owners = nil // a silent image owns its name unread
	if !m.silent && !m.known() {
		x.left++
	}
}

// carryOver adds what the older index has of a source that cannot be listed now: the
// other sources are not held up by it.
func (x *index) carryOver(source string) {
	if x.old == nil {
		return
	}
	x.old.mu.Lock()
	order := slices.Clone(x.old.order)
	x.old.mu.Unlock()
	for _, o := range order {
		if o.source == source {
			x.add(&img{about: o.about, container: o.container, source: source, app: o.app, version: o.version, date: o.date, ready: make(chan struct{})})
		}
	}
}

// await reads m if need be and waits for it.
func (x *index) await(ctx context.Context, m *img) (*Info, error) {
	x.mu.Lock()
	select {
	case <-m.ready:
		x.mu.Unlock()
		return &m.info, nil
	default:
	}
	x.begin(ctx, m)
	step := x.step
	x.mu.Unlock()
	for {
		select {
		case <-m.ready:
			return &m.info, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-step:
		}
		x.mu.Lock()
		running, err := m.running, m.err
		step = x.step
		x.mu.Unlock()
		if !running && err != nil {
			return nil, err
		}
	}
}

// begin starts to read m if nobody does; index.mu is held. ctx says whether
// somebody waits for it.
func (x *index) begin(ctx context.Context, m *img) {
	if m.running || m.known() {
		return
	}
	m.running = true
	life := x.ctx
	if fetch.IsPrefetch(ctx) {
		life = fetch.Prefetch(life)
	}
	if !x.spawn(func() { x.read(life, m) }) {
		m.running, m.err = false, context.Canceled
	}
}

// failed returns the last failure of m, if nobody reads it again now.
func (x *index) failed(m *img) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if m.running || m.known() {
		return nil
	}
	return m.err
}

// read fills in m and tells who waits.
func (x *index) read(ctx context.Context, m *img) {
	info, err := x.inspect(ctx, m)
	x.mu.Lock()
	defer x.mu.Unlock()
	m.running, m.err = false, err
	if err == nil {
		m.info = info
		if !m.silent {
			x.left--
			x.owners = nil
		}
		close(m.ready)
	} else if !errors.Is(err, context.Canceled) {
		x.log.Warn("an image's commands cannot be read yet", "image", m.dir, "err", err)
	}
	close(x.step)
	x.step = make(chan struct{})
}

// known reports whether m was read; index.mu is held or m.ready was seen closed.
func (m *img) known() bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// unknown reports whether a server would have to be asked for more than m's name.
func (m *img) unknown() bool { return m.remote && !m.known() }

// progress counts apps, distinct commands in M/bin, and images not read yet.
func (x *index) progress() (apps, commands, pending int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.shown()), len(x.table()), x.left
}

func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
