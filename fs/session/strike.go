package session

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// shortLife is the life of a worker that came to nothing.
	shortLife = 50 * time.Millisecond
	// calmAfter is the life of a worker that ends all suspicion.
	calmAfter = 10 * time.Second
	// freeStrikes are not followed by a pause; then pauses grow from firstPause to
	// longestPause.
	freeStrikes  = 3
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// hopelessAfter is the number of strikes from which on requests get EIO in the
	// pauses: nobody must hang for ever because no worker can be started.
	hopelessAfter = 9
)

// judge decides, when the active worker has ended, how long to wait before the
// next, and which requests are to blame.
func (s *Supervisor) judge(e event) time.Duration {
	p := e.from
	lived := time.Duration(0)
	if p.serving {
		lived = time.Since(p.began)
	}
	if lived >= calmAfter {
		s.suspects.calm()
	}
	if e.crash {
		list, err := underWay(s.files[fileJournal], int(s.board.slots.Load()))
		if err != nil {
			s.log.Error("the requests under way are not known", "err", err)
		}
		s.suspects.crashed(list, s.board.trial.Load())
	}
	switch {
	case lived >= shortLife:
		s.strikes = 0
	case e.crash:
		return s.strike()
	}
	return 0
}

// strike counts a worker that came to nothing, and says how long to wait before
// the next.
func (s *Supervisor) strike() time.Duration {
	s.strikes++
	if s.strikes <= freeStrikes {
		return 0
	}
	return min(firstPause<<min(s.strikes-freeStrikes-1, 16), longestPause)
}

// pause makes proceed do nothing for a while.
func (s *Supervisor) pause(d time.Duration) {
	if d == 0 {
		return
	}
	s.retry = time.After(d)
	if s.active == nil {
		s.log.Error("workers end again and again; a pause before the next", "pause", d, "in_a_row", s.strikes)
		if s.strikes >= s.hopeless {
			s.refuse(d)
		}
	}
}

// refuse answers requests with EIO for as long as no worker can be had.
func (s *Supervisor) refuse(pause time.Duration) {
	s.log.Error("no worker can be started; requests get an I/O error until one can")
	device := New(s.device, nil, Options{Logger: s.log})
	defer device.slots.close()
	sl := device.slots.get()
	defer device.slots.put(sl)
	for until := time.Now().Add(pause); time.Now().Before(until); {
		ready, err := device.poll(time.Until(until))
		if err != nil || !ready {
			return
		}
		n, err := device.receive(sl.in)
		if err != nil {
			return // the main loop sees why
		}
		if r := sl.in[:n]; !noReply(opcodeOf(r)) {
			device.reply(errorReply(r, sl.out, unix.EIO))
		}
	}
}

const watchEvery = time.Second

// watchdog is what was seen of the active worker.
type watchdog struct {
	beat    uint64 // signs of life
	silent  int    // ticks without one
	read    uint64 // requests read
	waiting int    // ticks in which a request waited and none was read
}

// watch kills a worker that shows no sign of life, or that leaves requests
// unread. It counts its own ticks rather than time, so that a machine that was
// asleep, or a frozen control group, is not taken for a stuck worker.
func (s *Supervisor) watch() {
	if s.active == nil || !s.active.told {
		return
	}
	w := &s.watchdog
	beat, read := s.board.beat.Load(), s.board.counts.total()
	if w.silent++; beat != w.beat {
		w.silent = 0
	}
	if w.waiting++; read != w.read || s.board.full.Load() != 0 || !unread(int(s.device.Fd())) {
		w.waiting = 0
	}
	w.beat, w.read = beat, read
	if limit := int(s.o.StuckAfter / watchEvery); w.silent >= limit || w.waiting >= limit {
		s.log.Error("the worker is stuck and is killed", "pid", s.active.pid, "silent_s", w.silent, "requests_unread_s", w.waiting)
		s.active.kill()
		*w = watchdog{}
	}
}

// unread reports whether the kernel has requests that nobody has read.
func unread(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
}
