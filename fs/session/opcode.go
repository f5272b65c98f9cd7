package session

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Opcodes that the loop itself must tell apart (include/uapi/linux/fuse.h).
const (
	opLookup      = 1
	opForget      = 2
	opInit        = 26
	opInterrupt   = 36
	opNotifyReply = 41
	opBatchForget = 42
)

// noReply tells the requests that the kernel does not wait for.
func noReply(opcode uint32) bool {
	return opcode == opForget || opcode == opBatchForget || opcode == opNotifyReply || opcode == opInterrupt
}

// opcodeNames are the kernel's, without FUSE_.
var opcodeNames = [64]string{
	1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK",
	6: "SYMLINK", 8: "MKNOD", 9: "MKDIR", 10: "UNLINK", 11: "RMDIR",
	12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE",
	17: "STATFS", 18: "RELEASE", 20: "FSYNC", 21: "SETXATTR", 22: "GETXATTR",
	23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH", 26: "INIT", 27: "OPENDIR",
	28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR", 31: "GETLK", 32: "SETLK",
	33: "SETLKW", 34: "ACCESS", 35: "CREATE", 36: "INTERRUPT", 37: "BMAP",
	38: "DESTROY", 39: "IOCTL", 40: "POLL", 41: "NOTIFY_REPLY",
	42: "BATCH_FORGET", 43: "FALLOCATE", 44: "READDIRPLUS", 45: "RENAME2",
	46: "LSEEK", 47: "COPY_FILE_RANGE", 48: "SETUPMAPPING",
	49: "REMOVEMAPPING", 50: "SYNCFS", 51: "TMPFILE", 52: "STATX",
	53: "COPY_FILE_RANGE_64",
}

func opcodeName(opcode uint32) string {
	if opcode < uint32(len(opcodeNames)) && opcodeNames[opcode] != "" {
		return opcodeNames[opcode]
	}
	return fmt.Sprintf("OPCODE_%d", opcode)
}

// counters count requests; an opcode beyond the table counts as 0.
type counters struct {
	byOpcode [len(opcodeNames)]atomic.Uint64
	lost     atomic.Uint64
}

func (c *counters) add(opcode uint32) {
	if opcode >= uint32(len(c.byOpcode)) {
		opcode = 0
	}
	c.byOpcode[opcode].Add(1)
}

func (c *counters) total() (n uint64) {
	for i := range c.byOpcode {
		n += c.byOpcode[i].Load()
	}
	return n
}

// Stats are counts since the mount began, whoever served it, and the state of
// this worker's readers.
type Stats struct {
	// ByOpcode counts the requests read from the kernel, by the kernel's name
	// (LOOKUP, READ, BATCH_FORGET, ...). Opcodes never seen are absent.
	ByOpcode map[string]uint64
	// Total is the sum of ByOpcode.
	Total uint64
	// RepliesLost counts replies whose request was gone: interrupted, or ended
	// by the unmount.
	RepliesLost uint64
	// InFlight is how many requests are in their handlers.
	InFlight int
	// Slots is how many request buffers are mapped, Locked how many of them are
	// locked in memory.
	Slots, Locked int
	// LockRefused is set once the system has refused to lock a buffer
	// (RLIMIT_MEMLOCK).
	LockRefused bool
	// SlotBytes is the size of all slots; those that are not locked take less.
	SlotBytes int64
	// Processes are those that serve the mount.
	Processes Processes
}

// Processes are those that serve a mount. Without a supervisor, all is zero.
type Processes struct {
	// Supervisor, Worker and Standby are process ids, 0 for one that is not there.
	Supervisor, Worker, Standby int
	// Version is the supervisor's, empty before it has said it.
	Version string
	// Takeovers counts how often a worker followed another.
	Takeovers uint64
	// LastPause and LongestPause are the times from the end of a worker, as the
	// supervisor saw it, to its successor's serving.
	LastPause, LongestPause time.Duration
	// Since is when the worker began to serve.
	Since time.Time
}

func (p *processes) read() Processes {
	r := Processes{
		Supervisor: int(p.supervisor.Load()), Worker: int(p.worker.Load()), Standby: int(p.standby.Load()), Takeovers: p.takeovers.Load(),
		Version: p.version.load(), LastPause: time.Duration(p.lastPause.Load()), LongestPause: time.Duration(p.longestPause.Load()),
	}
	if at := p.since.Load(); at != 0 {
		r.Since = time.Unix(0, at)
	}
	return r
}

// Stats returns the counts of this moment. They are read one by one, so under
// load they need not add up to the last request.
func (s *Session) Stats() Stats {
	st := Stats{ByOpcode: make(map[string]uint64), RepliesLost: s.counts.lost.Load()}
	for i := range s.counts.byOpcode {
		if n := s.counts.byOpcode[i].Load(); n > 0 {
			st.ByOpcode[opcodeName(uint32(i))] = n
			st.Total += n
		}
	}
	s.mu.Lock()
	for r := range s.readers {
		if r.unique.Load() != 0 {
			st.InFlight++
		}
	}
	s.mu.Unlock()
	st.Slots, st.Locked, st.LockRefused = s.slots.stats()
	st.SlotBytes = int64(st.Slots) * (slotIn + slotOut)
	if s.board != nil {
		st.Processes = s.board.process.read()
	}
	return st
}
