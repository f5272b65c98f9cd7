package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

const (
	// answerPatience is how long a mount may take to say who serves it, where a
	// command can do without.
	answerPatience = 3 * time.Second
	// mountPatience is how long it may take where the command is about it: more
	// than until a worker that shows no sign of life is replaced.
	mountPatience = time.Minute
)

// errNoAnswer is returned when a mount is there, but hangs.
var errNoAnswer = errors.New("does not answer")

// within calls do, which waits for a mount, and itself waits no longer than
// patience, or until ctx ends. do may go on until the process ends.
func within[T any](ctx context.Context, patience time.Duration, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		done <- result{value, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%w within %s", errNoAnswer, patience))
	defer cancel()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return *new(T), context.Cause(ctx)
	}
}

// readOwn reads a file of M/.neurodeskfs. The kernel may know it by heart, statfs
// asks the daemon: what is returned comes from a mount that answers.
func readOwn(mountpoint, name string) ([]byte, error) {
	b, err := within(context.Background(), mountPatience, func() ([]byte, error) {
		if err := unix.Statfs(mountpoint, new(unix.Statfs_t)); err != nil {
			return nil, &os.PathError{Op: "statfs", Path: mountpoint, Err: err}
		}
		return os.ReadFile(filepath.Join(mountpoint, ".neurodeskfs", name))
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, failf(exitNoMount, "no neurodeskfs is mounted at %s: neurodeskfs mount %s", mountpoint, mountpoint)
	case session.DaemonIsGone(err):
		return nil, failf(exitNoMount, "the daemon of %s is gone: neurodeskfs umount %s, then mount again", mountpoint, mountpoint)
	case errors.Is(err, errNoAnswer):
		return nil, fmt.Errorf("%s %w: neurodeskfs umount %s takes it away", mountpoint, err, mountpoint)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", mountpoint, err)
	}
	return b, nil
}

// statusOf asks a mount for its status; a zero one when it does not answer.
func statusOf(m string) Status {
	s, err := within(context.Background(), answerPatience, func() (s Status, err error) {
		b, err := readOwn(m, "status.json")
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		return s, err
	})
	if err != nil {
		return Status{}
	}
	return s
}
