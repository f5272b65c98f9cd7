package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	claimBeat  = time.Second      // how often who fetches gives a sign of life
	claimStale = 10 * time.Second // without one for so long, others fetch too
)

// Claim waits until no other process is fetching key, and keeps others from it
// until release is called or this process ends. The object may be there now:
// look again. Nobody waits for more than one that ends: when no server answers,
// each would wait for all those before it in vain. Only ctx's error is returned; a
// disk that cannot take the claim, and a process that was stopped, as a batch
// system suspends a job, only cost a second download. Without joint use there is
// nothing to claim.
func (d *Disk) Claim(ctx context.Context, key string) (release func(), err error) {
	release = func() {}
	if !d.opts.Joint || d.readOnly != nil || CheckKey(key) != nil {
		return release, nil
	}
	path := filepath.Join(d.dir, tmpDir, key+claimEnd)
	var seen claimLife
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		f, err := lockPath(path, os.O_RDWR|os.O_CREATE)
		if err == nil {
			return keepClaim(f), nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || seen.stale(path) || seen.ended(path) {
			return release, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// keepClaim shows that who has locked f is alive, until release is called, which
// takes f away. A new file gets a name of its own, by which those who wait tell it
// from the next; that of one who was killed goes on.
func keepClaim(f *os.File) (release func()) {
	touch := func() {
		now := unix.NsecToTimespec(time.Now().UnixNano())
		_ = setTimes(f, now, now)
	}
	if fi, err := f.Stat(); err == nil && fi.Size() == 0 {
		_, _ = f.WriteString(rand.Text()) // without it, it is waited for as before
	}
	touch() // it may be a dead process's file
	beat := time.NewTicker(claimBeat)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-beat.C:
				touch()
			case <-done:
				return
			}
		}
	}()
	return func() {
		beat.Stop()
		close(done)
		<-ended
		os.Remove(f.Name())
		f.Close()
	}
}

// claimLife is what one who waits has seen of a claim.
type claimLife struct {
	beat  time.Time // the last sign of life
	since time.Time // when it was first seen
	name  string    // of the claim that was seen first, "" if it had none yet
}

// ended reports whether the claim that was waited for was given back, and another
// has taken its place.
func (c *claimLife) ended(path string) bool {
	name, err := os.ReadFile(path)
	if err != nil || len(name) == 0 {
		return false
	}
	if c.name == "" {
		c.name = string(name)
	}
	return string(name) != c.name
}

// stale reports whether nobody has given a sign of life for too long, by the time
// of the file or, since clocks jump, while we looked.
func (c *claimLife) stale(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil {
		return false // given back
	}
	if !fi.ModTime().Equal(c.beat) {
		c.beat, c.since = fi.ModTime(), time.Now()
		return false // who has just taken a dead one's claim is about to touch it
	}
	return max(time.Since(c.beat), time.Since(c.since)) > claimStale
}
