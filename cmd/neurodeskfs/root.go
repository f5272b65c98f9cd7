package main

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/session"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// version is set by the linker.
var version = "devel"

//go:embed all:embedded
var embedded embed.FS

// launcherBinary is what the mount shows as its launcher.
func launcherBinary() ([]byte, error) {
	if b, err := embedded.ReadFile("embedded/launcher"); err == nil {
		return b, nil
	}
	return os.ReadFile("/proc/self/exe")
}

// loadLauncher makes d.launcher, once.
func (d *daemon) loadLauncher() error {
	if d.launcher != nil {
		return nil
	}
	b, err := launcherBinary()
	if err != nil {
		return fmt.Errorf("launcher: %w", err)
	}
	l := tree.NewLauncher(b)
	d.launcher = &l
	return nil
}

// Exit statuses, as every --help says.
const (
	exitOK        = 0
	exitFailure   = 1 // something failed; the message says what
	exitUsage     = 2 // wrong arguments or a wrong configuration
	exitNoMount   = 3 // no mount there
	exitUntrusted = 4 // a repository cannot be trusted or reached
	exitBusy      = 5 // cache or mount point in use
)

const exitHelp = `
Exit status:
  0  success
  1  failure
  2  wrong arguments or configuration
  3  no neurodeskfs is mounted there
  4  no repository can be trusted and reached
  5  the cache or the mount point is in use`

// failure is an error with its exit status. An empty text prints nothing.
type failure struct {
	status int
	err    error
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func failf(status int, format string, args ...any) error {
	return failure{status, fmt.Errorf(format, args...)}
}

// statuses is the one table from errors to exit statuses.
var statuses = []struct {
	err    error
	status int
}{
	{config.ErrInvalid, exitUsage},
	{session.ErrNotMounted, exitNoMount},
	{session.ErrMounted, exitBusy},
	{fetch.ErrFetch, exitUntrusted},
	{fetch.ErrOffline, exitUntrusted},
}

func exitStatus(err error) int {
	var f failure
	if errors.As(err, &f) {
		return f.status
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return exitFailure
}

// run is main with an exit status. Called by a `#!` line, under the launcher's
// name, the binary is the launcher.
func run(args []string) int {
	if len(args) > 1 && filepath.Base(args[0]) == "launcher" {
		return launch.Main(args, os.Stderr)
	}
	if filepath.Base(args[0]) == "mount.neurodeskfs" {
		args = fromMount(args)
	}
	root := newRoot()
	root.SetArgs(args[1:])
	out := &output{file: os.Stdout}
	root.SetOut(out)
	err := checkCommand(root, args[1:])
	if err == nil {
		err = root.Execute()
	}
	if err == nil {
		err = out.err
	}
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(os.Stderr, "neurodeskfs: %s\n", visible(strings.ReplaceAll(text, "\n", "; "))) // it may quote anybody
	}
	return exitStatus(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "neurodeskfs",
		Short:         "Mount neuroimaging containers as native commands",
		Long:          "neurodeskfs mounts a tree in which every tool of every Neurodesk container is an\nordinary executable. Bytes are fetched when they are first read, verified and\ncached.",
		Example:       "  neurodeskfs mount ~/neurodesk\n  export PATH=~/neurodesk/bin:$PATH\n  bet in.nii out.nii\n  neurodeskfs umount ~/neurodesk",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("neurodeskfs {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return failf(exitUsage, "%w (see %s --help)", err, c.CommandPath())
	})
	root.AddCommand(newMount(), newWorker(), newSupervise(), newUmount(), newUpgrade(), newStatus(), newTop(), newReload(), newList(), newSearch(), newInfo(), newWhich(),
		newExec(), newRun(), newShell(), newEnv(), newLock(), newPin(), newCache(), newCheck(), newPrefetch(), newConfine(), newTrace(), newConfig(), newDoctor(), newMan(), newVersion())
	addCompletion(root)
	addWords(root)
	addExitHelp(root)
	return root
}

// addExitHelp ends the help of a command, and of those below it, with the exit
// statuses. exec, run and shell say their own.
func addExitHelp(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addExitHelp(sub)
	}
	if c.Name() == "exec" || c.Name() == "run" || c.Name() == "shell" {
		return
	}
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	c.Long = strings.TrimRight(c.Long, "\n") + "\n" + exitHelp
}

// usage wraps a check of arguments so that its failure has the status of usage.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return failf(exitUsage, "wrong number of arguments: write %s (see %s --help)", strings.TrimSuffix(c.UseLine(), " [flags]"), c.CommandPath())
		}
		return nil
	}
}

// optional is the one argument of a command that takes at most one; "" without.
func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  neurodeskfs version",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintf(c.OutOrStdout(), "neurodeskfs %s\n", version)
			return nil
		},
	}
}
