package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
	"github.com/neurodesk/neurodeskfs/fs"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/session"
	"github.com/neurodesk/neurodeskfs/fs/trace"
	"github.com/neurodesk/neurodeskfs/fs/tree"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// openTimeout bounds how long mount tries to open the repositories.
const openTimeout = 17 * time.Second

// serialVariable, set in the environment of mount, makes a client that fetches
// nothing before it is asked for: the bench's stand-in for the reference client.
const serialVariable = "NEURODESKFS_SERIAL"

// userAgent is what servers are told.
var userAgent = "cvmfs Fuse neurodeskfs-" + version

// daemon serves one mount.
type daemon struct {
	mountpoint string
	config     string // config.Digest
	public     bool   // others may use the mount
	as         string // the user that it serves as; "": whoever mounted
	log        *slog.Logger
	started    time.Time
	disk       *cache.Disk
	tiers      []*tier.Tier                                  // shared directories, asked before the network
	fill       *tier.Tier                                    // one of them, that prefetch fills; nil: none
	expired    bool                                          // whitelists whose date is over are taken
	claim      func(context.Context, string) (func(), error) // nil when the cache is ours alone
	sources    []*source
	table      *fs.Table
	images     *image.Images
	tree       *tree.Tree
	traces     *trace.Book
	traceNet   *fetch.Client // of the site's traces, where they lie at a URL
	fs         *fs.FS
	device     *os.File
	session    atomic.Pointer[session.Session] // set once mounted; the index, which is built meanwhile, looks at it
	served     chan error
	control    *control
	moving     sync.Mutex // held by the one refresh
	following  sync.WaitGroup
	stop       context.CancelFunc // ends what follows the servers
	verify     string             // verify_sif.mode

	launcher  *tree.Launcher
	gcPercent int                                          // before a take-over
	took      struct{ cache, sources, tree time.Duration } // of prepare
	begin     chan struct{}                                // closed when this worker serves, and may do other things beside; nil: at once

	kept   kept // what outlives this process
	ledger *ledger
	resume bool // another process has served the mount before
}

// kept are the files that a supervisor keeps for its workers.
type kept struct {
	table, spare, frozen *os.File
	loaded               *fs.Table // of the first two, as far as it was written
}

// source is a configured source: its repository, or why there is none.
type source struct {
	config.Source
	repo   *cvmfs.Repository // of kind cvmfs only
	bucket *blob.Bucket      // of kind http only
	err    error

	behind bool // the tree does not show its revision yet; guarded by daemon.moving
	back   bool // the worker before could not show it, and the kernel may know that
}

// open reports whether the source can be used.
func (s *source) open() bool { return s.err == nil }

// listen begins to answer other commands. Whoever is told that the mount is there
// may ask at once.
func (d *daemon) listen(c config.Cache) {
	if c.Joint { // one socket cannot stand for the daemons of all jobs
		return
	}
	var err error
	if d.control, err = d.startControl(c.Dir); err != nil {
		d.log.Warn("reload and the cache commands will not work", "err", err)
	}
}

// followAll begins the looks for new revisions. The context ends with the daemon.
func (d *daemon) followAll() context.Context {
	following, stop := context.WithCancel(context.Background())
	d.stop = stop
	if d.resume {
		d.moving.Lock()
		d.following.Go(func() { d.catchUp(following) })
	}
	d.following.Go(func() { d.followTree(following) })
	lacking := false
	for _, s := range d.sources {
		if s.open() {
			d.following.Go(func() { d.follow(following, s) })
		} else {
			lacking = true
		}
	}
	if lacking {
		d.following.Go(func() { d.awaitComeback(following) })
	}
	return following
}

func newDaemon(mountpoint string, log *slog.Logger) *daemon {
	return &daemon{mountpoint: mountpoint, log: log, started: time.Now(), served: make(chan error, 1)}
}

// prepare opens the cache and the repositories and makes the tree: all that
// serving needs but the mount.
func (d *daemon) prepare(ctx context.Context, cfg *config.Config) (err error) {
	defer func() { err = d.explainDenied(err) }()
	clock := time.Now()
	lap := func() time.Duration {
		defer func() { clock = time.Now() }()
		return time.Since(clock)
	}
	if d.disk, err = openCache(cfg, d.begin, d.log); err != nil {
		return err
	}
	d.took.cache = lap()
	if cfg.Cache.Joint {
		d.claim = d.disk.Claim
	}
	for _, dir := range cfg.Cache.Shared {
		d.tiers = append(d.tiers, tier.New(dir, d.log))
	}
	if err := d.openSources(ctx, cfg); err != nil {
		return err
	}
	d.took.sources = lap()
	err = d.build(cfg)
	d.took.tree = lap()
	return err
}

func openCache(cfg *config.Config, begin <-chan struct{}, log *slog.Logger) (*cache.Disk, error) {
	if err := os.MkdirAll(cfg.Cache.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the cache directory cannot be made: %w", err)
	}
	disk, err := cache.Open(cfg.Cache.Dir, cache.Options{Quota: int64(cfg.Cache.Quota), Joint: cfg.Cache.Joint, Begin: begin, Logger: log})
	if errors.Is(err, cache.ErrLocked) {
		return nil, failure{exitBusy, err}
	}
	return disk, err
}

