package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// marker is the variable by which this run knows its processes again.
const marker = "NEURODESKFS_BENCH"

func (b *bench) marker() string { return marker + "=" + b.work }

// cleanUpTime bounds each clean-up.
const cleanUpTime = time.Minute

// onExit has f called when the case ends.
func (b *bench) onExit(f func() error) { b.closers = append(b.closers, f) }

// cleanUp takes away everything. What it cannot take away is in the error.
func (b *bench) cleanUp() error {
	err := b.empty()
	if mounts, mountErr := b.mountPoints(); mountErr != nil || len(mounts) > 0 {
		return errors.Join(err, mountErr, fmt.Errorf("left where it is: %s, for something is mounted in it", b.work))
	}
	return errors.Join(err, removeAll(b.work))
}

// empty ends mounts, processes and servers, and removes the case's files. It
// does so whether or not the run was stopped, hence its own context.
func (b *bench) empty() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTime)
	defer cancel()
	// a daemon that was stopped at its start may have mounted after the first look
	errs := []error{b.unmountAll(ctx), endProcesses(ctx, b.marker()), b.unmountAll(ctx)}
	for _, f := range slices.Backward(b.closers) {
		errs = append(errs, f())
	}
	b.closers = nil
	if mounts, _ := b.mountPoints(); b.scratch != "" && len(mounts) == 0 {
		errs = append(errs, removeAll(b.scratch))
	}
	return errors.Join(errs...)
}

func (b *bench) unmountAll(ctx context.Context) error {
	mounts, err := b.mountPoints()
	errs := []error{err}
	for _, m := range slices.Backward(mounts) {
		errs = append(errs, unmount(ctx, m))
	}
	return errors.Join(errs...)
}

// unmount takes any mount away, detached if it is in use.
func unmount(ctx context.Context, dir string) error {
	if os.Geteuid() == 0 && unix.Unmount(dir, 0) == nil {
		return nil
	}
	if _, err := session.Unmount(ctx, dir); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// mountPoints are those in our directory, in the order in which they were made.
func (b *bench) mountPoints() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], b.work+"/") {
			list = append(list, f[4])
		}
	}
	return list, nil
}

// endProcesses gives the processes of processes(variable) 5 s to end by
// themselves, then asks them to, then makes them.
func endProcesses(ctx context.Context, variable string) error {
	const pause = 20 * time.Millisecond
	for _, signal := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		for _, pid := range processes(variable) {
			syscall.Kill(pid, signal) // once each: a second SIGTERM ends a daemon before it has unmounted
		}
		for range 5 * time.Second / pause {
			if len(processes(variable)) == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("left running: %v", processes(variable))
			case <-time.After(pause):
			}
		}
	}
	return fmt.Errorf("left running: %v", processes(variable))
}

// processes are those that have a variable (NAME=VALUE) in their environment: this
// run's have its marker, and the dead, whom their parent has yet to fetch, have none.
func processes(variable string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == variable }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeAll removes a tree, directories without write permission too.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
