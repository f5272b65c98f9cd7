package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The journal is the file in memory whose pages are the request buffers of all
// slots, so that what a worker was busy with outlives it. It is the kernel that
// writes it: read(2) puts the request there. A request begins with its length,
// which is set to 0 before a buffer is read into and after its reply was written.
// So what stands there with a length when a worker has died was taken off the
// device, and may or may not have been answered; answering again is harmless
// (ENOENT), as the kernel never gives a number twice.
//
// On Linux before 6.9, which cannot send requests again (FUSE_NOTIFY_RESEND),
// the next worker answers them from here. Everywhere they tell the supervisor
// what was under way when a worker crashed.

// slotStride is a slot's share of the journal: slotIn, in whole pages of up to 64 KiB.
var slotStride = (slotIn + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)

func newJournal() (*os.File, error) {
	return memoryFile("neurodeskfs-requests", int64(slotStride)*maxReaders)
}

// request is what the journal says of one that was under way.
type request struct {
	slot   int
	length int
	opcode uint32
	unique uint64 // without the bit that says it was sent again
}

// uniqueResend is set in the unique of a request that the kernel sends again
// (FUSE_UNIQUE_RESEND, include/uapi/linux/fuse.h).
const uniqueResend = 1 << 63

// underWay lists the requests in the first slots of the journal that the kernel
// waits for, or waited for until they were answered, and interrupts of them.
func underWay(journal *os.File, slots int) ([]request, error) {
	var all []request
	var header [inHeaderSize]byte
	for i := range min(slots, maxReaders) {
		if _, err := journal.ReadAt(header[:], int64(i)*int64(slotStride)); err != nil {
			return nil, fmt.Errorf("session: journal: %w", err)
		}
		r := request{
			slot: i, length: int(binary.NativeEndian.Uint32(header[:])), opcode: binary.NativeEndian.Uint32(header[4:]),
			unique: binary.NativeEndian.Uint64(header[8:]) &^ uniqueResend,
		}
		if r.length >= inHeaderSize && r.length <= slotIn && (r.opcode == opInterrupt || !noReply(r.opcode)) {
			all = append(all, r)
		}
	}
	return all, nil
}

// forget empties the first slots of the journal. No worker may be alive.
func forget(journal *os.File, slots int) error {
	err := unix.Fallocate(int(journal.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(slots)*int64(slotStride))
	if err != nil && slots > 0 {
		return fmt.Errorf("session: empty the journal: %w", err)
	}
	return nil
}

// errNoResend is returned by resend where the kernel cannot do it.
var errNoResend = errors.New("the kernel is older than 6.9")

// notifyResend asks for all requests that were read and not answered
// (FUSE_NOTIFY_RESEND, Linux 6.9).
const notifyResend = 7

// resend makes the kernel send again what was read and not answered. Nobody may
// be left who has read and could answer: else the request is run twice, or is
// lost if the reader dies just then.
func resend(device io.Writer) error {
	var msg [outHeaderSize]byte
	binary.NativeEndian.PutUint32(msg[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(msg[4:], notifyResend)
	_, err := device.Write(msg[:])
	switch {
	case errors.Is(err, unix.EINVAL):
		return errNoResend
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EPERM):
		return errGone
	case err != nil:
		return fmt.Errorf("fuse: have the requests sent again: %w", err)
	}
	return nil
}
