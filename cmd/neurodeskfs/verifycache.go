package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/fs/image"
)

// CacheReport is what cache verify --json prints.
type CacheReport struct {
	Checked    int      `json:"checked"`
	Objects    int      `json:"objects"`
	Bytes      int64    `json:"bytes"`
	Damaged    []string `json:"damaged"`    // removed
	Unreadable []string `json:"unreadable"` // could not be read, and stay
}

func verifyCache(ctx context.Context, disk *cache.Disk, _ controlRequest, progress func(step)) (controlAnswer, error) {
	r, err := verifyDisk(ctx, disk, progress)
	return answerOr(r, err)
}

// verifyDisk says what was found in any case, so that it can be acted on.
func verifyDisk(ctx context.Context, disk *cache.Disk, progress func(step)) (CacheReport, error) {
	// With what a power loss left out of the index, the report would miss it.
	if err := disk.Settle(ctx); err != nil {
		return CacheReport{}, err
	}
	tell := paced(progress)
	r, err := disk.Verify(ctx, func(p cache.Progress) { tell(step{Checked: p.Checked, Objects: p.Objects, Bytes: p.Bytes}) })
	if err != nil {
		err = fmt.Errorf("verify: stopped after %d of %d objects: %w", r.Checked, r.Objects, err)
	}
	// A nil list would be null in JSON.
	return CacheReport{r.Checked, r.Objects, r.Bytes, append([]string{}, r.Damaged...), append([]string{}, r.Unreadable...)}, err
}

// dropTimeout bounds how long the daemon looks for what was shown of damaged objects.
const dropTimeout = 5 * time.Minute

// verifyCache is the verification by the daemon of a mount. What was found damaged
// is not read on, and what the kernel keeps of it is dropped.
func (d *daemon) verifyCache(ctx context.Context, progress func(step)) (controlAnswer, error) {
	r, err := verifyDisk(ctx, d.disk, progress)
	d.idle()
	if len(r.Damaged) > 0 {
		// Who asked may have gone; what was removed is known only now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
		defer cancel()
		if dropErr := d.dropPages(ctx, r.Damaged); dropErr != nil {
			d.log.Warn("the kernel may still have wrong pages: unmount and mount again", "err", dropErr)
			err = errors.Join(err, fmt.Errorf("%d damaged objects were removed, but what was read of them may still be in the kernel's memory: unmount and mount again: %w", len(r.Damaged), dropErr))
		}
	}
	return answerOr(r, err)
}

// dropPages makes the kernel read again what it may have from the objects keys.
func (d *daemon) dropPages(ctx context.Context, keys []string) error {
	damage, live := image.NewDamage(keys), d.session.Load()
	return d.fs.EachNode(
		func(volume string) ([]uint64, error) { return d.images.Suspects(ctx, volume, damage) },
		func(id uint64) error { return live.InodeNotify(id, 0, 0) })
}
