package launch

import (
	"errors"
	"os"
	"syscall"
)

// Linux numbers that package syscall lacks.
const (
	fSetPipeSize  = 1031               // F_SETPIPE_SZ
	sysPidfdOpen  = 434                // pidfd_open(2), on every architecture
	pidfdNonblock = syscall.O_NONBLOCK // PIDFD_NONBLOCK
)

// maxInfo bounds the bytes that bwrap says of itself.
const maxInfo = 64 << 10

// wire is one pipe to bwrap. Its end blocks, for it does not expect anything else of its descriptors. Ours does not, so that
// we wait in the runtime's poller. While we are in read(2) or wait4(2), its monitor wakes every 20 µs to see whether that
// takes long, perhaps on the CPU on which bwrap works.
type wire struct {
	ours           *os.File
	number, theirs int // descriptors
}

// newWire makes a pipe of which bwrap has the reading end, or, outward, the writing one. A packet wire holds one packet:
// a second write returns only when the first has been read.
func newWire(outward, packet bool) (wire, error) {
	var p [2]int
	flags := syscall.O_CLOEXEC
	if packet {
		flags |= syscall.O_DIRECT
	}
	if err := syscall.Pipe2(p[:], flags); err != nil {
		return wire{}, err
	}
	w := wire{number: p[1], theirs: p[0]}
	if outward {
		w.number, w.theirs = p[0], p[1]
	}
	err := syscall.SetNonblock(w.number, true)
	w.ours = os.NewFile(uintptr(w.number), "pipe to bwrap")
	if packet && err == nil {
		err = fcntl(w.number, fSetPipeSize, 4096)
	}
	if err == nil {
		err = fcntl(w.theirs, syscall.F_SETFD, 0)
	}
	if err != nil {
		w.close()
	}
	return w, err
}

func (w wire) close() {
	w.ours.Close()
	if w.theirs >= 0 {
		syscall.Close(w.theirs)
	}
}

func fcntl(fd int, what, value uintptr) error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), what, value); e != 0 {
		return e
	}
	return nil
}

// reap waits for the end of a child: in the poller, where the kernel can (Linux 5.10).
func reap(pid int) (status syscall.WaitStatus, err error) {
	ended := func(options int) bool {
		var n int
		n, err = syscall.Wait4(pid, &status, options, nil)
		return n != 0 && !errors.Is(err, syscall.EINTR)
	}
	if fd, _, e := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), pidfdNonblock, 0); e == 0 {
		f := os.NewFile(fd, "child")
		defer f.Close()
		conn, connErr := f.SyscallConn()
		if connErr == nil && conn.Read(func(uintptr) bool { return ended(syscall.WNOHANG) }) == nil {
			return status, err
		}
	}
	for !ended(0) {
	}
	return status, err
}
