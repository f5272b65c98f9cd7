package session

import (
	"encoding/binary"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// slotIn holds the largest request: an ioctl argument of 16 KiB and its
	// headers. The kernel refuses reads (EINVAL) into less than 8192 bytes or
	// less than 80 + max_write.
	slotIn = 20 << 10
	// slotOut holds a reply header, the largest fixed reply and MaxRead bytes.
	slotOut = MaxRead + 4096
	// maxLocked bounds the slots that are populated and locked: 8 MiB, what
	// RLIMIT_MEMLOCK gives a user by default. Those beyond are for requests that
	// wait for something, and cost only what they touch.
	maxLocked = (8 << 20) / (slotIn + slotOut)
	// keepSlots is how long a slot that nobody uses stays mapped.
	keepSlots = 10 * time.Second
)

// slot is the memory of one request: the kernel writes the request to in and
// reads the reply from out.
type slot struct {
	in, out []byte
	number  int  // in the journal
	heap    bool // the memory is Go's
	locked  bool
	absent  bool // a test's
}

// clear notes that the slot holds no request that waits for an answer. It also
// makes the first page, which is all that most requests need, resident.
func (s *slot) clear() {
	if !s.absent {
		binary.NativeEndian.PutUint32(s.in, 0)
	}
}

// slotPool makes slots and keeps those that come back for a while. Safe for
// concurrent use.
type slotPool struct {
	log     *slog.Logger
	journal *os.File       // nil: requests are in this process's own memory
	used    *atomic.Uint32 // the journal's slots that were ever used
	absent  *os.File       // a test's: a file whose pages are the request buffers

	mu      sync.Mutex // guards what follows
	free    []*slot    // not locked, unused
	ready   []*slot    // locked, unused
	numbers []int      // of the journal's slots below next that are not mapped
	next    int
	total   int // slots in use or unused
	locked  int
	refused bool // a lock was refused
	closed  bool
	trim    *time.Timer // set while there are unused slots
}

func newSlotPool(log *slog.Logger) *slotPool { return &slotPool{log: log, used: new(atomic.Uint32)} }

// get returns an unused slot or maps a new one. It never fails: memory that
// cannot be mapped or locked comes unlocked, from the heap at the worst.
func (p *slotPool) get() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range []*[]*slot{&p.ready, &p.free} {
		if n := len(*list); n > 0 {
			s := (*list)[n-1]
			*list = (*list)[:n-1]
			return s
		}
	}
	number := p.next
	if n := len(p.numbers); n > 0 {
		number, p.numbers = p.numbers[n-1], p.numbers[:n-1]
	} else {
		p.next++
	}
	return p.make(number)
}

// take maps the slots of the journal that have requests in them, for their
// owners; it must come before the first get.
func (p *slotPool) take(numbers []int) []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = int(p.used.Load())
	for i := range p.next {
		if !slices.Contains(numbers, i) {
			p.numbers = append(p.numbers, i)
		}
	}
	var slots []*slot
	for _, n := range numbers {
		slots = append(slots, p.make(n))
	}
	return slots
}

// make maps a slot; mu is held.
func (p *slotPool) make(number int) *slot {
	p.total++
	s := p.newSlot(number, p.locked < maxLocked)
	p.used.Store(max(p.used.Load(), uint32(number)+1))
	if s.locked {
		p.locked++
	} else if p.locked < maxLocked && !p.refused {
		p.refused = true
		p.log.Warn("fuse: request buffers could not be locked in memory; "+
			"raise RLIMIT_MEMLOCK (ulimit -l), or a read may fail with EIO if the daemon is killed",
			"locked_slots", p.locked, "slot_bytes", slotIn+slotOut)
	}
	return s
}

// newSlot maps the memory of one slot: the request's from the journal, if there
// is one, the reply's anywhere.
func (p *slotPool) newSlot(number int, lock bool) *slot {
	fd, offset, flags := -1, int64(0), unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if p.journal != nil {
		fd, offset, flags = int(p.journal.Fd()), int64(number)*int64(slotStride), unix.MAP_SHARED
	}
	if p.absent != nil {
		fd, offset, flags, lock = int(p.absent.Fd()), 0, unix.MAP_PRIVATE, false
	}
	populate := 0
	if lock {
		populate = unix.MAP_POPULATE
	}
	const prot = unix.PROT_READ | unix.PROT_WRITE
	in, err := unix.Mmap(fd, offset, slotIn, prot, flags|populate)
	if err == nil {
		var out []byte
		out, err = unix.Mmap(-1, 0, slotOut, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|populate)
		if err == nil {
			s := &slot{in: in, out: out, number: number, absent: p.absent != nil}
			s.locked = lock && unix.Mlock(in) == nil && unix.Mlock(out) == nil
			return s
		}
		_ = unix.Munmap(in)
	}
	memory := make([]byte, slotIn+slotOut)
	return &slot{in: memory[:slotIn:slotIn], out: memory[slotIn:], number: number, heap: true}
}

// put takes a slot back. It is unmapped after keepSlots, unless it is used again.
func (p *slotPool) put(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.release(s)
		return
	}
	if s.locked {
		p.ready = append(p.ready, s)
	} else {
		p.free = append(p.free, s)
	}
	if p.trim == nil {
		p.trim = time.AfterFunc(keepSlots, p.trimFree)
	}
}

// trimFree unmaps what is unused. Slots that came back late in the period go
// too: mapping one again costs less than 100 us.
func (p *slotPool) trimFree() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trim = nil
	p.releaseFree()
}

// close unmaps the unused slots, and from now on every slot as it comes back.
func (p *slotPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.trim != nil {
		p.trim.Stop()
		p.trim = nil
	}
	p.releaseFree()
}

func (p *slotPool) releaseFree() {
	for _, s := range append(p.ready, p.free...) {
		p.release(s)
	}
	p.ready, p.free = nil, nil
}

// release unmaps s and gives its pages back; mu is held.
func (p *slotPool) release(s *slot) {
	p.total--
	if s.locked {
		p.locked--
	}
	p.numbers = append(p.numbers, s.number)
	if !s.heap {
		// These cannot fail on mappings of ours; munmap unlocks as well.
		if p.journal != nil {
			_ = unix.Munlock(s.in) // what is locked cannot be given back
			_ = unix.Madvise(s.in, unix.MADV_REMOVE)
		}
		_ = unix.Munmap(s.in)
		_ = unix.Munmap(s.out)
	}
	*s = slot{}
}

func (p *slotPool) stats() (total, locked int, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total, p.locked, p.refused
}
