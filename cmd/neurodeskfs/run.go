package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cmd/job"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// runFlags are the flags of run; the hidden ones make it the guard or the daemon
// of a job, which run starts.
type runFlags struct {
	mountFlags
	inside int  // the guard's end of the pipe from run
	serve  bool // be the daemon
	until  int  // the daemon serves until this descriptor ends
}

func newRun() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run [flags] [MOUNTPOINT] -- PROGRAM [ARGUMENT ...]",
		Short: "Run one program with the tree mounted for it alone",
		Long: `Mounts the tree for PROGRAM and what it starts, puts MOUNTPOINT/bin first in
PATH, and takes the tree away with the last process: for a job on a node where
nothing is mounted or installed. Others see neither the mount nor the processes'
changes to it. MOUNTPOINT, by default $NEURODESK_MOUNT, else /neurodesk, need
not exist. When PROGRAM ends, so does what it left running.

Jobs of one user on one node share the cache: what one has fetched, the others
have. Where a mount of the same configuration is there already, it is used; so
is one of yours elsewhere, if you name no MOUNTPOINT: $NEURODESK_MOUNT tells.

Exit status:
  2    wrong arguments
  125  an error of neurodeskfs
  126  PROGRAM cannot be executed
  127  there is no such program
  and otherwise the program's own`,
		Example: "  neurodeskfs run -- ./pipeline.sh sub-01\n  sbatch --array=1-64 --wrap 'neurodeskfs run -- ./task.sh'\n  srun neurodeskfs run -- bet in.nii out.nii",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.inside > 0:
				return endAs(job.Inside(f.inside))
			case f.serve && len(args) == 1:
				return f.daemon(c.Context(), args[0])
			}
			return f.run(c, args)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (TOML)")
	c.Flags().StringVar(&f.cache, "cache", "", "cache `DIR`, instead of the configuration's")
	c.Flags().IntVar(&f.inside, "inside", 0, "")
	c.Flags().BoolVar(&f.serve, "serve", false, "")
	c.Flags().IntVar(&f.ready, "ready-fd", 0, "")
	c.Flags().IntVar(&f.until, "until-fd", 0, "")
	for _, name := range []string{"inside", "serve", "ready-fd", "until-fd"} {
		c.Flags().Lookup(name).Hidden = true
	}
	return c
}

// splitRun parts [MOUNTPOINT] -- PROGRAM ARGUMENT...; dash is where the
// parser of flags has taken the -- out, -1 if it has not.
func splitRun(args []string, dash int) (mountpoint string, program []string, ok bool) {
	switch {
	case dash == 0:
		program = args
	case len(args) > 1 && args[1] == "--":
		mountpoint, program = args[0], args[2:]
	}
	return mountpoint, program, len(program) > 0
}

func (f *runFlags) run(c *cobra.Command, args []string) error {
	named, program, ok := splitRun(args, c.ArgsLenAtDash())
	if !ok {
		return failf(exitUsage, "write run [MOUNTPOINT] -- PROGRAM [ARGUMENT ...] (see %s --help)", c.CommandPath())
	}
	mountpoint := named
	if mountpoint == "" {
		mountpoint = os.Getenv("NEURODESK_MOUNT")
	}
	anywhere := mountpoint == ""
	if anywhere {
		mountpoint = defaultMountpoint
	}
	cfg, err := f.load()
	if err != nil {
		return err
	}
	mountpoint, err = filepath.Abs(mountpoint)
	if err != nil {
		return failure{job.StatusError, err}
	}
	if there := f.served(mountpoint, cfg, anywhere); there != "" {
		return runThere(there, program)
	}
	if err := checkShebang(mountpoint, shebangLimit()); err != nil {
		return err
	}
	if err := ownCache(cfg.Cache.Dir, cfg.User); err != nil {
		return failure{job.StatusError, err}
	}
	daemon := []string{"neurodeskfs", "run", "--serve", "--cache=" + cfg.Cache.Dir}
	if cfg.File != "" {
		file, err := filepath.Abs(cfg.File)
		if err != nil {
			return failure{job.StatusError, err}
		}
		daemon = append(daemon, "--config="+file)
	}
	status, err := job.Run(job.Spec{
		Mountpoint: mountpoint, Daemon: daemon, Log: filepath.Join(cfg.Cache.Dir, "neurodeskfs.log"), Program: program,
	}, []string{"neurodeskfs", "run", "--inside="})
	return endAs(status, job.StatusError, err)
}

// served is where a live mount of that configuration, and of the cache that
// --cache names, is that this user can read: at mountpoint or, anywhere, at
// another place of the user's own. "" is nowhere.
func (f *runFlags) served(mountpoint string, cfg *config.Config, anywhere bool) string {
	mounts, err := session.FindMounts()
	if err != nil {
		return ""
	}
	place, err := session.Resolve(mountpoint)
	if err != nil {
		place = mountpoint // it need not exist
	}
	for _, own := range []bool{false, true} {
		for _, m := range mounts {
			if m.Mountpoint != place && !(own && anywhere && isOwn(m)) {
				continue
			}
			if s := statusOf(m.Mountpoint); s.Config == cfg.Digest() && (f.cache == "" || s.Cache.Dir == cfg.Cache.Dir) {
				return m.Mountpoint
			}
		}
	}
	return ""
}

// runThere replaces this process with the program, where the tree is mounted.
func runThere(mountpoint string, program []string) error {
	path, env, err := job.Prepare(mountpoint, program[0])
	if err == nil {
		err = unix.Exec(path, program, env)
		if errors.Is(err, unix.ENOEXEC) {
			err = unix.Exec("/bin/sh", append([]string{"sh", path}, program[1:]...), env)
		}
		err = failure{job.StatusNotExec, fmt.Errorf("start %s: %w", path, err)}
	}
	var own job.Failure
	if errors.As(err, &own) {
		return failure{own.Status, own}
	}
	return err
}

// endAs ends this process as a program did, or returns the error.
func endAs(status unix.WaitStatus, own int, err error) error {
	if err != nil {
		return failure{own, err}
	}
	launch.End(syscall.WaitStatus(status))
	return nil
}

// daemon serves a job's mount until its guard lets go of the pipe, or is gone.
// Signals that are sent to all processes of a job are for the program, which may
// want to go on for a while. A worker that takes over is started only then: the
// memory that one in reserve takes is the job's.
func (f *runFlags) daemon(ctx context.Context, mountpoint string) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGXCPU, unix.SIGPIPE)
	until := os.NewFile(uintptr(f.until), "until")
	unix.CloseOnExec(f.until)
	cfg, err := f.load()
	if err == nil {
		mountpoint, err = checkMountpoint(mountpoint, cfg.Cache.Dir)
	}
	if err != nil {
		return f.refuse(f.teller(), err)
	}
	cfg.Cache.Joint, f.noStandby = true, true
	return f.superviseUntil(ctx, cfg, mountpoint, notifier{}, func() <-chan os.Signal {
		over := make(chan os.Signal, 1)
		go func() {
			_, _ = io.Copy(io.Discard, until)
			over <- unix.SIGTERM
		}()
		return over
	})
}
