package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// defaultMountpoint is where the tree is mounted when nobody says where.
const defaultMountpoint = "/neurodesk"

// mountFlags are the flags of mount, and what the daemon's process is given.
type mountFlags struct {
	config     string
	cache      string
	foreground bool
	allowOther bool
	// allowExpired takes whitelists whose date is over.
	allowExpired bool
	pprof        string        // IP:PORT where the daemon serves profiles; "" for nowhere
	noResend     bool          // as on Linux before 6.9
	noStandby    bool          // start workers when they are needed
	stuckAfter   time.Duration // how long a worker may show no sign of life
	ready        int           // the descriptor on which the daemon tells its parent
}

func newMount() *cobra.Command {
	var f mountFlags
	c := &cobra.Command{
		Use:   "mount [MOUNTPOINT]",
		Short: "Mount the tree and return when it answers",
		Long: `Mounts the tree at MOUNTPOINT, by default $NEURODESK_MOUNT, else /neurodesk.
The directory must exist. Returns when the tree answers; the daemon goes on in
the background. Where the same configuration is mounted there already, or is
being mounted by another process, that mount will do: tasks of a job array may
all call it. One that another version serves goes on in this version, as with
neurodeskfs upgrade. Without --config, /etc/neurodeskfs/config.toml is read,
then $XDG_CONFIG_HOME/neurodeskfs/config.toml; without either, the Neurodesk
repository is mounted. Messages of the daemon go to CACHE/neurodeskfs.log.`,
		Example: "  mkdir -p ~/neurodesk\n  neurodeskfs mount ~/neurodesk\n  export PATH=~/neurodesk/bin:$PATH",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			mountpoint := os.Getenv("NEURODESK_MOUNT")
			if len(args) > 0 {
				mountpoint = args[0]
			}
			if mountpoint == "" {
				mountpoint = defaultMountpoint
			}
			return f.mount(c.Context(), mountpoint)
		},
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (TOML)")
	c.Flags().StringVar(&f.cache, "cache", "", "cache `DIR`, instead of the configuration's")
	c.Flags().BoolVar(&f.foreground, "foreground", false, "stay in the foreground; messages go to stderr")
	c.Flags().BoolVar(&f.allowOther, "allow-other", os.Geteuid() == 0, "let other users see the mount")
	c.Flags().BoolVar(&f.allowExpired, "allow-expired-whitelist", false, "take a whitelist that is out of date")
	c.Flags().StringVar(&f.pprof, "pprof", "", "serve profiles of the daemon at `ADDR`, such as 127.0.0.1:6060")
	c.Flags().Lookup("pprof").Hidden = true
	c.Flags().BoolVar(&f.noStandby, "no-standby", false, "keep no second process ready to take over")
	c.Flags().DurationVar(&f.stuckAfter, "stuck-after", 30*time.Second, "replace a worker silent for `TIME`")
	c.Flags().BoolVar(&f.noResend, "no-resend", false, "")
	c.Flags().Lookup("no-resend").Hidden = true
	c.Flags().IntVar(&f.ready, "ready-fd", 0, "")
	c.Flags().Lookup("ready-fd").Hidden = true
	return c
}

// fromMount turns what mount(8) says for a line of fstab of type neurodeskfs,
// mount.neurodeskfs SOURCE DIR [-sfnv] [-o OPTIONS], into arguments of mount.
// SOURCE is a configuration file, or any word. Options that are not ours, such
// as _netdev and nofail, are mount(8)'s own.
func fromMount(args []string) []string {
	out := []string{args[0], "mount"}
	var places []string
	for i := 1; i < len(args); i++ {
		switch {
		case args[i] == "-o" && i+1 < len(args):
			i++
			for o := range strings.SplitSeq(args[i], ",") {
				switch name, value, _ := strings.Cut(o, "="); name {
				case "config", "cache":
					out = append(out, "--"+name+"="+value)
				case "allow_other":
					out = append(out, "--allow-other")
				}
			}
		case !strings.HasPrefix(args[i], "-"):
			places = append(places, args[i])
		}
	}
	if len(places) != 2 {
		return append(out, append([]string{"--"}, places...)...) // mount says what is wrong
	}
	if strings.HasPrefix(places[0], "/") {
		out = append(out, "--config="+places[0])
	}
	return append(out, "--", places[1])
}

// load reads the configuration; --cache goes before it.
func (f *mountFlags) load() (*config.Config, error) {
	cfg, err := config.Load(f.config)
	if err != nil {
		return nil, err
	}
	if f.cache != "" {
		cfg.Cache.Dir = f.cache
	}
	if cfg.Cache.Dir == "" {
		return nil, fmt.Errorf("%w: without $HOME there is no place for the cache: set it, or give --cache DIR", config.ErrInvalid)
	}
	cfg.Cache.Dir, err = filepath.Abs(cfg.Cache.Dir)
	return cfg, err
}

