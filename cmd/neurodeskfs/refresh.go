package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/tree"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// refreshTimeout bounds one move to a new revision.
const refreshTimeout = 2 * time.Minute

// mountedPause is the least time between two looks at what the host has mounted.
const mountedPause = time.Minute

// follow looks at a source's manifest whenever its time to live is over, until
// ctx ends.
func (d *daemon) follow(ctx context.Context, s *source) {
	if s.Kind == config.KindDir {
		tree.WatchFolder(ctx, s.Path, func() { d.renew(ctx, s) })
		return
	}
	if s.bucket != nil {
		d.followBucket(ctx, s)
		return
	}
	for {
		pause := max(time.Duration(s.Refresh), mountedPause)
		if s.repo != nil {
			head := s.repo.Head()
			if head.Pinned {
				return
			}
			pause = head.Pause(time.Duration(s.Refresh))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		d.renew(ctx, s)
	}
}

// renew is refresh with nobody to hear of its failure.
func (d *daemon) renew(ctx context.Context, s *source) {
	if err := d.refresh(ctx, s); err != nil && ctx.Err() == nil {
		d.log.Warn("the repository cannot be refreshed", "repo", s.FQRN, "err", err)
	}
}

// followTree has the tree show sources that could not be listed before, until ctx ends.
func (d *daemon) followTree(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.tree.Listable():
		}
		d.moving.Lock()
		if err := d.showTree(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("not all images can be shown yet", "err", err)
		}
		d.moving.Unlock()
	}
}

// showTree makes the tree of what the sources have now; d.moving is held.
func (d *daemon) showTree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	changes, err := d.tree.Refresh(ctx)
	return errors.Join(err, d.announce(changes))
}

// refresh moves a source to its newest revision. When it returns without an
// error, that revision is visible. One source moves at a time.
func (d *daemon) refresh(ctx context.Context, s *source) error {
	d.moving.Lock()
	defer d.moving.Unlock()
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	var err error
	if s.repo != nil {
		head, moved, lookErr := s.repo.Candidate(ctx)
		if lookErr != nil || !moved && !s.behind {
			return lookErr
		}
		if moved {
			err = d.move(ctx, s, head)
			s.behind = s.Layout != tree.LayoutRaw
		}
	}
	if s.bucket != nil {
		changed, lookErr := s.bucket.Refresh(ctx)
		if !changed && !s.behind {
			return lookErr
		}
		err, s.behind = lookErr, true
	}
	if s.Layout != tree.LayoutRaw {
		// Until the index is made, each look makes it, moved or not.
		treeErr := d.showTree(ctx)
		s.behind = treeErr != nil
		err = errors.Join(err, treeErr)
	}
	if err == nil {
		d.noteShown()
	}
	return err
}

// move shows the revision of head. Before all that is needed for that is here, the
// worker to come must go on with the revision before: it is told of the move after.
func (d *daemon) move(ctx context.Context, s *source, head cvmfs.Head) error {
	raw := d.images.Raw(s.FQRN)
	if err := raw.Prepare(ctx, head); err != nil {
		return err
	}
	d.noteMove(s, &head)
	changes, err := raw.Move(ctx, head)
	return errors.Join(err, d.announce(changes))
}

// announce makes the kernel look again at what changed. A name is forgotten
// only where it stands for something else now, since forgetting a directory
// would take away what is mounted below it; a listing loses its pages and its
// directory's attributes.
func (d *daemon) announce(changes []volume.Change) error {
	var errs []error
	live := d.session.Load() // refreshes begin behind the mount
	for _, c := range changes {
		id, err := d.fs.NodeID(c.Dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range c.Names {
			errs = append(errs, live.EntryNotify(id, name))
		}
		errs = append(errs, live.InodeNotify(id, 0, 0))
	}
	return errors.Join(errs...)
}

// reload refreshes every source now and says what each shows.
func (d *daemon) reload(ctx context.Context) (string, error) {
	text := ""
	var errs []error
	for _, s := range d.sources {
		if !s.open() {
			continue
		}
		if err := d.refresh(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.FQRN, err))
			continue
		}
		if s.bucket != nil {
			text += fmt.Sprintf("%s is shown as its list and its images are now\n", s.FQRN)
			continue
		}
		if s.repo == nil {
			text += fmt.Sprintf("%s is shown as it is mounted at %s\n", s.FQRN, s.At)
			continue
		}
		text += fmt.Sprintf("%s is at revision %d\n", s.FQRN, s.repo.Head().Revision)
	}
	errs = append(errs, d.comeBack(ctx)) // last: it may wait for servers that hang
	return text, errors.Join(errs...)
}
