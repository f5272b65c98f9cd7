package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newUpgrade() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade [MOUNTPOINT]",
		Short: "Have this version serve a mount that is in use",
		Long: `Has the mount served by the program that runs this command, in place of the
version that serves it now. Open files, running programs and containers see a
short wait, no error. Returns when the new version serves; the program may be
replaced or removed afterwards. The supervisor, which holds the mount, becomes
of this version too; where it was killed, another is started.

A version that cannot go on with what the old one began changes nothing, and
says that a remount is needed (status 1).`,
		Example: "  neurodeskfs upgrade ~/neurodesk",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return upgrade(c.Context(), optional(args), c.OutOrStdout())
		},
	}
}

func upgrade(ctx context.Context, named string, out io.Writer) error {
	before, err := readAsked(named)
	if err != nil {
		return err
	}
	m := before.Mountpoint
	if before.supervisorGone() {
		if err := new(mountFlags).follow(ctx, before, nil); err != nil {
			return err
		}
		was := before.PID
		before = statusOf(m)
		fmt.Fprintf(out, "%s: supervisor %d has taken the place of %d, which was gone\n", m, before.PID, was)
	}
	if before.Supervisor == "" { // it is just becoming of another version
		before = awaitSupervisor(m, func(s Status) bool { return s.Supervisor != "" })
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("this program cannot be handed over: %w", err)
	}
	defer self.Close()
	a, err := askUpgrade(ctx, before.Cache.Dir, self)
	if hungUp(err) {
		a, err = askNext(ctx, before, self)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return errNotOwner
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return notUpgradable(before)
	case err != nil:
		return fmt.Errorf("the supervisor of %s (pid %d) does not answer (%w): neurodeskfs status tells which version serves", m, before.PID, err)
	case a.Incompatible:
		return failf(exitFailure, "version %s cannot go on for %s, which serves on (%s): %s", version, before.Version, a.Error, remount(m))
	case a.Error != "":
		return failf(exitFailure, "%s is not upgraded, version %s serves on: %s", m, before.Version, a.Error)
	}
	after := awaitSupervisor(m, func(s Status) bool { return s.Supervisor == version })
	fmt.Fprintf(out, "%s: version %s (worker %d) has taken over from %s (worker %d)\n", m, after.Version, after.Worker.PID, before.Version, before.Worker.PID)
	if after.Supervisor != version {
		return failf(exitFailure, "the supervisor of %s (pid %d) is still of version %q: %s/neurodeskfs.log tells why", m, after.PID, after.Supervisor, after.Cache.Dir)
	}
	return nil
}

// hungUp reports whether the supervisor became another version instead of an answer:
// its sockets were closed, and the next ones are not there yet.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNREFUSED)
}

// askNext is askUpgrade where the supervisor of s has hung up, as another upgrade was
// asked for at the same time. If that was to this version, there is nothing left to do.
func askNext(ctx context.Context, s Status, program *os.File) (a upgradeAnswer, err error) {
	for until := time.Now().Add(attachPatience); ; time.Sleep(10 * time.Millisecond) {
		now := awaitSupervisor(s.Mountpoint, func(s Status) bool { return s.Supervisor != "" })
		if now.Supervisor == version && now.Version == version {
			return a, nil
		}
		a, err = askUpgrade(ctx, s.Cache.Dir, program)
		if !hungUp(err) || now.supervisorGone() || time.Now().After(until) {
			return a, err
		}
	}
}

// awaitSupervisor waits, bounded, until the supervisor of a mount is as it should
// be, and returns the status.
func awaitSupervisor(m string, is func(Status) bool) (s Status) {
	for until := time.Now().Add(attachPatience); ; time.Sleep(10 * time.Millisecond) {
		if s = statusOf(m); is(s) || time.Now().After(until) {
			return s
		}
	}
}

// remount is what to type where nothing less helps.
func remount(m string) string {
	return fmt.Sprintf("remount needed: neurodeskfs umount %s && neurodeskfs mount %s", m, m)
}

// notUpgradable says why nobody takes an upgrade of a mount.
func notUpgradable(s Status) error {
	if s.Supervisor != "" {
		return failf(exitFailure, "the supervisor of %s (pid %d) cannot be asked, for its socket %s is gone, as when the cache directory was removed: %s",
			s.Mountpoint, s.PID, filepath.Join(s.Cache.Dir, upgradeName), remount(s.Mountpoint))
	}
	return failf(exitFailure, "%s was mounted by a version that takes no upgrade: %s", s.Mountpoint, remount(s.Mountpoint))
}

// supervisorGone reports whether a worker serves that nobody would follow.
func (s Status) supervisorGone() bool {
	return s.PID > 0 && s.Worker.PID > 0 && s.PID != s.Worker.PID && awaitEnd(s.PID, 0)
}

// askUpgrade hands a program to the supervisor of the cache directory, and
// returns its answer.
func askUpgrade(ctx context.Context, cacheDir string, program *os.File) (a upgradeAnswer, err error) {
	path, dir, err := socketIn(cacheDir, upgradeName)
	if err != nil {
		return a, err
	}
	defer dir.Close()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return a, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	request := []byte(strconv.Quote(version) + "\n")
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix(request, unix.UnixRights(int(program.Fd())), nil); err != nil {
		return a, err
	}
	return a, json.NewDecoder(io.LimitReader(c, maxUpgradeMessage)).Decode(&a)
}
