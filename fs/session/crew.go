package session

import (
	"sync/atomic"
	"time"
)

const (
	// stallAfter is how long every reader must have been in its handler before
	// more are started. A handler that answers from a warm cache takes 10 to
	// 50 us, so this means a download or a disk.
	stallAfter = time.Millisecond
	// maxStep bounds how many readers one stall starts, and so the surplus.
	maxStep = 16
)

// crew keeps enough readers at the device. It counts; the session starts and
// ends the goroutines.
//
// The hot path costs two atomic additions for each request. The watcher is
// parked while at least one reader waits for requests and ticks once in
// stallAfter while all are busy, so an idle mount wakes nobody.
type crew struct {
	wanted int
	start  func(n int) int // starts readers; each of them calls join first

	waiting  atomic.Int64  // readers at the device, not in a handler
	returned atomic.Uint64 // handlers that have returned, ever
	allBusy  atomic.Uint64 // times that waiting fell to zero
	watching atomic.Bool   // the watcher is awake, or wake holds its token
	wake     chan struct{}
}

func newCrew(wanted int, start func(n int) int) *crew {
	return &crew{wanted: wanted, start: start, wake: make(chan struct{}, 1)}
}

// join adds a reader that is about to wait for requests.
func (c *crew) join() { c.waiting.Add(1) }

// enter is called by a reader that has a request, before it handles it.
func (c *crew) enter() {
	if c.waiting.Add(-1) == 0 {
		c.stalled()
	}
}

// leave is called after the handler; false tells the reader to end, since
// enough others wait.
func (c *crew) leave() bool {
	c.returned.Add(1)
	if c.waiting.Add(1) <= int64(c.wanted) {
		return true
	}
	c.enter()
	return false
}

// surplus says whether more readers wait than are wanted.
func (c *crew) surplus() bool { return c.waiting.Load() > int64(c.wanted) }

// dismiss takes one waiting reader off the count if there is a surplus.
func (c *crew) dismiss() bool {
	for {
		n := c.waiting.Load()
		if n <= int64(c.wanted) {
			return false
		}
		if c.waiting.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (c *crew) stalled() {
	c.allBusy.Add(1)
	if !c.watching.Load() && c.watching.CompareAndSwap(false, true) {
		c.wake <- struct{}{} // has room: only who sets watching sends
	}
}

// watch starts readers whenever all have been busy for stallAfter, until done.
func (c *crew) watch(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-c.wake:
		}
		if !c.tick(done) {
			return
		}
	}
}

// tick runs while the crew is short. Each stall in a row starts twice as many,
// so that hundreds of requests that hang at once are taken in tens of
// milliseconds. It returns false when done.
func (c *crew) tick(done <-chan struct{}) bool {
	timer := time.NewTimer(stallAfter)
	defer timer.Stop()
	for step := 1; ; timer.Reset(stallAfter) {
		returned, busy := c.returned.Load(), c.allBusy.Load()
		select {
		case <-done:
			return false
		case <-timer.C:
		}
		stalled := c.waiting.Load() == 0
		switch {
		case stalled && c.returned.Load() == returned:
			c.start(step)
			step = min(2*step, maxStep)
			continue
		case stalled || c.allBusy.Load() != busy:
			step = 1
			continue
		}
		c.watching.Store(false)
		// A reader that went busy before the store did not wake us.
		if c.waiting.Load() != 0 || !c.watching.CompareAndSwap(false, true) {
			return true
		}
		step = 1
	}
}
