package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// cleanUpTime bounds the way out.
const cleanUpTime = 20 * time.Second

// cleanUp takes away the mount, the processes, the server and the files,
// wherever the demo ended. What it cannot take away is in the error.
func (d *demo) cleanUp() error {
	if d.work == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTime)
	defer cancel()
	// a daemon that was stopped at its start may have mounted after our first look
	errs := []error{d.unmountAll(ctx), d.endProcesses(ctx), d.unmountAll(ctx)}
	if d.site != nil {
		errs = append(errs, d.site.server.Close())
	}
	if mounts, err := d.mounts(); err != nil || len(mounts) > 0 {
		return errors.Join(append(errs, err, fmt.Errorf("left where it is: %s, for something is mounted in it", d.work))...)
	}
	return errors.Join(append(errs, removeAll(d.work))...)
}

// showLog prints the end of the daemon's log, for a demo that failed.
func (d *demo) showLog() {
	text, err := os.ReadFile(filepath.Join(d.work, "cache/neurodeskfs.log"))
	if d.work == "" || err != nil {
		return
	}
	const most = 4000
	d.out.say("\nThe daemon's log:\n%s", text[max(0, len(text)-most):])
}

// unmountAll unmounts what is mounted in our directory, the last first.
func (d *demo) unmountAll(ctx context.Context) error {
	mounts, err := d.mounts()
	errs := []error{err}
	for _, m := range slices.Backward(mounts) {
		if _, err := session.Unmount(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// endProcesses gives the processes of this run 2 s to end by themselves, then
// asks them to, then makes them.
func (d *demo) endProcesses(ctx context.Context) error {
	const pause = 50 * time.Millisecond
	for _, signal := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		for _, pid := range d.processes() {
			syscall.Kill(pid, signal) // 0 does nothing. Once each: a second SIGTERM ends a daemon before it has unmounted
		}
		for range 2 * time.Second / pause {
			if len(d.processes()) == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("left running: %v", d.processes())
			case <-time.After(pause):
			}
		}
	}
	return fmt.Errorf("left running: %v", d.processes())
}

// leftovers names the mounts and processes of this run.
func (d *demo) leftovers() []string {
	var left []string
	mounts, err := d.mounts()
	if err != nil {
		left = append(left, err.Error())
	}
	for _, m := range mounts {
		left = append(left, "the mount "+m)
	}
	for _, pid := range d.processes() {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		left = append(left, fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))))
	}
	return left
}

// mounts are the mount points in our directory, in the order in which they were
// made.
func (d *demo) mounts() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.work+"/") {
			list = append(list, f[4])
		}
	}
	return list, nil
}

// processes are those that this run started, and theirs: they have our marker in
// their environment. The dead, whom their parent has yet to fetch, have none.
func (d *demo) processes() []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(b []byte) bool { return string(b) == marker+"="+d.work }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
