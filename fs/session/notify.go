package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

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
	msg = append(msg, body...)
	_, err := unix.Write(s.fd, msg)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
