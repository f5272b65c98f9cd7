package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// umountPatience is how long umount waits for the daemon to end, so that its
// cache can be used again at once.
const umountPatience = 10 * time.Second

func newUmount() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "umount [MOUNTPOINT]",
		Short: "Unmount, when in use as soon as the last user leaves",
		Long: `Unmounts the tree and waits until its daemon has ended. A tree in use is taken
away from its place at once and served until its last user has left; the
programs that hold it are named. With --wait, umount returns when they have left
and the daemon has ended.`,
		Example: "  neurodeskfs umount ~/neurodesk\n  neurodeskfs umount --wait",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := findMount(optional(args))
			if err != nil {
				return err
			}
			return unmount(c.Context(), m, wait, c.ErrOrStderr())
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait, however long, for the programs that use the tree")
	return c
}

func unmount(ctx context.Context, m string, wait bool, out io.Writer) error {
	held, _ := lookAtMount(m)
	pid := daemonPID(m)
	partBusy, err := unmountParts(ctx, m)
	if err != nil {
		return err
	}
	lazy, err := session.Unmount(ctx, m)
	lazy = lazy || partBusy
	switch {
	case errors.Is(err, session.ErrNotMounted):
		return failf(exitNoMount, "no neurodeskfs is mounted at %s: findmnt -t "+session.FSType+" lists the mounts", m)
	case err != nil && anothers(m):
		return failf(exitFailure, "%s is another user's mount: only that user and root may unmount it", m)
	case err != nil:
		return err
	case !lazy && awaitEnd(pid, umountPatience):
		return nil
	}
	known := report(out, m, held, lazy)
	switch {
	case wait:
		awaitEnd(pid, -1)
	case !lazy && !known:
		return fmt.Errorf("unmounted, but the daemon (pid %d) has not ended after %s: neurodeskfs umount --wait waits for it", pid, umountPatience)
	}
	return nil
}

// anothers tells whether somebody else has mounted m. Who is root in a user
// namespace only is not told apart by its number.
func anothers(m string) bool {
	if os.Geteuid() == 0 {
		return false
	}
	mounts, err := session.FindMounts()
	if at, gone := session.Resolve(m); gone == nil {
		m = at
	}
	return err == nil && slices.ContainsFunc(mounts, func(i session.MountInfo) bool { return i.Mountpoint == m && !isOwn(i) })
}

// report says who keeps the daemon of an unmounted tree busy, and whether anybody
// was found.
func report(out io.Writer, m string, held heldMount, lazy bool) (known bool) {
	g := held.findHolders()
	for _, b := range held.below {
		g.mounts = append(g.mounts, "mounted below: "+b)
	}
	if lazy {
		fmt.Fprintf(out, "neurodeskfs: %s is in use: it is gone from there, and served until its last user leaves\n", m)
	} else {
		fmt.Fprintf(out, "neurodeskfs: %s is unmounted, but still in use elsewhere\n", m)
	}
	g.print(out)
	return len(g.holders)+len(g.mounts) > 0
}

// unmountParts takes away where parts of the mount m are shown as well
// (cvmfs_at); they would keep the daemon alive. busy: one is in use.
func unmountParts(ctx context.Context, m string) (busy bool, err error) {
	mounts, err := session.FindMounts()
	if err != nil {
		return false, err
	}
	if m, err = session.Resolve(m); err != nil {
		return false, nil // Unmount says what is wrong
	}
	i := slices.IndexFunc(mounts, func(i session.MountInfo) bool { return i.Mountpoint == m && i.Root == "/" })
	if i < 0 {
		return false, nil // Unmount says what is wrong
	}
	for _, p := range mounts {
		if p.Connection == mounts[i].Connection && p.Root != "/" {
			lazy, err := session.Unmount(ctx, p.Mountpoint)
			if err != nil {
				return busy, err
			}
			busy = busy || lazy
		}
	}
	return busy, nil
}

// daemonPID asks a mount for its daemon; 0 when it does not answer. The daemon is
// the worker where the supervisor is gone.
func daemonPID(m string) int {
	s := statusOf(m)
	if s.supervisorGone() {
		return s.Worker.PID
	}
	return s.PID
}

// awaitEnd waits until the process pid is gone, for ever with a negative
// patience, and reports whether it is.
func awaitEnd(pid int, patience time.Duration) bool {
	if pid <= 0 {
		return true
	}
	fd, err := pidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		return awaitByLooking(pid, patience)
	}
	defer unix.Close(fd)
	milliseconds := -1
	if patience >= 0 {
		milliseconds = int(patience.Milliseconds())
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, milliseconds)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}

// pidfdOpen is a variable for tests. Linux before 5.3 does not have the call, and
// some containers forbid it.
var pidfdOpen = unix.PidfdOpen

// awaitByLooking is awaitEnd without a descriptor of the process.
func awaitByLooking(pid int, patience time.Duration) bool {
	for until := time.Now().Add(patience); !ended(pid); time.Sleep(5 * time.Millisecond) {
		if patience >= 0 && !time.Now().Before(until) {
			return false
		}
	}
	return true
}

// ended reports whether a process is gone, or waits for its parent only.
func ended(pid int) bool {
	if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := bytes.LastIndex(b, []byte(") ")) // a name may hold anything
	return err == nil && i >= 0 && i+2 < len(b) && (b[i+2] == 'Z' || b[i+2] == 'X')
}
