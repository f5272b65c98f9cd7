package cvmfstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FromDir makes a tree of a directory on disk: modes, owners, times with
// nanoseconds, symbolic and hard links, devices, fifos, sockets, and the extended
// attributes user.* and security.capability. Content is read when it is
// published, and must not change before.
func FromDir(dir string) (*Tree, error) {
	t := NewTree()
	r := dirReader{links: make(map[[2]uint64]*Node)}
	root, err := r.node(dir)
	if err != nil {
		return nil, err
	}
	if !root.isDir() {
		return nil, fmt.Errorf("cvmfstest: %s is no directory", dir)
	}
	t.root = root
	return t, nil
}

// A dirReader knows the files with several names by device and inode number.
type dirReader struct{ links map[[2]uint64]*Node }

func (r *dirReader) node(p string) (*Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	n := newNode(st.Mode)
	id := [2]uint64{st.Dev, st.Ino}
	if !n.isDir() && st.Nlink > 1 {
		if old := r.links[id]; old != nil {
			return old, nil
		}
		r.links[id] = n
	}
	n.UID, n.GID, n.MTime = st.Uid, st.Gid, time.Unix(st.Mtim.Unix())
	var err error
	if n.Xattrs, err = readXattrs(p); err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return n, r.entries(n, p)
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(p)
		return n, err
	case unix.S_IFREG:
		n.content = source{st.Size, func() (io.ReadCloser, error) { return os.Open(p) }}
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = st.Rdev
	}
	return n, nil
}

func (r *dirReader) entries(n *Node, p string) error {
	list, err := os.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		c, err := r.node(filepath.Join(p, e.Name()))
		if err != nil {
			return err
		}
		n.children[e.Name()] = c
	}
	return nil
}

// readXattrs reads what a real server would publish. A file system without
// attributes has none.
func readXattrs(p string) (map[string]string, error) {
	list := make([]byte, 1<<16) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			return nil, nil
		}
		return nil, &os.PathError{Op: "listxattr", Path: p, Err: err}
	}
	var found map[string]string
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + name, Path: p, Err: err}
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = string(value[:n])
	}
	return found, nil
}
