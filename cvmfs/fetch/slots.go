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
// download that goes well. Urgent ones have a room of their own beside it, and
// wait for a turn like all others when that is taken: so neither they nor the
// others can hold the others up.
type slots struct {
	max     int // in weights, like the next two
	reserve int // never taken by prefetch
	aside   int // the room for urgent ones

	mu       sync.Mutex // guards all below
	now      int        // what may be in use, at most max
	inUse    int
	apart    int       // what is in use of aside
	count    int       // downloads that inUse and apart stand for
	demand   list.List // of *ticket, first come first served, save those that ask again
	urgent   list.List // those of demand that are urgent
	prefetch list.List
}

// ticket is one download, waiting or under way.
type ticket struct {
	weight  int
	urgent  bool
	again   bool
	ready   chan struct{} // closed with the grant
	granted bool          // guarded by slots.mu, like all below
	apart   bool          // granted from the room for urgent ones
	queue   *list.List    // where it waits
	place   *list.Element // in queue
	ahead   *list.Element // in slots.urgent; nil: it does not wait there
}

// newSlots makes room for n large downloads, and for a quarter as many urgent ones.
func newSlots(n int) *slots {
	quarter := (n + 3) / 4
	return &slots{max: n * largeWeight, now: n * largeWeight, reserve: min(n-1, quarter) * largeWeight, aside: quarter * largeWeight}
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
// returns the context's cause. The context says whether it is prefetch or urgent;
// a prefetch becomes an on-demand download when promoted is closed. again: it has had
// its turn, which failed, and goes before the others.
func (s *slots) acquire(ctx context.Context, weight int, again bool, promoted <-chan struct{}) (*ticket, error) {
	t := &ticket{weight: weight, urgent: isUrgent(ctx), again: again, ready: make(chan struct{})}
	s.mu.Lock()
	if IsPrefetch(ctx) {
		t.queue = &s.prefetch
		t.place = t.push(&s.prefetch)
	} else {
		promoted = nil
		s.demanded(t)
	}
	s.dispatch()
	s.mu.Unlock()
	for {
		select {
		case <-t.ready:
			return t, nil
		case <-promoted:
			promoted = nil
			s.mu.Lock()
			if !t.granted {
				s.leave(t)
				s.demanded(t)
				s.dispatch()
			}
			s.mu.Unlock()
		case <-ctx.Done():
			s.mu.Lock()
			if t.granted {
				s.giveBack(t)
			} else {
				s.leave(t)
			}
			s.dispatch()
			s.mu.Unlock()
			return nil, context.Cause(ctx)
		}
	}
}

// demanded puts t behind those that somebody waits for. mu is held.
func (s *slots) demanded(t *ticket) {
	t.queue = &s.demand
	t.place = t.push(&s.demand)
	if t.urgent {
		t.ahead = t.push(&s.urgent)
	}
}

// push puts t where it waits in a queue.
func (t *ticket) push(queue *list.List) *list.Element {
	if t.again {
		return queue.PushFront(t)
	}
	return queue.PushBack(t)
}

// leave takes t out of where it waits. mu is held.
func (s *slots) leave(t *ticket) {
	t.queue.Remove(t.place)
	if t.ahead != nil {
		s.urgent.Remove(t.ahead)
	}
}

func (s *slots) release(t *ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(t)
	s.dispatch()
}

// giveBack takes t out of what is in use. mu is held.
func (s *slots) giveBack(t *ticket) {
	if t.apart {
		s.apart -= t.weight
	} else {
		s.inUse -= t.weight
	}
	s.count--
}

// dispatch grants what can be granted. mu is held.
func (s *slots) dispatch() {
	for s.grantApart() {
	}
	for s.grant(&s.demand, s.now) {
	}
	for s.grant(&s.prefetch, s.now-s.reserve) {
	}
}

// grantApart lets the first urgent one go if it fits into the room for such, or is
// alone there. mu is held.
func (s *slots) grantApart() bool {
	first := s.urgent.Front()
	if first == nil {
		return false
	}
	t := first.Value.(*ticket)
	if s.apart+t.weight > s.aside && s.apart > 0 {
		return false
	}
	t.apart = true
	s.apart += t.weight
	s.let(t)
	return true
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
	s.inUse += t.weight
	s.let(t)
	return true
}

// let has t go. mu is held.
func (s *slots) let(t *ticket) {
	s.leave(t)
	t.granted = true
	s.count++
	close(t.ready)
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
