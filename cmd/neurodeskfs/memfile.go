package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memoryFile is an empty file without a name in memory.
func memoryFile(name string) (*os.File, error) { return newMemoryFile(name, 0) }

// allSeals leave a file in memory as it is, whoever has it open.
const allSeals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// sealedFile is a file without a name in memory that nobody can change.
func sealedFile(name string, content []byte) (*os.File, error) {
	f, err := newMemoryFile(name, unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(content, 0); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, allSeals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func newMemoryFile(name string, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|flags)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, os.NewSyscallError("memfd_create", err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// newTableFile makes the file of a node table: one without a name, which lives
// as long as the mount. Where the file system has no such files it lies in memory.
func newTableFile(cacheDir string) (*os.File, error) {
	fd, err := unix.Open(cacheDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return memoryFile("neurodeskfs-nodes")
	}
	return os.NewFile(uintptr(fd), "nodes"), nil
}
