package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Init is what was agreed when the connection began: the kernel's INIT request
// and our reply, headers included, as they went over the descriptor. It
// holds for the life of the mount.
type Init struct {
	Request []byte
	Reply   []byte
}

// Offsets in the bytes of INIT (include/uapi/linux/fuse.h).
const (
	initRequestFlags  = inHeaderSize + 12
	initRequestFlags2 = inHeaderSize + 16
	initReplyFlags    = outHeaderSize + 12
	initReplyMaxWrite = outHeaderSize + 20
	initReplyFlags2   = outHeaderSize + 32
)

// protocolOptions says what we ask of the kernel. go-fuse takes ASYNC_READ,
// PARALLEL_DIROPS, READDIRPLUS, MAX_PAGES and NO_OPEN_SUPPORT by itself, where
// the kernel offers them. READDIRPLUS_AUTO stays off, so that every listing
// brings the attributes along: rows carry them. No write-back, locks, ACLs,
// passthrough, id maps or io_uring.
func (s *Session) protocolOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		Name:          FSType,
		MaxWrite:      MaxRead, // go-fuse derives max_pages from it; see patchInit
		MaxBackground: maxBackground,
		Logger:        slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		PanicHandler:  s.onPanic,
		// Content under one node id never changes, so the kernel keeps its
		// pages whatever mtime says, and links as well.
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        fuse.CAP_NO_OPENDIR_SUPPORT,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH | fuse.CAP_OVER_IO_URING,
	}
}

// patchInit changes go-fuse's INIT reply where it has no option: max_write,
// which go-fuse ties to max_pages. max_write sizes the read buffers only, and
// nothing is ever written to a read-only mount.
func patchInit(reply []byte) {
	if len(reply) >= initReplyMaxWrite+4 {
		binary.NativeEndian.PutUint32(reply[initReplyMaxWrite:], maxWrite)
	}
}

// negotiate reads and answers INIT, which is the first request of every
// connection. errGone: the mount went away before.
func (s *Session) negotiate() error {
	sl := s.slots.get()
	defer s.slots.put(sl)
	n, err := s.receive(sl.in)
	if err != nil {
		return err
	}
	in := sl.in[:n]
	opcode := binary.NativeEndian.Uint32(in[4:])
	s.counts.add(opcode)
	if opcode != opInit {
		s.reply(errorReply(in, sl.out, unix.EIO))
		return fmt.Errorf("fuse: the first request is %s, not INIT: this descriptor is in use already", opcodeName(opcode))
	}
	size, ok := s.handle(in, sl.out)
	if !ok || size < outHeaderSize {
		s.reply(errorReply(in, sl.out, unix.EPROTO))
		return fmt.Errorf("fuse: INIT of %d bytes was not understood", n)
	}
	reply := sl.out[:size]
	if errno := -int32(binary.NativeEndian.Uint32(reply[4:])); errno != 0 {
		s.reply(reply)
		return fmt.Errorf("fuse: the kernel's FUSE protocol is not supported (Linux 4.18 or newer is needed): %w", unix.Errno(errno))
	}
	patchInit(reply)
	s.mu.Lock()
	s.init = Init{Request: bytes.Clone(in), Reply: bytes.Clone(reply)}
	s.mu.Unlock()
	switch err := s.reply(reply); err {
	case nil:
	case unix.ENOENT, unix.ENODEV:
		return errGone
	default:
		return fmt.Errorf("fuse: answer INIT: %w", err)
	}
	close(s.ready)
	return nil
}

// Negotiate answers INIT on a new connection, for workers that are given the
// descriptor after. It blocks until the kernel has sent INIT, which follows
// mount(2) at once.
func Negotiate(device *os.File, log *slog.Logger) (Init, error) {
	s := New(device, fuse.NewDefaultRawFileSystem(), Options{Logger: log})
	defer s.slots.close()
	if err := s.negotiate(); err != nil {
		return Init{}, err
	}
	return s.Init(), nil
}

// ErrIncompatible is returned when a worker would not answer INIT as the
// connection's first one did: what was agreed holds for the life of the mount,
// so only a new mount helps.
var ErrIncompatible = errors.New("this version cannot take over the mount; it needs a new one (neurodeskfs umount, then mount)")

// Compatible reports whether a worker of this version can serve a connection
// that was negotiated so. The error wraps ErrIncompatible.
func Compatible(init Init) error {
	s := New(nil, fuse.NewDefaultRawFileSystem(), Options{})
	defer s.slots.close()
	return s.replay(init)
}

// replay makes go-fuse believe that the kernel has just sent INIT, and compares
// its reply with the one that the kernel was given. Offers of the kernel that the
// first worker did not take are left out: a newer worker might take them.
func (s *Session) replay(init Init) error {
	if len(init.Request) < initRequestFlags+4 || len(init.Reply) < initReplyFlags2+4 {
		return fmt.Errorf("fuse: INIT of %d bytes, reply of %d: %w", len(init.Request), len(init.Reply), ErrIncompatible)
	}
	in := bytes.Clone(init.Request)
	agreed := init.Flags() | fuse.CAP_INIT_EXT
	mask(in[initRequestFlags:], uint32(agreed))
	if len(in) >= initRequestFlags2+4 {
		mask(in[initRequestFlags2:], uint32(agreed>>32))
	}
	out := make([]byte, slotOut)
	size, ok := s.handle(in, out)
	if !ok {
		return fmt.Errorf("fuse: INIT was not understood: %w", ErrIncompatible)
	}
	reply := out[:size]
	patchInit(reply)
	if !bytes.Equal(reply, init.Reply) {
		return fmt.Errorf("fuse: INIT would be answered %x, not %x: %w", reply, init.Reply, ErrIncompatible)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init = init
	return nil
}

func mask(b []byte, flags uint32) {
	binary.NativeEndian.PutUint32(b, binary.NativeEndian.Uint32(b)&flags)
}

// Init returns what was negotiated; empty before Ready is closed.
func (s *Session) Init() Init {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Init{Request: bytes.Clone(s.init.Request), Reply: bytes.Clone(s.init.Reply)}
}

// Flags returns the capabilities that both sides agreed on, as go-fuse's CAP_
// constants name them.
func (i Init) Flags() uint64 {
	if len(i.Reply) < initReplyFlags2+4 {
		return 0
	}
	low := binary.NativeEndian.Uint32(i.Reply[initReplyFlags:])
	high := binary.NativeEndian.Uint32(i.Reply[initReplyFlags2:])
	return uint64(low) | uint64(high)<<32
}
