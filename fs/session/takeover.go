package session

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// begin answers INIT, or takes over what an earlier process agreed on.
func (s *Session) begin() error {
	if s.taken == nil {
		return s.negotiate()
	}
	if err := s.replay(s.taken.Init); err != nil {
		return err
	}
	b, err := mapBoard(s.taken.Board)
	if err != nil {
		return err
	}
	if b.format.Load() != boardFormat {
		unmapBoard(b)
		return fmt.Errorf("session: the board has format %d: %w", b.format.Load(), ErrIncompatible)
	}
	// It stays mapped: Stats may be asked for its counts at any time.
	s.board, s.counts = b, &b.counts
	s.slots.journal, s.slots.used = s.taken.Journal, &b.slots
	if len(s.taken.Suspects)+len(s.taken.Condemned) > 0 {
		s.suspicion = newSuspicion(s.taken.Suspects, s.taken.Condemned, &b.trial)
	}
	close(s.ready)
	return nil
}

// resume runs again what the journal says that the last worker was busy with, or
// forgets it where the kernel sends it again.
func (s *Session) resume() {
	if s.taken == nil {
		return
	}
	used := int(s.board.slots.Load())
	var old []request
	var err error
	if s.taken.Replay {
		if old, err = underWay(s.taken.Journal, used); err != nil {
			s.log.Error("fuse: what was under way is lost; whoever waits for it must be killed", "err", err)
		}
	} else if err = forget(s.taken.Journal, used); err != nil {
		s.log.Warn("fuse: old requests stay in the journal", "err", err)
	}
	numbers := make([]int, len(old))
	for i, r := range old {
		numbers[i] = r.slot
	}
	slots := s.slots.take(numbers)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sl := range slots {
		s.startReader(sl, old[i].length)
	}
}

const (
	beatEvery = time.Second
	// probeUnique is the number of our own request; the kernel's are even.
	probeUnique = 1<<62 | 1
	opGetattr   = 3
)

// showLife asks the file system for the root's attributes, as the kernel would,
// and counts the answers on the board. A worker whose locks are stuck, or that
// gets no processor, counts no further, and the supervisor ends it.
func (s *Session) showLife() {
	if s.board == nil {
		return
	}
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var in [inHeaderSize + 16]byte
	binary.NativeEndian.PutUint32(in[0:], uint32(len(in)))
	binary.NativeEndian.PutUint32(in[4:], opGetattr)
	binary.NativeEndian.PutUint64(in[8:], probeUnique)
	binary.NativeEndian.PutUint64(in[16:], rootNode)
	out := make([]byte, 4096)
	for {
		if _, ok := s.handle(in[:], out); ok {
			s.board.beat.Add(1)
		}
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
	}
}

// gone reports whether the kernel has let go of the connection of a descriptor.
func gone(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err != nil || n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0
		}
	}
}
