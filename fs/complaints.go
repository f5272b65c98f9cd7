package fs

import (
	"fmt"
	"sync"
	"time"
)

const (
	complaintPause = time.Minute // between two of the same
	maxComplaints  = 256         // remembered
)

// complaints keeps a file that cannot be read from filling the log: the kernel
// asks again for each reader, and programs try again. Safe for concurrent use.
type complaints struct {
	mu   sync.Mutex // guards last
	last map[string]*complaint
}

type complaint struct {
	at      time.Time // when it was logged
	repeats int       // since then
}

// again says whether err of node is to be logged now, and how often it has
// been kept back since it was logged before.
func (c *complaints) again(node uint64, err error) (repeats int, log bool) {
	key, now := fmt.Sprintf("%d %v", node, err), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.last[key]; known != nil {
		if now.Sub(known.at) < complaintPause {
			known.repeats++
			return 0, false
		}
		repeats = known.repeats
	} else if len(c.last) >= maxComplaints {
		c.forget(now)
	}
	if c.last == nil {
		c.last = map[string]*complaint{}
	}
	c.last[key] = &complaint{at: now}
	return repeats, true
}

// forget makes room: what is old goes, or else all.
func (c *complaints) forget(now time.Time) {
	for key, known := range c.last {
		if now.Sub(known.at) >= complaintPause {
			delete(c.last, key)
		}
	}
	if len(c.last) >= maxComplaints {
		clear(c.last)
	}
}
