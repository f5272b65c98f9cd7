package cache

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
)

// Removed says what a removal took away.
type Removed struct {
	Objects int
	Bytes   int64 // trailers included
}

// leastPass is the share of the quota that could go for which a removal pass is worth
// its look at all records: where pins alone are above the high water mark, each object
// that came would cost one.
const leastPass = 0.01

// overHigh reports whether objects must go. mu is held.
func (d *Disk) overHigh() bool {
	quota, used := float64(d.opts.Quota), d.usage()
	return d.shrink || quota > 0 && used > int64(quota*d.opts.HighWater) && used-d.pinnedSize > int64(quota*leastPass)
}

// usage is what counts against the quota, in bytes: what this process knows of,
// or in joint use what all have made. mu is held.
func (d *Disk) usage() int64 {
	if d.opts.Joint {
		return d.total
	}
	return d.used
}

func (d *Disk) kickEvict() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// makeRoom starts a removal pass when it is due. Beyond the quota itself the
// caller, a writer, waits for room or for the end of a pass, so that downloads
// cannot outrun the removal. Readers never wait.
func (d *Disk) makeRoom() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.overHigh() {
		return
	}
	d.kickEvict()
	// The pass that is under way may have passed over what is free now; the
	// second one from here has not.
	for end := d.passes + 2; d.overHigh() && d.opts.Quota > 0 && d.usage() > d.opts.Quota && d.passes < end && !d.closed; {
		d.kickEvict()
		d.room.Wait()
	}
}

// runEvict is the removal goroutine.
func (d *Disk) runEvict() {
	for {
		select {
		case <-d.quit:
			return
		case <-d.kick:
		}
		if d.opts.Joint {
			d.evictJointly()
			continue
		}
		due, shrink, target := d.evictTarget()
		var done Removed
		if due {
			done, _ = d.evictTo(context.Background(), target)
		}
		d.passEnded(shrink && done.Objects > 0) // due or not: somebody may wait for it
	}
}

// evictTarget says whether objects must go, whether because the disk is full,
// and to how many bytes. Of what is not pinned the same part goes whatever is pinned:
// down to the low water mark itself it would be all, where pins are above that.
func (d *Disk) evictTarget() (due, shrink bool, target int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	due, shrink, target = d.overHigh(), d.shrink, d.used
	if d.opts.Quota > 0 {
		low := float64(d.opts.Quota)*d.opts.LowWater + float64(d.pinnedSize)*(1-d.opts.LowWater/d.opts.HighWater)
		target = min(target, int64(low))
	}
	if shrink {
		target = min(target, d.used/10*9)
	}
	d.shrink = false
	return due, shrink, target
}

// passEnded wakes who waits for room. After a pass that gave space back to a
// full file system the disk is tried again at once.
func (d *Disk) passEnded(retry bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes++
	if retry {
		d.fail.until = d.fail.since
	}
	d.room.Broadcast()
}

type candidate struct {
	key  string
	used int64
}

// candidates are the objects that may go, least recently used first. What changes
// meanwhile is looked at again by dropIdle.
func (d *Disk) candidates(keepPinned bool) []candidate {
	var list []candidate
	for key, r := range d.records() {
		if d.live[key] == nil && !(keepPinned && d.pinned[key] > 0) {
			list = append(list, candidate{key, r.used})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.key, b.key))
	})
	return list
}

// evictTo removes objects that are neither in use nor pinned until at most
// target bytes are used, or ctx ends, or the disk refuses.
func (d *Disk) evictTo(ctx context.Context, target int64) (Removed, error) {
	var done Removed
	for _, c := range d.candidates(true) {
		d.mu.Lock()
		enough := d.used <= target
		d.mu.Unlock()
		if enough {
			break
		}
		if err := d.interrupted(ctx); err != nil {
			return done, err
		}
		n, err := d.dropIdle(c.key, c.used, true)
		if err != nil {
			d.degrade(err, 0)
			return done, err
		}
		if n > 0 {
			done.Objects++
			done.Bytes += n
			d.evictions.Add(1)
		}
	}
	return done, nil
}

// interrupted is the reason to stop a long pass, or nil.
func (d *Disk) interrupted(ctx context.Context) error {
	select {
	case <-d.quit:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// dropIdle removes key's file unless it came in use, was used since, or was
// pinned meanwhile; used -1 takes any last use. It returns the bytes freed.
func (d *Disk) dropIdle(key string, used int64, keepPinned bool) (int64, error) {
	st := d.stripe(key)
	st.Lock()
	defer st.Unlock()
	d.mu.Lock()
	r, ok := d.objs[key]
	keep := !ok || d.live[key] != nil || keepPinned && d.pinned[key] > 0 || used >= 0 && r.used != used
	d.mu.Unlock()
	if keep || d.elsewhere(objectPath(d.dir, key)) {
		return 0, nil
	}
	if err := os.Remove(objectPath(d.dir, key)); err != nil && !isGone(err) {
		return 0, fmt.Errorf("cache: remove %s: %w", key, err)
	}
	d.mu.Lock()
	d.dropRec(key)
	d.mu.Unlock()
	return r.size, nil
}

// Prune removes least recently used objects until at most target bytes are
// used, trailers included. Objects in use or pinned stay. It fails with ctx's
// error, Writable's or the disk's, and then says what went so far.
func (d *Disk) Prune(ctx context.Context, target int64) (Removed, error) {
	if err := cmp.Or(d.Writable(), d.Settle(ctx)); err != nil {
		return Removed{}, err
	}
	return d.evictTo(ctx, target)
}

// Clear removes every object that is not in use; pinned ones only with
// withPinned, which ends the pins too. Errors as with Prune.
func (d *Disk) Clear(ctx context.Context, withPinned bool) (Removed, error) {
	var done Removed
	if err := cmp.Or(d.Writable(), d.Settle(ctx)); err != nil {
		return done, err
	}
	if withPinned {
		d.mu.Lock()
		for id := range d.pins {
			d.setPin(id, false)
		}
		d.mu.Unlock()
	}
	for _, c := range d.candidates(!withPinned) {
		if err := d.interrupted(ctx); err != nil {
			return done, err
		}
		n, err := d.dropIdle(c.key, -1, true)
		if err != nil {
			return done, err
		}
		if n > 0 {
			done.Objects++
			done.Bytes += n
		}
	}
	return done, d.Flush()
}

// Remove removes key's object, from disk and memory, pinned or not; who has it
// open reads on. It returns an error wrapping ErrNotCached when there is none,
// or the disk's error.
func (d *Disk) Remove(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	inMemory := d.mem.remove(key)
	st := d.stripe(key)
	st.Lock()
	defer st.Unlock()
	err := error(nil)
	if d.readOnly == nil {
		err = os.Remove(objectPath(d.dir, key))
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("cache: remove %s: %w", key, err)
	}
	d.mu.Lock()
	unnamed := d.live[key] != nil
	delete(d.live, key)
	d.dropRec(key)
	d.mu.Unlock()
	if (isGone(err) || d.readOnly != nil) && !inMemory && !unnamed {
		return fmt.Errorf("cache: remove %s: %w", key, ErrNotCached)
	}
	return nil
}
