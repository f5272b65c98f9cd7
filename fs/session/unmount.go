package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unmount takes our mount away from the path, alive or dead. A busy one is
// detached (lazy is true): its name is free at once, and the connection, and
// with it Serve, ends when the last user has closed its files.
//
// Errors: ErrNotMounted, ErrNoFuse, or what the system said. ctx ends a
// fusermount3 that hangs. Safe for concurrent use.
func Unmount(ctx context.Context, path string) (lazy bool, err error) {
	dir, err := Resolve(path)
	if err != nil {
		return false, fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := stillMounted(dir); err != nil {
		return false, fmt.Errorf("unmount %s: %w", path, err)
	}
	if mayMount() {
		lazy, err = unmountDirect(dir)
	}
	if !mayMount() || errors.Is(err, unix.EPERM) {
		lazy, err = unmountByHelper(ctx, dir)
	}
	if err != nil {
		return false, fmt.Errorf("unmount %s: %w", path, err)
	}
	return lazy, nil
}

func stillMounted(dir string) error {
	mounts, err := FindMounts()
	if err != nil {
		return err
	}
	if top(mounts, dir) == nil {
		return ErrNotMounted
	}
	return nil
}

func unmountDirect(dir string) (lazy bool, err error) {
	err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		lazy = true
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) {
		if gone := stillMounted(dir); gone != nil {
			err = gone // somebody else was faster
		}
	}
	return lazy && err == nil, err
}

// unmountByHelper does the same by fusermount3, for the user who mounted. Its
// exit status does not tell a busy mount from a refusal, but a refused one is
// refused again.
func unmountByHelper(ctx context.Context, dir string) (lazy bool, err error) {
	helper, err := findHelper()
	if err != nil {
		return false, err
	}
	if _, err := helperCommand(ctx, helper, "-u", "--", dir).CombinedOutput(); err == nil {
		return false, nil
	}
	if err := stillMounted(dir); err != nil {
		return false, err
	}
	out, err := helperCommand(ctx, helper, "-u", "-z", "--", dir).CombinedOutput()
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, fmt.Errorf("%s: %w", helper, context.Cause(ctx))
	}
	return false, fmt.Errorf("%s: %s (%w)", filepath.Base(helper), bytes.TrimSpace(out), err)
}
