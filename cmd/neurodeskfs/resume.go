package main

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// standBy does what can be done while another worker serves, so that little is
// left for its end: who waits for an answer then waits for what takeOver does.
func (d *daemon) standBy() (err error) {
	d.begin = make(chan struct{})
	if d.kept.loaded, err = fs.LoadTable(d.kept.table, d.kept.spare); err != nil {
		return err
	}
	return d.loadLauncher()
}

// followEvery is how often a standby looks for new numbers of nodes.
const followEvery = 5 * time.Second

// followTable reads the node table on, as another worker writes it, until the
// function that it returns is called: a standby may wait for weeks, and who waits
// for an answer would wait while it reads all of them.
func (d *daemon) followTable() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(followEvery):
				if err := d.kept.loaded.Follow(); err != nil {
					return // takeOver says it
				}
			}
		}
	})
	return func() {
		cancel()
		following.Wait()
	}
}

// rest does what takeOver has put off.
func (d *daemon) rest() {
	close(d.begin)
	debug.SetGCPercent(d.gcPercent)
}

// takeOver goes on where the worker before, which has ended by now, has stopped.
func (d *daemon) takeOver(ctx context.Context, cfg *config.Config) error {
	began := time.Now()
	d.gcPercent = debug.SetGCPercent(-1)    // the memory limit holds; rest undoes it
	if err := d.ledger.load(); err != nil { // it moved on since this one was started
		return err
	}
	err := d.prepare(ctx, cfg)
	d.log.Debug("ready to go on", "dur", time.Since(began), "cache", d.took.cache, "sources", d.took.sources, "tree", d.took.tree)
	return err
}

// resumeSources opens the sources as the worker before had them: at the revision
// that it showed, or was about to show, and without asking the network, so that
// no server can keep a mount from going on.
func (d *daemon) resumeSources(ctx context.Context, cfg *config.Config) error {
	entry := d.ledger.read()
	if len(entry.Sources) != len(cfg.Sources) {
		return errors.New("the ledger is of another configuration")
	}
	d.started = entry.Started
	for i, s := range cfg.Sources {
		was, now := entry.Sources[i], d.sources[i]
		now.back = was.Back
		switch {
		case was.Error != "":
			now.err = errors.New(was.Error)
		case s.Kind == config.KindHTTP:
			now.bucket, now.err = d.openBucket(s)
		case was.Head != nil:
			now.repo, now.err = d.openSource(ctx, s, was.Head)
			now.behind = was.Moving
		}
		if now.err != nil && was.Error == "" {
			return now.err
		}
	}
	return nil
}

// resumeViews makes the raw views go on with the revisions that were shown.
func (d *daemon) resumeViews() {
	if !d.resume {
		return
	}
	for i, was := range d.ledger.read().Sources {
		if s := d.sources[i]; s.repo != nil {
			d.images.Raw(s.FQRN).Resume(was.Shown)
		}
	}
}

// noteMove tells the worker to come that the source s is about to show head.
func (d *daemon) noteMove(s *source, head *cvmfs.Head) {
	d.note(func(e *ledgerEntry) {
		for i := range d.sources {
			if d.sources[i] == s && i < len(e.Sources) {
				e.Sources[i].Head, e.Sources[i].Moving = head, true
			}
		}
	})
}

// noteShown tells it what is shown, of which the kernel knows all.
func (d *daemon) noteShown() {
	d.note(func(e *ledgerEntry) {
		e.Started, e.Changed = d.started, d.tree.Changed()
		e.Sources = make([]ledgerSource, len(d.sources))
		for i, s := range d.sources {
			switch {
			case s.err != nil:
				e.Sources[i].Error = s.err.Error()
			case s.repo != nil:
				head := s.repo.Head()
				e.Sources[i] = ledgerSource{Head: &head, Shown: d.images.Raw(s.FQRN).Shown(), Moving: s.behind}
			}
		}
	})
}

func (d *daemon) note(change func(*ledgerEntry)) {
	if err := d.ledger.write(change); err != nil {
		d.log.Error("a worker that takes over may show an older revision", "err", err)
	}
}

// catchUp tells the kernel what the worker before had no time to tell: what a
// move to a new revision changed, and which names of the tree stand for something
// else than they did. d.moving is held, so that no reload ends before.
func (d *daemon) catchUp(ctx context.Context) {
	defer d.moving.Unlock()
	var errs []error
	for _, s := range d.sources {
		if s.back {
			change, err := d.tree.Appeared(s.FQRN)
			errs = append(errs, err, d.announce([]volume.Change{change}))
		}
		if s.repo == nil || !s.behind {
			continue
		}
		changes, err := d.images.Raw(s.FQRN).Changes(ctx)
		errs = append(errs, err, d.announce(changes))
	}
	changes, err := d.tree.Reconcile(ctx)
	if err := errors.Join(append(errs, err, d.announce(changes))...); err != nil {
		if ctx.Err() == nil {
			d.log.Warn("some of what changed may show late", "err", err)
		}
		return
	}
	for _, s := range d.sources {
		s.behind, s.back = false, false
	}
	d.noteShown()
}
