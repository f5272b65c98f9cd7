package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// newSupervise is the supervisor of a mount that is there already: one whose
// supervisor was killed, or has made room for another version of itself.
func newSupervise() *cobra.Command {
	var f mountFlags
	c := &cobra.Command{
		Use:     "supervise MOUNTPOINT",
		Short:   "Go on for the supervisor of a mount; upgrade starts it",
		Hidden:  true,
		Example: "  neurodeskfs upgrade ~/neurodesk",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			kept, err := inherited()
			return f.goOn(c.Context(), args[0], kept, err)
		},
	}
	c.Flags().StringVar(&f.cache, "cache", "", "the mount's cache `DIR`, where its worker is found")
	c.Flags().IntVar(&f.ready, "ready-fd", 0, "")
	return c
}

// orphaned is a mount whose supervisor is gone.
type orphaned struct{ Status }

func (o orphaned) Error() string {
	return fmt.Sprintf("the supervisor of %s is gone: neurodeskfs upgrade %s starts another", o.Mountpoint, o.Mountpoint)
}

// fasterWithin is how soon a supervisor that was faster than the one that follow starts
// says on the board that it is there.
const fasterWithin = time.Second

// follow starts a supervisor for the worker of a mount that has lost its own. cfg
// is what is asked for; nil: whatever is there.
func (f *mountFlags) follow(ctx context.Context, s Status, cfg *config.Config) error {
	if cfg != nil && (s.Config != cfg.Digest() || s.Cache.Dir != cfg.Cache.Dir) {
		return failf(exitBusy, "%s is served by worker %d, whose supervisor is gone, and with another configuration: neurodeskfs upgrade %s starts a supervisor for what is there", s.Mountpoint, s.Worker.PID, s.Mountpoint)
	}
	if err := checkOwner(s.Mountpoint); err != nil {
		return err
	}
	// The cache is what the worker says, who may have been taken over.
	if info, err := os.Lstat(s.Cache.Dir); err != nil || !info.IsDir() || owner(info) != os.Geteuid() && owner(info) != userOf(s.Worker.PID) {
		return failf(exitFailure, "%s is no cache directory of the worker %d (%v): %s", s.Cache.Dir, s.Worker.PID, err, remount(s.Mountpoint))
	}
	if f.foreground {
		f.cache = s.Cache.Dir
		return f.goOn(ctx, s.Mountpoint, nil, nil)
	}
	err := startDaemon(s.Cache.Dir, []string{"supervise", "--ready-fd=3", "--cache=" + s.Cache.Dir, "--", s.Mountpoint}, nil)
	for until := time.Now().Add(fasterWithin); err != nil && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if now := statusOf(s.Mountpoint); now.PID > 0 && !now.supervisorGone() {
			return nil
		}
	}
	return err
}

// checkOwner refuses everybody but the user who mounted: what a worker hands over
// says what its supervisor starts, so root must not take it from others.
func checkOwner(mountpoint string) error {
	mounts, err := session.FindMounts()
	if err != nil {
		return err
	}
	place, err := session.Resolve(mountpoint)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Mountpoint == place && !slices.Contains(m.Options, "user_id="+strconv.Itoa(os.Geteuid())) {
			return failf(exitFailure, "the supervisor of %s is gone, and only the user who mounted it can start another: neurodeskfs upgrade %s, as that user", mountpoint, mountpoint)
		}
	}
	return nil
}

// goOn supervises a mount that is there: with kept files, or the worker's.
func (f *mountFlags) goOn(ctx context.Context, mountpoint string, kept map[string]*os.File, err error) error {
	signals := signalled()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	tell := f.teller()
	manager := findNotifier()
	var s *supervised
	if err == nil {
		s, err = f.resumeSupervisor(ctx, mountpoint, kept, log)
	}
	if err != nil {
		return f.refuse(tell, err)
	}
	s.manager = manager
	return s.keepServed(signals, tell, func() error {
		if len(kept) == 0 {
			if err := manager.keep(s.Kept()); err != nil {
				log.Warn("the mount would not outlive supervisor and worker both", "err", err)
			}
		}
		log.Info("another supervisor goes on", "mountpoint", mountpoint, "version", version, "cache", s.cache.Dir)
		return nil
	})
}

// resumeSupervisor makes the supervisor of a mount that is there.
func (f *mountFlags) resumeSupervisor(ctx context.Context, mountpoint string, kept map[string]*os.File, log *slog.Logger) (*supervised, error) {
	mountpoint, err := filepath.Abs(mountpoint)
	if err != nil {
		return nil, err
	}
	e, o, err := f.findEstate(ctx, mountpoint, kept)
	if err != nil {
		return nil, err
	}
	sup, err := o.supervisor(ctx, mountpoint, e, log)
	if err != nil {
		e.Close()
		return nil, err
	}
	s := &supervised{Supervisor: sup, mountpoint: mountpoint, cache: o.Config.Cache, log: log}
	if at := o.Config.CVMFSAt; at != "" && shownCVMFS(mountpoint, at) {
		s.cvmfsAt = at
	}
	return s, nil
}

// supervisor makes one for what was ordered.
func (o order) supervisor(ctx context.Context, mountpoint string, e *session.Estate, log *slog.Logger) (*session.Supervisor, error) {
	if o.Mountpoint != mountpoint {
		return nil, fmt.Errorf("what was handed on is the mount at %s, not at %s", o.Mountpoint, mountpoint)
	}
	as, err := servantNamed(o.As)
	if err != nil {
		return nil, err
	}
	sup, err := session.GoOn(o.Watching.options(mountpoint, as, o.Config.Cache.Dir, log), e)
	if err != nil {
		return nil, err
	}
	return sup, sup.Start(ctx)
}

// findEstate asks the worker, if it lives, and else takes what was kept.
func (f *mountFlags) findEstate(ctx context.Context, mountpoint string, kept map[string]*os.File) (*session.Estate, order, error) {
	if len(kept) == 0 {
		e, err := attach(ctx, f.cache, statusOf(mountpoint).Worker.PID)
		if err != nil {
			return nil, order{}, err
		}
		o, err := ownOrder(e.File(keptOrder))
		if err != nil {
			e.Close()
		}
		return e, o, err
	}
	e, err := session.Inherit(kept)
	if err != nil {
		return nil, order{}, fmt.Errorf("what was kept of the mount at %s is of no use: %w: %s", mountpoint, err, remount(mountpoint))
	}
	o, err := ownOrder(e.File(keptOrder))
	if err != nil {
		return nil, o, err
	}
	pid := e.LastWorker()
	if awaitEnd(pid, 0) {
		return e, o, nil
	}
	alive, err := attach(ctx, o.Config.Cache.Dir, pid)
	if err == nil {
		e.Close()
		return alive, o, nil
	}
	// It may be stuck; another process may have its number, too.
	if isWorker(pid, mountpoint) {
		_ = unix.Kill(pid, unix.SIGKILL) // it has ended, at the worst
		awaitEnd(pid, attachPatience)
	}
	return e, o, nil
}

// isWorker reports whether a process serves the mount point, by its arguments.
func isWorker(pid int, mountpoint string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && bytes.HasSuffix(b, []byte("\x00worker\x00--\x00"+mountpoint+"\x00"))
}

// userOf is the user of a process, -1 when it has ended.
func userOf(pid int) int {
	info, err := os.Lstat("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return -1
	}
	return owner(info)
}
