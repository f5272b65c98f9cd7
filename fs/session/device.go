package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	inHeaderSize  = 40 // struct fuse_in_header, include/uapi/linux/fuse.h
	outHeaderSize = 16 // struct fuse_out_header
	rootNode      = 1
)

const (
	// surplusWait is how long a reader that is not needed waits for requests.
	surplusWait = 5 * time.Second
	// readRetries and retryPause bound how a reader takes errors of the device
	// that it does not know.
	readRetries = 10
	retryPause  = 100 * time.Millisecond
)

// errGone is returned by receive when the kernel has let go of the mount, and
// errIdle when a reader that is not needed saw no request for surplusWait.
var (
	errGone = errors.New("fuse: unmounted")
	errIdle = errors.New("fuse: no request")
)

// go-fuse answers a LOOKUP of this name in the root by itself, with a file that
// does not exist. We never mount by its server, which is what it is for.
var pollHackName = []byte(".go-fuse-epoll-hack\x00")

// loop reads and answers requests until the mount is gone or enough other
// readers wait.
func (s *Session) loop(r *reader) {
	for failures := 0; ; {
		n, err := s.next(r)
		switch {
		case err == nil:
			failures = 0
		case errors.Is(err, errIdle):
			if s.crew.dismiss() {
				return
			}
			continue
		case errors.Is(err, errGone):
			s.finish()
			return
		default:
			failures++
			s.log.Error("fuse: cannot read the next request", "err", err, "attempt", failures)
			if failures == readRetries {
				s.fail(err)
				s.finish()
				return
			}
			select {
			case <-s.done:
				return
			case <-time.After(retryPause):
			}
			continue
		}
		if !s.serve(r, n) {
			return
		}
	}
}

// serve answers the request of n bytes in r's slot; false tells the reader to end.
func (s *Session) serve(r *reader, n int) bool {
	r.pid.Store(binary.NativeEndian.Uint32(r.slot.in[32:]))
	r.unique.Store(binary.NativeEndian.Uint64(r.slot.in[8:]))
	s.crew.enter()
	if s.suspicion == nil || !s.suspicion.examine(s, r.slot, n) {
		s.answer(r.slot, n)
	}
	r.slot.clear()
	r.unique.Store(0)
	return s.crew.leave()
}

// next waits for a request. A reader that is one too many waits by poll(2), as
// only that has a time-out.
func (s *Session) next(r *reader) (int, error) {
	if s.crew.surplus() {
		ready, err := s.poll(surplusWait)
		if err != nil {
			return 0, err
		}
		if !ready {
			return 0, errIdle
		}
	}
	r.slot.clear()
	return s.receive(r.slot.in)
}

// receive reads one request into buf and returns its length, at least the
// header's.
func (s *Session) receive(buf []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, buf)
		switch err {
		case nil:
			if n < inHeaderSize {
				return 0, fmt.Errorf("fuse: a request of %d bytes", n)
			}
			return n, nil
		case unix.EINTR, unix.ENOENT:
			// ENOENT: the request was interrupted before we could take it.
		case unix.EAGAIN:
			// O_NONBLOCK belongs to the open file, which other processes may
			// share; it is not ours to clear.
			if _, err := s.poll(-1); err != nil {
				return 0, err
			}
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, errGone
		default:
			return 0, fmt.Errorf("fuse: read the device: %w", err)
		}
	}
}

// poll waits until the device has a request or has come to its end. A negative
// wait is for ever.
func (s *Session) poll(wait time.Duration) (ready bool, err error) {
	ms := -1
	if wait >= 0 {
		ms = int(wait.Milliseconds())
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, ms)
		switch err {
		case nil:
			return n > 0, nil
		case unix.EINTR:
		default:
			return false, fmt.Errorf("fuse: poll the device: %w", err)
		}
	}
}

// answer handles the request in sl.in[:n] and writes the reply.
func (s *Session) answer(sl *slot, n int) {
	in := sl.in[:n]
	opcode := binary.NativeEndian.Uint32(in[4:])
	s.counts.add(opcode)
	if opcode == opInterrupt {
		s.onInterrupt(in)
		return
	}
	if opcode == opLookup && binary.NativeEndian.Uint64(in[16:]) == rootNode &&
		bytes.Equal(in[inHeaderSize:], pollHackName) {
		s.reply(errorReply(in, sl.out, unix.ENOENT))
		return
	}
	size, ok := s.handle(in, sl.out)
	switch {
	case !ok && !noReply(opcode):
		s.reply(errorReply(in, sl.out, unix.EIO))
	case ok && size > 0:
		if s.reply(sl.out[:size]) == unix.EINVAL {
			// A reply that the kernel does not take (an errno out of range)
			// would leave the caller waiting for ever.
			s.log.Error("fuse: the kernel refused a reply; the request gets EIO",
				"opcode", opcodeName(opcode), "bytes", size)
			s.reply(errorReply(in, sl.out, unix.EIO))
		}
	}
}

// handle passes the request to go-fuse. Not ok means that there is no reply
// though there should be one.
func (s *Session) handle(in, out []byte) (size int, ok bool) {
	defer func() {
		// go-fuse recovers from panics of the file system, not from those of a
		// ReadResult or of its own.
		if v := recover(); v != nil {
			s.onPanic(v)
			size, ok = 0, false
		}
	}()
	size, status := s.server.HandleRequest([][]byte{in}, [][]byte{out})
	return size, status == fuse.OK
}

// reply writes one reply. That the request is gone (ENOENT: it was interrupted
// or answered by another process) or the mount is, is normal and counted.
func (s *Session) reply(b []byte) error {
	_, err := unix.Write(s.fd, b)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENODEV, unix.EPERM:
		s.counts.lost.Add(1)
	case unix.EINVAL:
	default:
		s.counts.lost.Add(1)
		s.log.Error("fuse: cannot write a reply", "err", err, "bytes", len(b))
	}
	return err
}

// errorReply builds the reply to in that carries nothing but an errno.
func errorReply(in, out []byte, errno unix.Errno) []byte {
	out = out[:outHeaderSize]
	binary.NativeEndian.PutUint32(out, outHeaderSize)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	copy(out[8:16], in[8:16]) // unique
	return out
}

func opcodeOf(in []byte) uint32 { return binary.NativeEndian.Uint32(in[4:]) }
