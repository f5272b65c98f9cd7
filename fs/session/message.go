package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor and worker talk over a socket pair of type SOCK_SEQPACKET: one
// message of JSON each, with descriptors. A worker is told Files first, answers
// Ready or Failure, waits for Device, and says Serving. One that has lost its
// supervisor begins by telling the next one Files, the device among them.

// maxMessage bounds a message, bytes: INIT twice and some thousand suspects.
const maxMessage = 128 << 10

// maxFiles bounds the descriptors of a message.
const maxFiles = 32

type message struct {
	// To a worker that has begun: what every worker is given.
	Files []string `json:"files,omitempty"` // names, in the order of the descriptors
	Init  *Init    `json:"init,omitempty"`  // nil: nothing is mounted yet
	First bool     `json:"first,omitempty"` // it is the first of its mount

	// From a worker.
	Ready   bool     `json:"ready,omitempty"`   // it can serve as soon as it has the device
	Serving bool     `json:"serving,omitempty"` // it reads requests
	Failure *Failure `json:"failure,omitempty"` // it cannot serve and ends

	// To a worker that is ready; the descriptor is the device's.
	Device    bool     `json:"device,omitempty"`
	Replay    bool     `json:"replay,omitempty"`
	Suspects  []uint64 `json:"suspects,omitempty"`
	Condemned []uint64 `json:"condemned,omitempty"`
}

// Failure is why a worker cannot serve.
type Failure struct {
	Status       int    `json:"status"` // the exit status that the reason has
	Reason       string `json:"reason"`
	Incompatible bool   `json:"incompatible,omitempty"` // it never could, on this mount
}

func (f *Failure) Error() string { return f.Reason }

// Unwrap makes ErrIncompatible of a worker's refusal.
func (f *Failure) Unwrap() error {
	if f.Incompatible {
		return ErrIncompatible
	}
	return nil
}

// channel is one end of the socket. Messages may be sent from any goroutine;
// one receives.
type channel struct {
	file *os.File
	raw  syscall.RawConn
}

// newChannel takes over a socket's descriptor.
func newChannel(fd int) (*channel, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "supervisor")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &channel{f, raw}, nil
}

func (c *channel) close() { c.file.Close() }

// peer is the process that made the other end, and its user.
func (c *channel) peer() (cred *unix.Ucred, err error) {
	controlErr := c.raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(controlErr, os.NewSyscallError("getsockopt", err))
}

// sendPatience is how long the other side may take to make room for a message.
const sendPatience = 5 * time.Second

func (c *channel) send(m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := c.file.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
		return err
	}
	var sent error
	err = c.raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// receive waits for a message. io.EOF: the other side is gone.
func (c *channel) receive() (m message, files []*os.File, err error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	var n, oobn, flags int
	var got error
	err = c.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, got = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		for tries := 0; got == unix.EINTR || got == unix.ECONNRESET && tries < 3; tries++ {
			// ECONNRESET says once that the other side left something unread; what
			// it sent itself comes after.
			n, oobn, flags, _, got = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return got != unix.EAGAIN
	})
	switch {
	case err != nil:
		return m, nil, err
	case got == unix.ECONNRESET || got == nil && n == 0:
		return m, nil, io.EOF
	case got != nil:
		return m, nil, os.NewSyscallError("recvmsg", got)
	}
	files, err = rightsOf(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("session: a message was cut off")
	}
	if err == nil {
		err = json.Unmarshal(buf[:n], &m)
	}
	if err != nil {
		closeAll(files)
		return message{}, nil, fmt.Errorf("session: message: %w", err)
	}
	return m, files, nil
}

// rightsOf takes the descriptors out of a control message.
func rightsOf(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
