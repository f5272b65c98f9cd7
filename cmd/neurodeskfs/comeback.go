package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// A source that did not open while others did is tried again after a pause that
// grows from the first to the last.
const (
	firstComeback = 10 * time.Second
	lastComeback  = 5 * time.Minute
)

// awaitComeback tries the sources that did not open until one does, and lets
// another worker go on, which has it.
func (d *daemon) awaitComeback(ctx context.Context) {
	for pause := firstComeback; ; pause = min(2*pause, lastComeback) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		for i := range d.sources {
			if s := &d.sources[i]; !s.open() {
				if err := d.comeBack(ctx, s); err != nil && ctx.Err() == nil {
					d.log.Debug("a source still cannot be opened", "repo", s.FQRN, "err", err)
				}
			}
		}
	}
}

// comeBack opens a source that did not open before. The tree is made of what opened
// at the start, so that the worker ends when it succeeds: the one that takes over, as
// after any end, finds the source in the ledger. It returns only with the reason why
// there is nothing to show.
func (d *daemon) comeBack(ctx context.Context, s *source) error {
	if d.ledger == nil {
		return s.err // nobody would take over
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	was, err := d.reopen(ctx, s)
	if err != nil {
		return d.explainDenied(err)
	}
	d.moving.Lock() // or the reason of the failure is noted again
	defer d.moving.Unlock()
	was.Back = true
	if err := d.ledger.write(func(e *ledgerEntry) {
		for i := range d.sources {
			if &d.sources[i] == s && i < len(e.Sources) {
				e.Sources[i] = was
			}
		}
	}); err != nil {
		return err
	}
	d.log.Info("a source can be opened now; the next worker shows it", "repo", s.FQRN)
	if err := d.disk.Flush(); err != nil {
		d.log.Warn("the cache's index is behind", "err", err)
	}
	return fmt.Errorf("end this worker: %w", unix.Kill(unix.Getpid(), unix.SIGKILL))
}

// reopen tries to open a source and returns what its next opening goes on from.
func (d *daemon) reopen(ctx context.Context, s *source) (was ledgerSource, err error) {
	switch s.Kind {
	case config.KindMounted:
		return was, checkMounted(s.Source)
	case config.KindDir:
		if err := tree.CheckFolder(s.Path, d.public); err != nil {
			return was, fmt.Errorf("%s: %w", s.FQRN, err)
		}
		return was, nil
	case config.KindHTTP:
		b, err := d.openBucket(s.Source)
		if err == nil {
			b.Close()
		}
		return was, err
	}
	repo, err := d.openSource(ctx, s.Source, nil)
	if err != nil {
		return was, err
	}
	defer repo.Close()
	head := repo.Head()
	return ledgerSource{Head: &head, Shown: []cvmfs.CatalogRef{head.Root}, Moving: true}, nil
}
