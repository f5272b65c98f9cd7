package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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

// awaitComeback tries the sources that did not open until one does.
func (d *daemon) awaitComeback(ctx context.Context) {
	for pause := firstComeback; ; pause = min(2*pause, lastComeback) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := d.comeBack(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug("what could not be opened still cannot", "err", err)
		}
	}
}

// comeBack tries all sources that did not open before. The tree is made of what
// opened at the start, so that the worker ends when one does now: the one that takes
// over, as after any end, finds it in the ledger. It returns only when none does, with
// the reasons; nil: all are open.
func (d *daemon) comeBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	back := make([]*ledgerSource, len(d.sources)) // nil: nothing new
	errs := make([]error, len(d.sources))
	var trials sync.WaitGroup
	for i, s := range d.sources {
		if s.open() {
			continue
		}
		trials.Go(func() {
			was, err := d.reopen(ctx, s)
			if err != nil {
				errs[i] = d.explainDenied(err)
				return
			}
			back[i] = &was
			d.log.Info("a source can be opened now; the next worker shows it", "repo", s.FQRN)
		})
	}
	trials.Wait()
	if !slices.ContainsFunc(back, func(b *ledgerSource) bool { return b != nil }) {
		return errors.Join(errs...)
	}
	d.moving.Lock() // or the reason of the failure is noted again
	defer d.moving.Unlock()
	if err := d.ledger.write(func(e *ledgerEntry) {
		for i, b := range back {
			if b != nil && i < len(e.Sources) {
				e.Sources[i] = *b
			}
		}
	}); err != nil {
		return err
	}
	if err := d.disk.Flush(); err != nil {
		d.log.Warn("the cache's index is behind", "err", err)
	}
	return fmt.Errorf("end this worker: %w", unix.Kill(unix.Getpid(), unix.SIGKILL))
}

// reopen tries to open a source and returns what its next opening goes on from.
func (d *daemon) reopen(ctx context.Context, s *source) (was ledgerSource, err error) {
	was.Back = true
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
	was.Head, was.Shown, was.Moving = &head, []cvmfs.CatalogRef{head.Root}, true
	return was, nil
}
