package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// boardFormat is raised when the layout of board changes; a worker that knows
// another one cannot take over.
const boardFormat = 1

// board is a page of memory that supervisor and workers share: the counts that
// outlive a worker, its signs of life, and who is who. All fields are atomic and
// are read without any order between them.
type board struct {
	format  atomic.Uint64
	counts  counters
	beat    atomic.Uint64 // counts the worker's signs of life
	full    atomic.Uint32 // 1: the worker holds maxReaders requests, so it reads no more
	slots   atomic.Uint32 // how many slots of the journal were ever used
	trial   atomic.Uint64 // the suspect request that the worker runs now, 0: none
	process processes
}

// processes is who serves, and how often that changed.
type processes struct {
	supervisor, worker, standby atomic.Int64 // pids, 0: none
	takeovers                   atomic.Uint64
	lastPause, longestPause     atomic.Int64 // from the end of a worker to the next one's serving, ns
	since                       atomic.Int64 // when the worker began to serve, unix ns
	version                     boardText    // of the supervisor
}

// boardText is a short text on the board. Who reads it while it is written may
// get a mixture.
type boardText [8]atomic.Uint64

// store writes as much of s as there is room for.
func (t *boardText) store(s string) {
	var b [8 * len(t)]byte
	copy(b[:], s)
	for i := range t {
		t[i].Store(binary.LittleEndian.Uint64(b[8*i:]))
	}
}

func (t *boardText) load() string {
	var b []byte
	for i := range t {
		b = binary.LittleEndian.AppendUint64(b, t[i].Load())
	}
	return string(bytes.TrimRight(b, "\x00"))
}

// boardSize is a whole page on every architecture.
const boardSize = 64 << 10

// newBoard makes the file of a board.
func newBoard() (*os.File, error) {
	f, err := memoryFile("neurodeskfs-board", boardSize)
	if err != nil {
		return nil, err
	}
	b, err := mapBoard(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	b.format.Store(boardFormat)
	unmapBoard(b)
	return f, nil
}

// mapBoard maps the board in f; the file may be closed after.
func mapBoard(f *os.File) (*board, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, boardSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("session: map the board: %w", err)
	}
	return (*board)(unsafe.Pointer(unsafe.SliceData(mem))), nil
}

func unmapBoard(b *board) {
	// It cannot fail on a mapping of ours.
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(b)), boardSize))
}

// memoryFile is a file without a name in memory, of size bytes. Unless that is 0,
// it stays so large: who has it mapped is ended by the kernel where it was cut off,
// and root's worker, which has it too, may have been taken over.
func memoryFile(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("session: %s: %w", name, os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), name)
	err = f.Truncate(size)
	if err == nil && size > 0 {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("session: %s: %w", name, err)
	}
	return f, nil
}