// show makes the images of the sources that opened, and says what the tree is made of.
func (d *daemon) show(table *fs.Table) (sources []*tree.Source) {
	var repos []*cvmfs.Repository
	var buckets []*blob.Bucket
	for _, s := range d.sources {
		switch {
		case s.repo != nil:
			repos = append(repos, s.repo)
			sources = append(sources, &tree.Source{Repo: s.repo, Layout: s.Layout, Path: s.Path})
		case s.bucket != nil:
			buckets = append(buckets, s.bucket)
			sources = append(sources, &tree.Source{Bucket: s.bucket})
		case s.open() && s.Kind == config.KindDir:
			sources = append(sources, &tree.Source{Dir: s.Path, Name: s.FQRN, Folder: true, Public: d.public})
		case s.open():
			sources = append(sources, &tree.Source{Dir: s.At, Name: s.FQRN, Layout: s.Layout, Path: s.Path})
		}
	}
	d.images = image.New(repos, table, image.BindPoints)
	d.images.Tell(d.log)
	for _, b := range buckets {
		d.images.AddBucket(b)
	}
	return sources
}

// build makes the file system over the sources that opened.
func (d *daemon) build(cfg *config.Config) error {
	table, err := d.openTable()
	if err != nil {
		return err
	}
	d.table = table
	if err := d.loadLauncher(); err != nil {
		return err
	}
	policy, err := cfg.Policy(d.mountpoint).Format()
	if err != nil {
		return err
	}
	sources := d.show(table)
	d.verify = cfg.VerifySIF.Mode
	if v, ok, err := verification(cfg.VerifySIF, memo{d.disk}, d.log); err != nil {
		return err
	} else if ok {
		d.images.Verify(v)
	}
	d.images.About(image.Process{Version: version, Started: d.started, IOErrors: func() uint64 { return d.fs.IOErrors() }})
	d.resumeViews()
	if err := d.openTraces(cfg); err != nil {
		return err
	}
	d.tree, err = tree.New(tree.Options{
		Started: d.announced,
		Sources: sources, Images: d.images, Table: table, Memo: memo{d.disk}, Mountpoint: d.mountpoint,
		Launcher: *d.launcher, Policy: policy, Version: version, Never: append(slices.Clone(tree.DefaultNever), cfg.Launch.Never...), Pins: cfg.Launch.Pins, Status: d.statusJSON, Logger: d.log, Changed: d.invalidate,
		Frozen: d.kept.frozen, Since: d.ledger.read().Changed, Begin: d.begin,
	})
	if err != nil {
		return err
	}
	d.fs = fs.New(fs.Options{
		Root: d.tree, Table: table, Open: d.images.Open, Capacity: d.capacity, Crawlers: crawlers(cfg), Logger: d.log,
	})
	return nil
}

// crawlers are those that are kept out.
func crawlers(cfg *config.Config) *fs.Crawlers {
	if cfg.Mount.Crawlers != nil {
		return fs.NewCrawlers(cfg.Mount.Crawlers)
	}
	return fs.NewCrawlers(fs.DefaultCrawlers)
}

// openTable opens the node table that the supervisor keeps.
func (d *daemon) openTable() (*fs.Table, error) {
	if t := d.kept.loaded; t != nil {
		return t, t.Own()
	}
	return fs.OpenTable(d.kept.table, d.kept.spare)
}

// invalidate makes the kernel forget the listings of nodes.
func (d *daemon) invalidate(nodes []volume.Node) {
	live := d.session.Load()
	if live == nil {
		return // not mounted yet: the kernel knows nothing
	}
	for _, n := range nodes {
		id, err := d.fs.NodeID(n)
		if err == nil {
			err = live.InodeNotify(id, 0, 0)
		}
		if err != nil {
			d.log.Warn("a listing cannot be renewed", "node", id, "err", err)
		}
	}
}

func (d *daemon) capacity() fs.Capacity {
	s := d.disk.Stats()
	c := fs.Capacity{TotalBytes: uint64(s.QuotaBytes), UsedBytes: uint64(s.UsedBytes)}
	for _, s := range d.sources {
		if s.repo != nil {
			n, err := s.repo.Entries(context.Background())
			if err == nil {
				c.Files += n
			}
		}
	}
	return c
}

// wait returns when the mount is gone and all is closed.
func (d *daemon) wait() error {
	err := <-d.served
	d.close()
	d.log.Info("unmounted", "mountpoint", d.mountpoint)
	return err
}

func (d *daemon) close() {
	if d.control != nil {
		d.control.close()
	}
	if d.stop != nil {
		d.stop()
		d.following.Wait()
	}
	if d.tree != nil {
		d.tree.Close()
	}
	if d.images != nil {
		d.images.Close()
	}
	for _, s := range d.sources {
		if s.repo != nil {
			s.repo.Close()
		}
		if s.bucket != nil {
			s.bucket.Close()
		}
	}
	if d.traceNet != nil {
		d.traceNet.Close()
	}
	if d.device != nil {
		d.device.Close()
	}
	if d.table != nil {
		d.table.Close()
	}
	if d.disk != nil {
		if err := d.disk.Close(); err != nil {
			d.log.Error("the cache was not closed cleanly; it will be checked at the next start", "err", err)
		}
	}
}
