package fs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// GetXAttr implements fuse.RawFileSystem. It is always answered, never ENOSYS,
// which would hold for every file of the connection. Names outside the
// namespaces that a read-only image can carry are absent without a look.
func (f *FS) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !carried(name) {
		return 0, fuse.Status(unix.ENODATA)
	}
	v, entry, err := f.node(header.NodeId)
	if err != nil {
		return 0, f.status("GETXATTR", header.NodeId, err)
	}
	value, err := v.Xattr(newRequest(cancel), entry, name)
	if err != nil {
		return 0, f.status("GETXATTR", header.NodeId, err)
	}
	return give(dest, value)
}

// carried reports whether name is in a namespace of which anything can be
// stored, or is made (see fs/image, magic attributes).
func carried(name string) bool {
	for _, prefix := range []string{"user.", "trusted.", "security.", "xfsroot."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	v, entry, err := f.node(header.NodeId)
	if err != nil {
		return 0, f.status("LISTXATTR", header.NodeId, err)
	}
	names, err := v.Xattrs(newRequest(cancel), entry)
	if err != nil {
		return 0, f.status("LISTXATTR", header.NodeId, err)
	}
	var list []byte
	for _, n := range names {
		list = append(append(list, n...), 0)
	}
	return give(dest, list)
}

// give copies value to dest, or says how much room it needs.
func give(dest, value []byte) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}
