package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Messages to the kernel that nobody asked for (include/uapi/linux/fuse.h).
// FUSE_NOTIFY_INC_EPOCH is not among them: it detaches every mount below ours
// in every mount namespace.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
)

// InodeNotify makes the kernel forget the attributes of a node and its cached
// content (of a directory, the listing) from off on, length bytes; length 0 is
// to the end, and a negative off means the attributes alone. A node that the
// kernel does not hold is no error.
//
// It must not be called from a handler: the kernel waits for READs of that
// node to be answered first. Safe for concurrent use.
func (s *Session) InodeNotify(node uint64, off, length int64) error {
	var body [24]byte
	binary.NativeEndian.PutUint64(body[0:], node)
	binary.NativeEndian.PutUint64(body[8:], uint64(off))
	binary.NativeEndian.PutUint64(body[16:], uint64(length))
	if err := s.notify(notifyInvalInode, body[:]); err != nil {
		return fmt.Errorf("fuse: invalidate node %#x: %w", node, err)
	}
	return nil
}

// EntryNotify makes the kernel forget one name in a directory, so that it is
// looked up again. A name that the kernel does not hold is no error. On a
// directory it detaches every mount below it, in every mount namespace: send
// it for the one name that changed, never for one above something in use.
//
// It must not be called from a handler: the kernel waits for LOOKUPs in that
// directory to be answered first. Safe for concurrent use.
func (s *Session) EntryNotify(parent uint64, name string) error {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("fuse: invalidate %q in node %#x: %w", name, parent, unix.EINVAL)
	}
	body := make([]byte, 16, 16+len(name)+1)
	binary.NativeEndian.PutUint64(body[0:], parent)
	binary.NativeEndian.PutUint32(body[8:], uint32(len(name)))
	body = append(append(body, name...), 0)
	if err := s.notify(notifyInvalEntry, body); err != nil {
		return fmt.Errorf("fuse: invalidate %q in node %#x: %w", name, parent, err)
	}
	return nil
}

func (s *Session) notify(code uint32, body []byte) error {
	msg := make([]byte, outHeaderSize, outHeaderSize+len(body))
	binary.NativeEndian.PutUint32(msg[0:], uint32(outHeaderSize+len(body)))
	binary.NativeEndian.PutUint32(msg[4:], code) // unique stays 0: no request
	n := notice{append(msg, body...), make(chan error, 1)}
	select {
	case s.notices <- n:
	case <-s.done:
		return unix.ENODEV
	}
	if err := <-n.sent; !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// notice is a message for the notifier.
type notice struct {
	text []byte
	sent chan error
}

// notifierName is what the thread is called that sends messages: halted.go says
// what its name is good for.
const notifierName = "nd-notifier"

// sendNotices sends messages, one after another, from a thread of its own, which
// has the connection open and nothing else: it may be all that is left of a worker
// that was killed, and must keep no lock of the cache, no socket and no file then.
func (s *Session) sendNotices() {
	select {
	case <-s.done:
	case first := <-s.notices:
		onOwnThread(func() {
			if err := keepOnly(s.fd); err != nil {
				s.log.Warn("fuse: a worker that is killed may be followed late", "err", err)
			}
			s.send(first)
			for {
				select {
				case <-s.done:
					return
				case n := <-s.notices:
					s.send(n)
				}
			}
		})
	}
}

func (s *Session) send(n notice) {
	_, err := unix.Write(s.fd, n.text)
	n.sent <- err
}

// onOwnThread calls do on a thread that ends with it, and is not the process's
// first: what that has open, and how it is called, is what /proc/self shows.
func onOwnThread(do func()) {
	var own sync.WaitGroup
	own.Go(func() {
		runtime.LockOSThread() // the thread ends with this goroutine
		if unix.Gettid() != unix.Getpid() {
			do()
			return
		}
		onOwnThread(do) // on another, as this one is taken
		runtime.UnlockOSThread()
	})
	own.Wait()
}

// keepOnly gives the calling thread a table of descriptors of its own, in which fd
// is the only one, and then its name.
func keepOnly(fd int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	const last = 1<<31 - 1
	err := unix.CloseRange(uint(fd)+1, last, 0)
	if err == nil && fd > 0 {
		err = unix.CloseRange(0, uint(fd)-1, 0)
	}
	if err != nil { // Linux before 5.9
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		for other := range int(min(limit.Cur, last)) {
			if other != fd {
				_ = unix.Close(other) // most are not open
			}
		}
	}
	name, err := unix.BytePtrFromString(notifierName)
	if err == nil {
		err = os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0))
	}
	return err
}
