package session

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountInfo is one of our mounts, as /proc/self/mountinfo shows it.
type MountInfo struct {
	// Mountpoint is absolute, links resolved, any bytes.
	Mountpoint string
	// Root is the directory of the file system that is mounted there: "/", or
	// another for a bind mount of a part.
	Root string
	// Options are the mount's and the connection's: ro, nosuid, max_read=131072.
	Options []string
	// Connection is the connection's name in /sys/fs/fuse/connections.
	Connection uint32
}

// FindMounts lists the mounts of type FSType and source FSName in this mount
// namespace, in the order in which they were made, dead ones included. It asks
// no daemon and so never hangs on one.
func FindMounts() ([]MountInfo, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(data), nil
}

// IsMounted says whether a mount of ours, alive or dead, is what one sees at
// the path.
func IsMounted(path string) (bool, error) {
	dir, err := Resolve(path)
	if err != nil {
		return false, err
	}
	mounts, err := FindMounts()
	if err != nil {
		return false, err
	}
	return top(mounts, dir) != nil, nil
}

// top returns the last of our mounts at dir, nil if there is none.
func top(mounts []MountInfo, dir string) *MountInfo {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Mountpoint == dir {
			return &mounts[i]
		}
	}
	return nil
}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)):
//
//	36 35 98:0 /root /mountpoint opts [optional fields] - type source superopts
//
// A mount of ours that another file system was mounted over is left out, since
// unmounting that path would hit the other one.
func parseMounts(data []byte) []MountInfo {
	type place struct {
		info MountInfo
		ours bool
	}
	var all []place
	last := make(map[string]int) // mount point -> index in all
	for line := range bytes.Lines(data) {
		head, tail, found := strings.Cut(strings.TrimSuffix(string(line), "\n"), " - ")
		left, right := strings.Fields(head), strings.Fields(tail)
		if !found || len(left) < 6 || len(right) < 2 {
			continue
		}
		m := MountInfo{Mountpoint: unescape(left[4]), Root: unescape(left[3]), Options: strings.Split(left[5], ",")}
		if len(right) > 2 {
			m.Options = append(m.Options, strings.Split(right[2], ",")...)
		}
		major, minor, _ := strings.Cut(left[2], ":")
		hi, _ := strconv.ParseUint(major, 10, 12)
		lo, _ := strconv.ParseUint(minor, 10, 20)
		m.Connection = uint32(hi<<20 | lo) // the kernel's own dev_t, not glibc's
		last[m.Mountpoint] = len(all)
		all = append(all, place{m, right[0] == FSType && unescape(right[1]) == FSName})
	}
	var ours []MountInfo
	for _, p := range all {
		if p.ours && all[last[p.info.Mountpoint]].ours {
			ours = append(ours, p.info)
		}
	}
	return ours
}

// unescape decodes \ooo, by which the kernel writes blanks, newlines,
// backslashes and #.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Resolve makes a path absolute and free of links, as the mount points of
// FindMounts are, without touching what is mounted there: the daemon may be dead.
func Resolve(path string) (string, error) {
	if path == "" {
		return "", errors.New("no mount point given")
	}
	const maxLinks = 40 // as the kernel
	for range maxLinks {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if abs == "/" {
			return abs, nil
		}
		parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", err
		}
		path = filepath.Join(parent, filepath.Base(abs))
		// readlink of a mount point is EINVAL without asking its daemon.
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		path = target
	}
	return "", &os.PathError{Op: "resolve", Path: path, Err: unix.ELOOP}
}