func (f *mountFlags) mount(ctx context.Context, mountpoint string) error {
	if f.foreground {
		// What was kept comes first: without a worker, nothing may ask the mount.
		kept, err := inherited()
		if err != nil || kept[session.KeptDevice] != nil {
			return f.goOn(ctx, mountpoint, kept, err)
		}
		for _, file := range kept {
			file.Close() // of a mount that is gone
		}
	}
	cfg, err := f.load()
	if err != nil {
		return err
	}
	mountpoint, err = checkMountpoint(mountpoint, cfg.Cache.Dir)
	if err != nil {
		return err
	}
	for _, dir := range cfg.Cache.Shared {
		if overlaps(mountpoint, dir) {
			return failf(exitUsage, "the shared tier %s lies in the mount point %s: it must lie outside", dir, mountpoint)
		}
	}
	if !f.foreground {
		return f.once(ctx, cfg, mountpoint)
	}
	if f.ready == 0 { // the daemon that we start says it by the pipe
		there, err := f.there(cfg, mountpoint)
		var alone orphaned
		switch {
		case errors.As(err, &alone):
			return f.follow(ctx, alone.Status, cfg)
		case err != nil:
			return err
		case there:
			return fmt.Errorf("%w: use it, or neurodeskfs umount %s first", session.ErrMounted, mountpoint)
		}
	}
	if err := ownCache(cfg.Cache.Dir, cfg.User); err != nil {
		return err
	}
	return f.supervise(ctx, cfg, mountpoint)
}

// spawn starts the daemon in the background and waits until it is ready. The
// daemon keeps none of our descriptors and leaves our session.
func (f *mountFlags) spawn(cfg *config.Config, mountpoint string) error {
	if err := ownCache(cfg.Cache.Dir, cfg.User); err != nil {
		return err
	}
	args := []string{"mount", "--foreground", "--ready-fd=3", "--cache=" + cfg.Cache.Dir, "--allow-other=" + strconv.FormatBool(f.allowOther),
		"--allow-expired-whitelist=" + strconv.FormatBool(f.allowExpired)}
	if cfg.File != "" {
		file, err := filepath.Abs(cfg.File)
		if err != nil {
			return err
		}
		args = append(args, "--config="+file)
	}
	if f.pprof != "" {
		args = append(args, "--pprof="+f.pprof)
	}
	if f.noResend {
		args = append(args, "--no-resend")
	}
	if f.noStandby {
		args = append(args, "--no-standby")
	}
	args = append(args, "--stuck-after="+f.stuckAfter.String())
	stop := make(chan os.Signal, 1)
	defer signal.Stop(stop)
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM} {
		if !signal.Ignored(sig) {
			signal.Notify(stop, sig)
		}
	}
	return startDaemon(cfg.Cache.Dir, append(args, "--", mountpoint), stop)
}

// startDaemon runs this program in the background, and waits until it says that
// it is ready, or ends it when stop says so.
func startDaemon(cacheDir string, args []string, stop <-chan os.Signal) error {
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return fmt.Errorf("the cache directory cannot be made: %w", err)
	}
	// The folder is the worker's, who may have been taken over: root follows no link of its.
	log, err := os.OpenFile(filepath.Join(cacheDir, "neurodeskfs.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("the daemon's log cannot be written: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	daemon := exec.Command(self, args...)
	daemon.Dir = "/"
	daemon.Stdout, daemon.Stderr = log, log
	daemon.ExtraFiles = []*os.File{w}
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := daemon.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	ready := make(chan error, 1)
	go func() { ready <- awaitReady(r, daemon, log.Name()) }()
	select {
	case err := <-ready:
		return err
	case <-stop:
		_ = daemon.Process.Signal(unix.SIGTERM) // it has ended, at the worst
		<-ready
		return failf(exitFailure, "interrupted: the mount that was begun is given up")
	}
}

// awaitReady reads what the daemon says: "ready", or a status and a reason.
func awaitReady(r io.Reader, daemon *exec.Cmd, log string) error {
	line, err := bufio.NewReader(r).ReadString('\n')
	if line == "ready\n" {
		return daemon.Process.Release()
	}
	daemon.Wait()
	status, reason, ok := strings.Cut(strings.TrimSpace(line), " ")
	n, numErr := strconv.Atoi(status)
	if !ok || numErr != nil {
		return fmt.Errorf("the daemon ended before it was ready (%w): see %s", err, log)
	}
	return failf(n, "%s", reason)
}

// closeOnExec marks every descriptor of this process above stderr, those that
// the caller left open for us too.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// teller says one line to the process that started us, if one listens.
func (f *mountFlags) teller() func(string) {
	if f.ready == 0 {
		return func(string) {}
	}
	pipe := os.NewFile(uintptr(f.ready), "ready")
	unix.CloseOnExec(f.ready)
	return func(s string) { io.WriteString(pipe, s+"\n"); pipe.Close() }
}
