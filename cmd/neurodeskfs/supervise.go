package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// supervised is a mount as its supervisor has it.
type supervised struct {
	*session.Supervisor
	mountpoint string
	cache      config.Cache
	cvmfsAt    string
	manager    notifier
	log        *slog.Logger
	ending     bool // a signal has unmounted it
}

// supervise is the daemon: it mounts, tells its parent, and keeps the mount
// served until it is gone. SIGTERM or SIGINT unmounts; a SIGINT after that ends at
// once, what others read from a mount in use included. SIGTERM never does:
// service managers send it more than once.
func (f *mountFlags) supervise(ctx context.Context, cfg *config.Config, mountpoint string) error {
	return f.superviseUntil(ctx, cfg, mountpoint, findNotifier(), signalled)
}

// superviseUntil is supervise until what ends, asked for when the tree is
// served, has a signal.
func (f *mountFlags) superviseUntil(ctx context.Context, cfg *config.Config, mountpoint string, manager notifier, ends func() <-chan os.Signal) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if cfg.Cache.Joint { // all jobs write to one log
		log = log.With("job", os.Getpid())
	}
	tell := f.teller()
	s, err := f.startSupervisor(ctx, cfg, mountpoint, log)
	if err != nil {
		return f.refuse(tell, err)
	}
	s.manager = manager
	return s.keepServed(ends(), tell, func() error {
		// The worker answers what this asks, and if it ends meanwhile Run finds another.
		if cfg.CVMFSAt != "" {
			if err := showCVMFS(mountpoint, cfg.CVMFSAt); err != nil {
				return err
			}
			s.cvmfsAt = cfg.CVMFSAt
		}
		if err := manager.keep(s.Kept()); err != nil {
			s.log.Warn("the mount would not outlive supervisor and worker both", "err", err)
		}
		s.log.Info("mounted", "mountpoint", mountpoint, "version", version, "cache", cfg.Cache.Dir)
		return nil
	})
}

// refuse tells the parent, who then says it to the user, why nothing is served.
func (f *mountFlags) refuse(tell func(string), err error) error {
	tell(fmt.Sprintf("%d %s", exitStatus(err), strings.ReplaceAll(err.Error(), "\n", "; ")))
	if f.ready > 0 {
		return failure{exitStatus(err), errors.New("")}
	}
	return err
}

// signalled asks to be told of the signals that unmount. Until then they end the
// process at once: Go blocks neither, whatever it inherits.
func signalled() <-chan os.Signal {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	return signals
}

// keepServed keeps the mount served until it is gone. begin runs once a worker
// serves; when it fails, the mount is taken away.
func (s *supervised) keepServed(signals <-chan os.Signal, tell func(string), begin func() error) error {
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	run := make(chan error, 1)
	start := func() { run <- s.Run(stopping.Done()) }
	go start()
	var asked *upgrades
	var err error
	if !s.cache.Joint { // one socket cannot stand for the daemons of all jobs
		if asked, err = startUpgrades(s.cache.Dir, s.replace, s.Leave, s.log); err == nil {
			defer asked.close()
		} else {
			s.log.Warn("no upgrade will be taken", "err", err)
		}
	}
	refused := begin()
	if refused != nil {
		s.heed(syscall.SIGTERM, stop)
	} else {
		s.SetVersion(version)
		tell("ready")
		if err := s.manager.say("READY=1"); err != nil {
			s.log.Warn("not said that the mount is ready", "err", err)
		}
	}
	for gone := false; !gone; {
		select {
		case sig := <-signals:
			s.heed(sig, stop)
		case err = <-run:
			if gone = !s.Left(); !gone {
				s.makeRoom(asked.program.Load(), signals, stop)
				s.SetVersion(version)
				go start()
			}
		}
	}
	_ = s.manager.drop(s.Kept()) // it would be dropped with the unit
	hideCVMFS(s.cvmfsAt, s.log)
	s.log.Info("the mount is gone", "mountpoint", s.mountpoint)
	if refused != nil {
		tell(fmt.Sprintf("%d %s", exitStatus(refused), refused))
		return refused
	}
	return err
}

// heed unmounts at the first signal; a SIGINT after that ends all at once.
func (s *supervised) heed(sig os.Signal, stop func()) {
	switch {
	case !s.ending:
		s.ending = true
		s.unmount()
	case sig == syscall.SIGINT:
		stop()
	}
}

// replace has the next version serve. Who then asks for the supervisor's waits
// until that is the next one, which heeds signals by then.
func (s *supervised) replace(ctx context.Context, program *os.File) error {
	err := s.Upgrade(ctx, program)
	if err == nil {
		s.SetVersion("")
	}
	return err
}

// makeRoom has the next version go on in this process, unless there is a signal
// to be heeded, which would be lost. It returns only if nothing came of it.
func (s *supervised) makeRoom(program *os.File, signals <-chan os.Signal, stop func()) {
	select {
	case sig := <-signals:
		s.heed(sig, stop)
	default:
		s.log.Error("the supervisor goes on in its own version", "err", s.become(program))
	}
}

