package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// launcherSuffix is where the launcher lies in the mount.
const launcherSuffix = "/.neurodeskfs/launcher"

// checkMountpoint returns the absolute path of a directory that can be mounted
// on, or says why it cannot.
func checkMountpoint(mountpoint, cacheDir string) (string, error) {
	abs, err := filepath.Abs(mountpoint)
	if err != nil {
		return "", err
	}
	if err := checkShebang(abs, shebangLimit()); err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	switch {
	case session.DaemonIsGone(err):
		return abs, nil // a dead mount, which the daemon clears away
	case errors.Is(err, os.ErrNotExist) && abs == defaultMountpoint && os.Geteuid() != 0:
		return "", failf(exitUsage, "the mount point %s does not exist: name a directory of yours, such as ~/neurodesk", abs)
	case errors.Is(err, os.ErrNotExist):
		return "", failf(exitUsage, "the mount point %s does not exist: mkdir -p %s", abs, abs)
	case err != nil:
		return "", failf(exitUsage, "mount point: %w", err)
	case !info.IsDir():
		return "", failf(exitUsage, "the mount point %s is not a directory", abs)
	}
	if overlaps(abs, cacheDir) {
		return "", failf(exitUsage, "the mount point %s would hide the cache %s: a cache must lie outside the mount (--cache DIR)", abs, cacheDir)
	}
	if overlaps(cacheDir, abs) {
		return "", failf(exitUsage, "the mount point %s lies in the cache %s: mount elsewhere", abs, cacheDir)
	}
	return abs, nil
}

// clearDeadMount takes away a mount whose daemon is gone. The kernel may know the
// attributes of its root by heart, for an hour; statfs always asks the daemon.
func clearDeadMount(ctx context.Context, mountpoint string) error {
	if !session.DaemonIsGone(unix.Statfs(mountpoint, new(unix.Statfs_t))) {
		return nil // what else is wrong with it is found when it is mounted upon
	}
	// What shows a part of it, as cvmfs_at does, is as dead, and in the way too.
	_, err := unmountParts(ctx, resolve(mountpoint))
	if err == nil {
		_, err = session.Unmount(ctx, mountpoint)
	}
	if err != nil {
		return fmt.Errorf("the mount point %s holds a dead mount that cannot be taken away: %w", mountpoint, err)
	}
	return nil
}

// overlaps reports whether inner is outer or lies below it, links resolved.
func overlaps(outer, inner string) bool {
	rel, err := filepath.Rel(resolve(outer), resolve(inner))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// resolve follows links as far as the path exists.
func resolve(path string) string {
	for dir, rest := path, ""; ; {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
	}
}

// checkShebang refuses a mount point that cannot stand in a `#!` line.
func checkShebang(mountpoint string, limit int) error {
	if strings.ContainsAny(mountpoint, " \t\n\r") {
		return failf(exitUsage, "the mount point %q has a blank in it, and a #! line ends at one: mount elsewhere", mountpoint)
	}
	if line := len("#!") + len(mountpoint) + len(launcherSuffix) + len("\n"); line > limit {
		return failf(exitUsage, "the mount point is %d bytes too long, for this kernel reads %d bytes of a #! line: mount at a shorter path", line-limit, limit)
	}
	return nil
}

// shebangLimit is how much of a `#!` line the kernel reads: 255 bytes, 127
// before Linux 5.1 (fs/binfmt_script.c, BINPRM_BUF_SIZE).
func shebangLimit() int {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		part := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
		if len(part) > 1 {
			major, _ := strconv.Atoi(part[0])
			minor, _ := strconv.Atoi(strings.TrimRight(part[1], "-abcdefghijklmnopqrstuvwxyz+"))
			if major < 5 || major == 5 && minor < 1 {
				return 127
			}
		}
	}
	return 255
}

// findMount returns the mount point that a command is about: the one that is
// named, else $NEURODESK_MOUNT, else the only mount there is, else this user's
// only mount, else /neurodesk.
func findMount(named string) (string, error) {
	if named == "" {
		named = os.Getenv("NEURODESK_MOUNT")
	}
	if named != "" {
		return filepath.Abs(named)
	}
	mounts, err := wholeMounts()
	if err != nil {
		return "", err
	}
	switch len(mounts) {
	case 0:
		return "", failf(exitNoMount, "nothing is mounted: neurodeskfs mount DIR")
	case 1:
		return mounts[0].Mountpoint, nil
	}
	own := slices.DeleteFunc(slices.Clone(mounts), func(m session.MountInfo) bool { return !isOwn(m) })
	if len(own) == 1 {
		return own[0].Mountpoint, nil
	}
	if slices.ContainsFunc(mounts, func(m session.MountInfo) bool { return m.Mountpoint == defaultMountpoint }) {
		return defaultMountpoint, nil
	}
	var names []string
	for _, m := range mounts {
		names = append(names, m.Mountpoint)
	}
	return "", failf(exitUsage, "there are %d mounts: name one, or export NEURODESK_MOUNT=DIR (%s)", len(mounts), strings.Join(names, ", "))
}

// isOwn tells whether this user has mounted it.
func isOwn(m session.MountInfo) bool {
	return slices.Contains(m.Options, "user_id="+strconv.Itoa(os.Geteuid()))
}

// wholeMounts lists our mounts without the bind mounts of what is mounted
// elsewhere already, and without those that are another user's alone.
func wholeMounts() ([]session.MountInfo, error) {
	all, err := session.FindMounts()
	if err != nil {
		return nil, err
	}
	seen := map[uint32]bool{}
	return slices.DeleteFunc(all, func(m session.MountInfo) bool {
		if os.Geteuid() != 0 && !isOwn(m) && !slices.Contains(m.Options, "allow_other") {
			return true
		}
		again := m.Root != "/" || seen[m.Connection]
		seen[m.Connection] = seen[m.Connection] || !again
		return again
	}), nil
}
