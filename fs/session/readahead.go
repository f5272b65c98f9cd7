package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// RaiseReadAhead lets the kernel read MaxRead bytes ahead on the mount at
// mountpoint, where it would read 128 KiB. Only root of the first user namespace
// may; for anybody else it does nothing and returns nil. Call it when Ready is
// closed: with INIT the kernel sets its own figure. It asks nothing of the daemon.
//
// Reading 256 MiB in order, all in the cache and nothing in the kernel, costs
// this much processor time in the daemon and in the reader together (Linux 6.18,
// two AMD EPYC cores, the least of six runs; a READ is as large as the smaller
// of the two):
//
//	MaxRead   read-ahead    READs    CPU
//	128 KiB   128 KiB       2,048    422 ms   what a user has
//	128 KiB   1 MiB         2,048    303 ms
//	256 KiB   256 KiB       1,024    275 ms   what root has
//	512 KiB   512 KiB         512    273 ms
//	1 MiB     1 MiB           256    237 ms
//	1 MiB     128 KiB       2,048    431 ms
//
// So larger READs without read-ahead are none, and the step from 128 to 256 KiB
// is most of what there is to gain. 1 MiB is not worth its price: request buffers
// are locked (slot.go), RLIMIT_MEMLOCK is 8 MiB for users, which is 29 buffers of
// 256 KiB, and would be 7 of 1 MiB; and a page fault in a mapped file reads as much
// as the read-ahead says.
//
// It is the size of requests only that this is about. The kernel keeps a FUSE
// file's pages one by one (no large folios) whatever the size of the READs: fs has
// the figures of that.
func RaiseReadAhead(mountpoint string) error {
	dir, err := Resolve(mountpoint)
	if err != nil {
		return err
	}
	mounts, err := FindMounts()
	if err != nil {
		return err
	}
	m := top(mounts, dir)
	if m == nil {
		return fmt.Errorf("raise the read-ahead of %s: %w", mountpoint, ErrNotMounted)
	}
	// The kernel's dev_t again, taken apart: 12 and 20 bits.
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", m.Connection>>20, m.Connection&(1<<20-1))
	err = os.WriteFile(file, []byte(strconv.Itoa(MaxRead>>10)), 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil // a user, a private namespace, or a /sys that is read-only or absent
	}
	if err != nil {
		return fmt.Errorf("raise the read-ahead of %s: %w", mountpoint, err)
	}
	return nil
}