// become executes the program in this process, which goes on with the mount. It
// returns only if that fails.
func (s *supervised) become(program *os.File) error {
	kept := s.Kept()
	variable, err := handOn(kept)
	defer keepBack(kept)
	if err != nil {
		return err
	}
	args := []string{os.Args[0], "supervise", "--cache=" + s.cache.Dir, "--", s.mountpoint}
	env := append(append(os.Environ(), variable), s.manager.env()...)
	return syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), args, env)
}

// startSupervisor makes the files that every worker is handed, and mounts.
func (f *mountFlags) startSupervisor(ctx context.Context, cfg *config.Config, mountpoint string, log *slog.Logger) (*supervised, error) {
	if err := clearDeadMount(ctx, mountpoint); err != nil {
		return nil, err
	}
	as, err := servantOf(cfg, log)
	if err != nil {
		return nil, err
	}
	files, err := f.keptFiles(cfg, mountpoint, as)
	if err != nil {
		return nil, err
	}
	o := f.watching().options(mountpoint, as, cfg.Cache.Dir, log)
	o.Mount = session.MountOptions{Mountpoint: mountpoint, AllowOther: f.allowOther, DefaultPermissions: cfg.Mount.CheckPermissions, Logger: log}
	o.Files = files
	sup, err := session.NewSupervisor(o)
	if err != nil {
		return nil, err
	}
	if err := sup.Start(ctx); err != nil {
		var refused *session.Failure
		if errors.As(err, &refused) {
			err = failf(refused.Status, "%s", refused.Reason)
		}
		return nil, err
	}
	if err := session.RaiseReadAhead(mountpoint); err != nil {
		log.Warn("reading in order will cost more requests", "err", err)
	}
	return &supervised{Supervisor: sup, mountpoint: mountpoint, cache: cfg.Cache, log: log}, nil
}

// watching is how a mount's workers are looked after, whoever does it.
type watching struct {
	NoResend   bool          `json:"no_resend,omitempty"`
	NoStandby  bool          `json:"no_standby,omitempty"`
	StuckAfter time.Duration `json:"stuck_after,omitempty"` // ns
}

func (f *mountFlags) watching() watching { return watching{f.noResend, f.noStandby, f.stuckAfter} }

func (w watching) options(mountpoint string, as *servant, cacheDir string, log *slog.Logger) session.SupervisorOptions {
	return session.SupervisorOptions{
		Command:  func(program string) *exec.Cmd { return workerCommand(program, mountpoint, as, cacheDir, log) },
		NoResend: w.NoResend, NoStandby: w.NoStandby, StuckAfter: w.StuckAfter, Logger: log,
	}
}

// workerCommand starts a worker in a session of its own, so that a terminal's ^C
// does not reach it, and outside the mount. Root's goes through confine: all
// that it needs of root's are the descriptors that it is handed. Its cache may
// have been taken away meanwhile, which no worker could make again.
func workerCommand(program, mountpoint string, as *servant, cacheDir string, log *slog.Logger) *exec.Cmd {
	args := []string{"worker", "--", mountpoint}
	if as != nil {
		if err := as.own(cacheDir); err != nil {
			log.Error("the next worker may be without a cache", "err", err)
		}
		args = append(as.confinement(cacheDir), args...)
	}
	c := exec.Command(program, args...)
	c.Args[0] = "neurodeskfs"
	c.Dir = "/"
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c
}

// keptFiles makes the files that outlive workers.
func (f *mountFlags) keptFiles(cfg *config.Config, mountpoint string, as *servant) (map[string]*os.File, error) {
	if err := makeCacheDir(cfg.Cache.Dir, as); err != nil {
		return nil, err
	}
	text, err := json.Marshal(order{Mountpoint: mountpoint, As: as.String(), AllowOther: f.allowOther, AllowExpired: f.allowExpired, Pprof: f.pprof, Watching: f.watching(), Config: cfg})
	if err != nil {
		return nil, err
	}
	files := map[string]*os.File{}
	for name, make := range map[string]func() (*os.File, error){
		keptOrder:  func() (*os.File, error) { return sealedFile("neurodeskfs-order", text) },
		keptLedger: newLedgerFile,
		keptTable:  func() (*os.File, error) { return newTableFile(cfg.Cache.Dir) },
		keptSpare:  func() (*os.File, error) { return memoryFile("neurodeskfs-nodes") },
		keptFrozen: func() (*os.File, error) { return memoryFile("neurodeskfs-frozen") },
	} {
		if files[name], err = make(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// unmount takes the mount away; one that is in use when its last user leaves.
func (s *supervised) unmount() {
	hideCVMFS(s.cvmfsAt, s.log)
	unmountLogged(s.mountpoint, s.log)
}

// unmountLogged unmounts and says in the log how it went.
func unmountLogged(mountpoint string, log *slog.Logger) {
	lazy, err := session.Unmount(context.Background(), mountpoint)
	switch {
	case err != nil:
		log.Error("cannot unmount", "mountpoint", mountpoint, "err", err)
	case lazy:
		log.Info("the mount is in use: it is detached, and served until its last user leaves", "mountpoint", mountpoint)
	}
}
