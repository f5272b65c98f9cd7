package fetch

import (
	"container/list"
	"context"
	"sync"
)

// What a download takes of the slots. Small objects cost round trips rather than
// bandwidth, so that four of them may be under way in place of a large one.
const (
	largeWeight  = 4
	middleWeight = 2
	smallWeight  = 1
	middleObject = 2 << 20   // bytes of the greatest body that is not large
	smallObject  = 256 << 10 // of the greatest small one
)

// slots bounds the downloads at one time and lets on-demand ones go first. The
// bound adapts: it halves when a server is overloaded, and comes back with each
// download that goes well.
type slots struct {
	max     int // in weights
	reserve int // never taken by prefetch

	mu       sync.Mutex // guards all below
	now      int        // what may be in use, at most max
	inUse    int
	count    int       // downloads that inUse stands for
	demand   list.List // of *ticket, first come first served
	prefetch list.List
}

// ticket is one waiting download.
type ticket struct {
	weight  int
	ready   chan struct{} // closed with the grant
	granted bool          // guarded by slots.mu
}

// newSlots makes room for n large downloads.
func newSlots(n int) *slots {
	return &slots{max: n * largeWeight, now: n * largeWeight, reserve: min(n-1, (n+3)/4) * largeWeight}
}

// weigh is what a body of at most limit bytes takes; 0: any length.
func weigh(limit int64) int {
	switch {
	case limit <= 0 || limit > middleObject:
		return largeWeight
	case limit > smallObject:
		return middleWeight
	}
	return smallWeight
}

// acquire takes weight of the slots, which the caller gives back with release, or
// returns the context's cause. A prefetch becomes an on-demand download when
// promoted is closed.
func (s *slots) acquire(ctx context.Context, weight int, prefetch bool, promoted <-chan struct{}) error {
	t := &ticket{weight: weight, ready: make(chan struct{})}
	queue := &s.demand
	if prefetch {
		queue = &s.prefetch
	} else {
		promoted = nil
	}
	s.mu.Lock()
	place := queue.PushBack(t)
	s.dispatch()
	s.mu.Unlock()
	for {
		select {
		case <-t.ready:
			return nil
		case <-promoted:
			promoted = nil
			s.mu.Lock()
			if !t.granted {
				queue.Remove(place)
				queue = &s.demand
				place = queue.PushBack(t)
				s.dispatch()
			}
			s.mu.Unlock()
		case <-ctx.Done():
			s.mu.Lock()
			if t.granted {
				s.inUse -= weight
				s.count--
			} else {
				queue.Remove(place)
			}
			s.dispatch()
			s.mu.Unlock()
			return context.Cause(ctx)
		}
	}
}

func (s *slots) release(weight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse -= weight
	s.count--
	s.dispatch()
}

// dispatch grants what can be granted. mu is held.
func (s *slots) dispatch() {
	for s.grant(&s.demand, s.now) {
	}
	for s.grant(&s.prefetch, s.now-s.reserve) {
	}
}

// grant lets the first of queue go if it fits below bound. Whatever the bound
// has come down to, one goes when none is under way. mu is held.
func (s *slots) grant(queue *list.List, bound int) bool {
	first := queue.Front()
	if first == nil {
		return false
	}
	t := first.Value.(*ticket)
	if s.inUse+t.weight > bound && s.inUse > 0 {
		return false
	}
	queue.Remove(first)
	t.granted = true
	s.inUse += t.weight
	s.count++
	close(t.ready)
	return true
}

// overloaded halves the bound, though one large download stays possible.
func (s *slots) overloaded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = max(s.now/2, min(s.max, s.reserve+largeWeight))
}

// recovered widens the bound again by a little.
func (s *slots) recovered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now < s.max {
		s.now++
		s.dispatch()
	}
}

func (s *slots) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
