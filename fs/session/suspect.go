package session

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// trialTime is how long a suspect request is run alone. One that has crashed no
// worker by then may wait for its download beside the others. Where there are many,
// each gets its share of allTrials, and shortTrial at least: somebody waits for the
// last of them.
const (
	trialTime  = time.Second
	allTrials  = 5 * time.Second
	shortTrial = 50 * time.Millisecond
)

// suspicion is what a worker knows of the crashes before it. The requests that
// were under way are run one at a time, each named on the board meanwhile, so
// that the next crash tells which one it was; see suspects.
type suspicion struct {
	suspects, condemned []uint64       // not changed any more
	trial               *atomic.Uint64 // on the board
	turn                sync.Mutex
}

func newSuspicion(suspects, condemned []uint64, trial *atomic.Uint64) *suspicion {
	trial.Store(0)
	return &suspicion{suspects: suspects, condemned: condemned, trial: trial}
}

// examine handles the request in sl.in[:n] if it is a suspect's or condemned,
// and reports whether it did.
func (c *suspicion) examine(s *Session, sl *slot, n int) bool {
	unique := binary.NativeEndian.Uint64(sl.in[8:]) &^ uniqueResend
	if slices.Contains(c.condemned, unique) {
		s.log.Error("fuse: a request that crashed three workers gets EIO",
			"opcode", opcodeName(binary.NativeEndian.Uint32(sl.in[4:])), "node", binary.NativeEndian.Uint64(sl.in[16:]))
		s.reply(errorReply(sl.in[:n], sl.out, unix.EIO))
		return true
	}
	if !slices.Contains(c.suspects, unique) {
		return false
	}
	c.turn.Lock()
	c.trial.Store(unique)
	var once sync.Once
	acquit := func() {
		once.Do(func() {
			c.trial.Store(0)
			c.turn.Unlock()
		})
	}
	timer := time.AfterFunc(min(trialTime, max(shortTrial, allTrials/time.Duration(len(c.suspects)))), acquit)
	defer timer.Stop()
	defer acquit()
	s.answer(sl, n)
	return true
}

// suspects is what the supervisor knows of requests that were under way when
// workers crashed.
type suspects struct {
	present   []uint64       // under way at the last crash
	crashes   map[uint64]int // how many crashes each had, alone or as one of several
	condemned []uint64
}

// crashLimit is how many workers a request may crash, maxSuspects how many are
// suspected at one time: all must fit in the message to the next worker.
const (
	crashLimit  = 3
	maxSuspects = 4096
)

// crashed notes a crash with these requests under way; trial is the one that was
// run alone, 0 for none.
func (s *suspects) crashed(underWay []request, trial uint64) {
	crashes := map[uint64]int{}
	s.present = s.present[:0]
	// Those that were under way at a crash before come first.
	slices.SortStableFunc(underWay, func(a, b request) int { return s.crashes[b.unique] - s.crashes[a.unique] })
	for _, r := range underWay {
		if r.opcode == opInterrupt {
			continue
		}
		if len(s.present) == maxSuspects {
			break
		}
		s.present = append(s.present, r.unique)
		crashes[r.unique] = s.crashes[r.unique]
		if trial == 0 || trial == r.unique {
			crashes[r.unique]++
		}
	}
	if trial != 0 && crashes[trial] >= crashLimit {
		s.condemned = append(s.condemned, trial)
	}
	s.crashes = crashes
}

// calm forgets all, when a worker has lived long enough.
func (s *suspects) calm() { *s = suspects{} }
