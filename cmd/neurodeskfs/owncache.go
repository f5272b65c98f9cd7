package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// overflowUID is what a user namespace shows for owners that it does not have.
const overflowUID = 65534

// ownCache refuses a cache directory that is another user's, or that another user
// has put something into, for what the cache holds is believed: who finds a name
// free in /var/tmp that a job will use could choose what the job runs. Nobody else
// may write to it from now on. It makes the directory if need be. configured is the
// user of the configuration, whose files root believes too.
func ownCache(dir, configured string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the cache directory cannot be made: %w: choose another by --cache DIR", err)
	}
	me := os.Geteuid()
	if me == 0 {
		return rootsOwn(dir, servants(configured))
	}
	return ownedBy(dir, me, mapped("/proc/self/uid_map", 0))
}

// ownedBy is ownCache for the user me. Without root among the users that can be
// told apart, what is root's looks like anybody's.
func ownedBy(dir string, me int, rootKnown bool) error {
	own := func(uid int) bool { return uid == me || uid == 0 || !rootKnown && uid == overflowUID }
	info, err := checkOwnerOf(dir, own)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); owner(info) == me && mode&0o022 != 0 {
		_ = os.Chmod(dir, mode&^0o022) // a file system without modes has its own
	}
	return checkEntries(dir, own)
}

// rootsOwn is ownCache for root, who might be led to give away, and to let everybody
// run, what one user has put there. What others may write to is left as it is, and
// refused: it may be no cache at all.
func rootsOwn(dir string, servants []int) error {
	own := func(uid int) bool { return uid == 0 || slices.Contains(servants, uid) }
	info, err := checkOwnerOf(dir, own)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 || mode&0o020 != 0 && group(info) != 0 {
		return failf(exitFailure, "others may write to the cache directory %s (mode %o), and could change what runs from it: chmod go-w %s, or choose another by --cache DIR", dir, mode, dir)
	}
	strangers := mapped("/proc/self/uid_map", overflowUID) // else who is not known may be the host's root
	return checkEntries(dir, func(uid int) bool { return own(uid) || !strangers && uid == overflowUID })
}

func group(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }

func checkOwnerOf(dir string, own func(uid int) bool) (fs.FileInfo, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("the cache directory: %w", err)
	}
	if !own(owner(info)) {
		return nil, failf(exitFailure, "the cache directory %s belongs to another user (uid %d), who could change what runs from it: choose another by --cache DIR", dir, owner(info))
	}
	return info, nil
}

// checkEntries is checkOwnerOf for what lies in dir.
func checkEntries(dir string, own func(uid int) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the cache directory: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has just removed it
		}
		if err == nil && !own(owner(info)) {
			err = failf(exitFailure, "%s belongs to another user (uid %d), who could change what runs from the cache: choose another by --cache DIR", filepath.Join(dir, e.Name()), owner(info))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
