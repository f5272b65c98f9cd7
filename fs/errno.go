package fs

import (
	"context"
	"errors"
	iofs "io/fs"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// errnos is the one table from errors to what a system call returns. What is
// not in it is EIO, and logged.
var errnos = []struct {
	err   error
	errno unix.Errno
}{
	{iofs.ErrNotExist, unix.ENOENT},
	{volume.ErrStale, unix.ESTALE},
	{volume.ErrNotDir, unix.ENOTDIR},
	{volume.ErrNotLink, unix.EINVAL},
	{volume.ErrIsDir, unix.EISDIR},
	{volume.ErrNoXattr, unix.ENODATA},
	{context.Canceled, unix.EINTR},
}

// status turns an error into the answer to a request and logs it, once a minute,
// when the caller will see no more than "Input/output error".
func (f *FS) status(op string, node uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return fuse.Status(e.errno)
		}
	}
	f.ioErrors.Add(1)
	if repeats, log := f.complaints.again(node, err); log {
		f.log.Error("input/output error", "op", op, "node", node, "err", err, "repeats", repeats)
	}
	return fuse.EIO
}
