package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// showCVMFS binds M/cvmfs at a second place, so that scripts that name
// /cvmfs/FQRN find it. What is mounted there already stays.
func showCVMFS(mountpoint, at string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == at || strings.HasPrefix(f[4], at+"/")) {
			return failf(exitBusy, "cvmfs_at: something is mounted at %s already: take cvmfs_at out of the configuration, or unmount it", f[4])
		}
	}
	err = unix.Mount(filepath.Join(mountpoint, "cvmfs"), at, "", unix.MS_BIND, "")
	switch {
	case errors.Is(err, unix.ENOENT):
		return failf(exitUsage, "cvmfs_at: %s does not exist: mkdir %s", at, at)
	case errors.Is(err, unix.EPERM):
		return failf(exitUsage, "cvmfs_at: only root can mount at %s", at)
	case err != nil:
		return fmt.Errorf("cvmfs_at: mount at %s: %w", at, err)
	}
	return nil
}

// shownCVMFS reports whether M/cvmfs of the mount is shown at that place.
func shownCVMFS(mountpoint, at string) bool {
	mounts, err := session.FindMounts()
	if err != nil {
		return false
	}
	connection := func(place, root string) (found bool, number uint32) {
		if place, err = session.Resolve(place); err != nil {
			return false, 0
		}
		for _, m := range mounts {
			if m.Mountpoint == place && m.Root == root {
				found, number = true, m.Connection
			}
		}
		return found, number
	}
	shown, its := connection(at, "/cvmfs")
	mounted, ours := connection(mountpoint, "/")
	return shown && mounted && its == ours
}

// hideCVMFS takes the bind mount away, lazily when it is in use. It may be
// called more than once.
func hideCVMFS(at string, log *slog.Logger) {
	if at == "" {
		return
	}
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		log.Error("cannot unmount", "mountpoint", at, "err", err)
	}
}
