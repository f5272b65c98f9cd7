package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// overflowUID is what a user namespace shows for owners that it does not have.
const overflowUID = 65534

// ownCache refuses a cache directory that is another user's, or that another user
// has put something into, for what the cache holds is believed: who finds a name
// free in /var/tmp that a job will use could choose what the job runs. Nobody else
// may write to it from now on. It makes the directory if need be. Root says by the
// configuration whose it is.
func ownCache(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the cache directory cannot be made: %w: choose another by --cache DIR", err)
	}
	me := os.Geteuid()
	if me == 0 {
		return nil
	}
	return ownedBy(dir, me, mapped("/proc/self/uid_map", 0))
}

// ownedBy is ownCache for the user me. Without root among the users that can be
// told apart, what is root's looks like anybody's.
func ownedBy(dir string, me int, rootKnown bool) error {
	foreign := func(info fs.FileInfo) bool {
		uid := owner(info)
		return uid != me && uid != 0 && (rootKnown || uid != overflowUID)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the cache directory: %w", err)
	}
	if foreign(info) {
		return failf(exitFailure, "the cache directory %s belongs to another user (uid %d), who could change what runs from it: choose another by --cache DIR", dir, owner(info))
	}
	if mode := info.Mode().Perm(); owner(info) == me && mode&0o022 != 0 {
		_ = os.Chmod(dir, mode&^0o022) // a file system without modes has its own
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the cache directory: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has just removed it
		}
		if err == nil && foreign(info) {
			err = failf(exitFailure, "%s belongs to another user (uid %d), who could change what runs from the cache: choose another by --cache DIR", filepath.Join(dir, e.Name()), owner(info))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
