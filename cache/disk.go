package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options of Open. The zero value is usable.
type Options struct {
	// Quota is what objects may take on disk, in bytes, trailers included;
	// 0: no limit. It is soft: objects in use or pinned are kept beyond it.
	Quota int64
	// HighWater is the share of Quota above which objects are removed, and
	// LowWater the one at which that stops; a bit above it where objects are pinned, so
	// that of the others the same part stays. Defaults 0.95 and 0.80: the twentieth
	// above the mark takes what arrives while the removal runs, and a pass, which
	// sorts all objects, pays for itself with a seventh of the cache, while more
	// would throw away what is still wanted.
	HighWater, LowWater float64
	// FileMode of objects; default 0600. Directories get search permission to
	// match. 0644 makes the cache a second tier for other users.
	FileMode os.FileMode
	// MemoryLimit bounds what is kept in memory while the disk fails, in bytes.
	// Default 256 MiB.
	MemoryLimit int64
	// FlushEvery is the interval at which derived values go to the index; default
	// 5 s. It is what a crash can lose of them. Of last uses it can lose 12 times as much.
	FlushEvery time.Duration
	// RetryAfter is how long a disk that failed is left alone; default 30 s.
	RetryAfter time.Duration
	// ReadOnly opens a directory that somebody else fills: no lock, no index,
	// nothing is removed, and what is created stays in memory.
	ReadOnly bool
	// Joint lets other processes that say so too use the directory at the same
	// time; see joint.go. Pins cannot be changed then.
	Joint bool
	// Begin delays what is done beside until it is closed: to load what the index
	// says of the objects, and the look at all files. Until then they are found
	// all the same, but do not count. Nil: Open loads, and the look begins at once.
	Begin <-chan struct{}
	// Logger takes warnings; default: none are written.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	def := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.HighWater, 0.95)
	def(&o.LowWater, min(0.80, o.HighWater))
	if o.Quota < 0 || !(o.LowWater > 0 && o.LowWater <= o.HighWater && o.HighWater <= 1) {
		return o, fmt.Errorf("cache: quota %d with water marks %v and %v: want 0 < low <= high <= 1", o.Quota, o.LowWater, o.HighWater)
	}
	if o.FileMode == 0 {
		o.FileMode = 0o600
	}
	if o.MemoryLimit == 0 {
		o.MemoryLimit = 256 << 20
	}
	if o.FlushEvery <= 0 {
		o.FlushEvery = 5 * time.Second
	}
	if o.RetryAfter <= 0 {
		o.RetryAfter = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Disk is a Store in a directory. Safe for concurrent use.
type Disk struct {
	dir      string
	opts     Options
	log      *slog.Logger
	mem      *Memory
	readOnly error    // why nothing is written here; nil: it is
	lock     *os.File // nil when read-only
	index    *index
	seed     maphash.Seed
	stripes  [256]sync.Mutex // see the package comment

	hits, misses, evictions atomic.Int64

	flushMu    sync.Mutex // one flush at a time; guards index.path and the next
	flushFails bool       // the last flush failed
	foreign    bool       // values of joint use are still beside the index

	mu         sync.Mutex // guards what follows, and shared.refs of its objects
	room       *sync.Cond // on mu: used fell, a removal pass ended, or closed
	objs       map[string]rec
	used       int64              // sum of objs' sizes
	total      int64              // joint use: that of all processes, when it was last looked at
	owed       int64              // joint use: bytes that could not be added to it
	live       map[string]*shared // objects in use, by key
	pins       map[pinID]bool
	pinned     map[string]int // key -> number of pins
	pinnedSize int64          // sum of the sizes of those of objs that are pinned
	pending    change         // what the next flush writes
	flushing   map[string][]byte
	metaSize   int64 // bytes of pending.meta
	clock      int64
	state      state
	former     state // of the index as it was; it stays there until the folders were looked at
	newState   bool  // state is to be written
	passes     int   // removal passes ended
	shrink     bool  // the file system is full: make room though the quota does not ask for it
	fail       failure
	scanning   bool
	closed     bool
	indexBad   bool // seen by a reader; the next flush replaces the index

	kick    chan struct{} // to the removal goroutine
	quit    chan struct{}
	scanned chan struct{} // closed when the look at the folders is over
	wg      sync.WaitGroup
}

// Open opens the cache in dir, which is made when it is missing. One process
// at a time: the error wraps ErrLocked, and names who has it, after a second's
// wait. ErrLayout: the directory is something else, or of a newer version. A
// damaged index is no error: it is made anew in the background (Settle waits).
// A disk that cannot be written now is served from as it is, with new objects
// in memory. The caller ends the use with Close.
func Open(dir string, opts Options) (*Disk, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	d := &Disk{
		dir: dir, opts: opts, log: opts.Logger, mem: NewMemory(opts.MemoryLimit), seed: maphash.MakeSeed(),
		objs: map[string]rec{}, live: map[string]*shared{}, pins: map[pinID]bool{}, pinned: map[string]int{},
		index: &index{}, kick: make(chan struct{}, 1), quit: make(chan struct{}), scanned: make(chan struct{}),
	}
	d.room = sync.NewCond(&d.mu)
	d.pending = newChange()
	made, err := checkLayout(dir)
	if err != nil {
		return nil, err
	}
	if opts.ReadOnly {
		d.readOnly = errors.New("somebody else fills it")
	} else if err := d.takeDir(made); isDiskFailure(err) {
		d.readOnly = err
		d.serveAsItIs()
		d.fail.since, d.fail.warned = time.Now(), time.Now()
		d.log.Warn("cache directory cannot be written; new objects stay in memory until the next start", "dir", dir, "err", err)
	} else if err != nil {
		return nil, err
	}
	if d.readOnly != nil {
		close(d.scanned)
		return d, nil
	}
	d.start()
	return d, nil
}

// serveAsItIs takes over of a directory that cannot be written what the index says
// of derived values, and of objects that a power loss may have cut: it is after one
// that file systems turn read-only.
func (d *Disk) serveAsItIs() {
	d.index.openReadOnly(filepath.Join(d.dir, indexFile), d.opts.FileMode)
	c, _ := d.index.load()
	d.state = doubt(c.state, c.state.boot == "", bootID(), time.Now().UnixNano())
}

// takeDir makes and locks the directory and loads the index.
func (d *Disk) takeDir(made bool) error {
	if err := os.MkdirAll(d.dir, dirMode(d.opts.FileMode)); err != nil {
		return fmt.Errorf("cache: %w: choose another cache directory", err)
	}
	if d.opts.Joint {
		return d.takeJointly(made)
	}
	lock, noLocks, err := lockDir(d.dir, d.opts.FileMode)
	if err != nil {
		return err
	}
	if err := makeLayout(d.dir, made, d.opts.FileMode); err != nil {
		unlockDir(lock)
		return err
	}
	d.lock = lock
	c := contents{fresh: true}
	if noLocks == nil {
		emptyTmp(d.dir)
		d.index, c = openIndex(filepath.Join(d.dir, indexFile), d.opts.FileMode, d.opts.Begin != nil)
	} else {
		d.log.Warn("cache directory has no locks; working without an index: let no second process use it", "dir", d.dir, "err", noLocks)
	}
	switch {
	case c.reason != nil && d.index.path == "":
		d.log.Warn("cache index cannot be opened now; working without it: pins do not hold before the next start", "dir", d.dir, "err", c.reason)
	case c.reason != nil:
		d.log.Warn("cache index is unusable and is made anew from the objects; pins and derived data are lost", "dir", d.dir, "err", c.reason)
	}
	d.takeOverMeta()
	d.adoptContents(c)
	return nil
}

// adoptContents takes over what the index held, before any other goroutine runs.
func (d *Disk) adoptContents(c contents) {
	now := time.Now().UnixNano()
	d.adoptObjects(c.objs, now)
	d.adoptPins(c)
	d.former = c.state
	d.state = doubt(c.state, c.fresh, bootID(), now)
	d.newState, d.scanning = true, true
	thorough := c.fresh || c.state.boot != d.state.boot
	d.wg.Go(func() {
		if d.opts.Begin != nil {
			select {
			case <-d.opts.Begin:
			case <-d.quit: // which scan sees
			}
		}
		if c.objs == nil && d.interrupted(context.Background()) == nil {
			objs, err := d.index.objects()
			d.noteIndex(err)
			d.adoptObjects(objs, now)
		}
		d.scan(thorough)
	})
}

// adoptObjects takes over what the index said at now, as far as nothing newer is
// known. Uses of a time to come, by a clock that was ahead, are moved back together:
// what is used from now on would look older, and go first. The mutex is let go now
// and then, for readers.
func (d *Disk) adoptObjects(objs map[string]rec, now int64) {
	ahead := int64(0)
	for _, r := range objs {
		ahead = max(ahead, r.used-now)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for k, r := range objs {
		if n++; n%4096 == 0 {
			d.mu.Unlock()
			d.mu.Lock()
		}
		if _, ok := d.objs[k]; ok {
			continue
		}
		if r.used > now {
			r.used -= ahead
		}
		d.keepRec(k, r)
		d.clock = max(d.clock, r.used)
	}
}

func (d *Disk) adoptPins(c contents) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range c.pins {
		d.pins[id] = true
		d.countPin(id.key, 1)
	}
}

// doubtBefore is how long before the last sign of life a file may not have
// reached the disk. Linux starts writing back after 30 s.
const doubtBefore = 10 * time.Minute

// doubtMargin leaves out what this session writes: file times come from a
// clock that lags by a tick of the kernel, and no machine boots so fast.
const doubtMargin = 50 * time.Millisecond

// doubt derives this session's state from the last one's: which objects may
// have been cut by a power loss. Times in ns since 1970.
func doubt(last state, fresh bool, boot string, now int64) state {
	s := state{boot: boot, beat: now, since: last.since, until: last.until}
	from := last.beat - int64(doubtBefore)
	switch {
	case fresh || last.boot == "" || boot == "":
		from = 0
	case last.boot == boot:
		return s
	}
	if s.until == 0 {
		s.since = from
	}
	s.since, s.until = min(s.since, from), max(s.until, now-int64(doubtMargin))
	if now < last.beat { // the clock is behind, as it can be before the network sets it
		s.until = max(s.until, last.beat+int64(doubtBefore))
	}
	return s
}

// bootID names this boot of the kernel, "" where that is not known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (d *Disk) start() {
	d.wg.Go(d.runEvict)
	d.wg.Go(d.runFlush)
}

// Close flushes the index and gives the directory back. Objects that are open
// stay readable; writers that are not done fail or keep to memory. Later calls
// do nothing.
func (d *Disk) Close() error {
	d.mu.Lock()
	was := d.closed
	d.closed = true
	d.room.Broadcast()
	d.mu.Unlock()
	if was {
		return nil
	}
	close(d.quit)
	d.wg.Wait()
	if d.readOnly != nil {
		return d.index.close()
	}
	err := d.Flush()
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	err = errors.Join(err, d.index.close())
	d.index.path = "" // a later Flush does not open it again
	if d.opts.Joint {
		return errors.Join(err, d.lock.Close())
	}
	d.leaveUse()
	unlockDir(d.lock)
	return err
}

// Stats is a snapshot and never blocks on the disk.
func (d *Disk) Stats() Stats {
	m := d.mem.Stats()
	d.mu.Lock()
	defer d.mu.Unlock()
	return Stats{
		Dir: d.dir, QuotaBytes: d.opts.Quota, UsedBytes: d.usage(), MemoryBytes: m.UsedBytes, Objects: len(d.objs),
		Pinned: len(d.pinned), Open: len(d.live) + m.Open, Hits: d.hits.Load(), Misses: d.misses.Load(),
		Evictions: d.evictions.Load(), Degraded: !d.fail.since.IsZero(), Scanning: d.scanning,
	}
}

func (d *Disk) stripe(key string) *sync.Mutex {
	return &d.stripes[maphash.String(d.seed, key)%uint64(len(d.stripes))]
}

// tick is the time of a use, strictly increasing. mu is held.
func (d *Disk) tick() int64 {
	d.clock = max(d.clock+1, time.Now().UnixNano())
	return d.clock
}

// Writable is why the directory is only read from, and its objects are neither
// known nor counted; nil: they are.
func (d *Disk) Writable() error {
	if d.readOnly == nil {
		return nil
	}
	return fmt.Errorf("cache: %s is only read from: %w", d.dir, d.readOnly)
}

// isDiskFailure tells errors of the disk from errors of the set-up.
func isDiskFailure(err error) bool {
	for _, e := range []error{syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.ESTALE, syscall.ENOTCONN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
