package launch

import (
	"errors"
	"syscall"
)

const (
	fSetPipeSize = 1031     // F_SETPIPE_SZ, which package syscall lacks
	maxInfo      = 64 << 10 // bytes that bwrap says of itself
)

// wire is one pipe to bwrap. Blocking, for bwrap does not expect anything else of its descriptors.
type wire struct {
	ours, theirs int
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
	w := wire{p[1], p[0]}
	if outward {
		w = wire{p[0], p[1]}
	}
	if packet {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(w.ours), fSetPipeSize, 4096); e != 0 {
			return w, e
		}
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(w.theirs), syscall.F_SETFD, 0); e != 0 {
		return w, e
	}
	return w, nil
}

func writeTo(fd int, text []byte) error {
	for len(text) > 0 {
		n, err := syscall.Write(fd, text)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

func readAllFrom(fd int) ([]byte, error) {
	var out []byte
	buf := make([]byte, 512)
	for len(out) <= maxInfo {
		n, err := syscall.Read(fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return nil, err
		case n == 0:
			return out, nil
		default:
			out = append(out, buf[:n]...)
		}
	}
	return nil, ErrContainer
}
