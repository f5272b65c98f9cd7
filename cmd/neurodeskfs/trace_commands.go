package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/trace"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

func newTrace() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace",
		Short: "Show, share and use what commands read when they start",
		Long: `A trace is the list of what a command reads of its image when it starts. A mount
makes one of each first start and fetches all of it at once at the next start
with an empty cache, so that this waits for a few round trips, not for one for
each file. Traces hold names of objects only, no data.

A site ships traces to all its nodes by traces = "DIR or URL" in the
configuration: a place of files IMAGE.json, as 'trace export DIR' writes them.`,
		Example: "  neurodeskfs trace show\n  neurodeskfs trace export traces.json\n  neurodeskfs trace import --mount ~/neurodesk traces.json",
	}
	c.AddCommand(newTraceShow(), newTraceRecord(), newTraceReplay(), newTraceExport(), newTraceImport())
	return c
}

// askTraces has the daemon of a mount carry out a trace request.
func askTraces(ctx context.Context, mount string, r controlRequest, show bar) (controlAnswer, error) {
	s, err := readAsked(mount)
	if err != nil {
		return controlAnswer{}, err
	}
	return ask(ctx, s.Cache.Dir, r, show.show)
}

// exported asks a mount for all its traces.
func exported(ctx context.Context, mount string) ([]trace.Trace, error) {
	a, err := askTraces(ctx, mount, controlRequest{Do: "trace export", Trace: &traceRequest{}}, bar{})
	if err != nil {
		return nil, err
	}
	return trace.Parse(a.Data)
}

// ofCommand finds what a command of the mount is in a trace: its image and name.
func ofCommand(mount, command string) (m string, cmd launch.Command, err error) {
	if m, err = findMount(mount); err != nil {
		return m, cmd, err
	}
	if _, err := readOwn(m, "version"); err != nil {
		return m, cmd, err
	}
	if _, err := os.Stat(filepath.Join(m, "bin", command)); err != nil {
		return m, cmd, failf(exitFailure, "%s: there is no such command: neurodeskfs list shows the apps", filepath.Join(m, "bin", command))
	}
	text, err := os.ReadFile(filepath.Join(m, "bin", command))
	if err == nil {
		cmd, err = launch.ParseCommand(text)
	}
	if err == nil {
		h := launch.RealHost("")
		cmd, err = h.Look(m, cmd)
	}
	return m, cmd, err
}

func newTraceShow() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [COMMAND]",
		Short: "List the traces, or what is in those of one command",
		Long: `Lists which commands have a trace, and with COMMAND what is in it: each object's
hash, kind (P: a chunk, C: a catalog) and size in bytes.`,
		Example: "  neurodeskfs trace show\n  neurodeskfs trace show bet",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := exported(c.Context(), mount)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				list = slices.DeleteFunc(list, func(t trace.Trace) bool { return t.Command != args[0] })
				if len(list) == 0 {
					return failf(exitFailure, "%s has no trace yet: it gets one when it is run, or by neurodeskfs trace record", args[0])
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			if len(args) > 0 {
				return printObjects(c.OutOrStdout(), list)
			}
			return printTraces(c.OutOrStdout(), c.ErrOrStderr(), mount, list)
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printTraces writes one line for each trace.
func printTraces(out, warn io.Writer, mount string, list []trace.Trace) error {
	m, err := findMount(mount)
	if err != nil {
		return err
	}
	l, err := readIndex(m, warn)
	if err != nil {
		return err
	}
	rows := [][]string{{"COMMAND", "APP", "OBJECTS", "SIZE", "RUNS", "USED"}}
	for _, t := range list {
		app := clip(t.Image, 12)
		if i := slices.IndexFunc(l.Images, func(i tree.Listed) bool { return i.Hash == t.Image }); i >= 0 {
			app = l.Images[i].App + "/" + l.Images[i].Version
		}
		rows = append(rows, []string{clip(visible(t.Command), 20), clip(visible(app), 24), strconv.Itoa(len(t.Objects)), bytesText(t.Bytes()), strconv.Itoa(t.Runs), t.Used.Local().Format("2006-01-02")})
	}
	return table(out, rows)
}

// printObjects writes one line for each object.
func printObjects(out io.Writer, list []trace.Trace) error {
	for _, t := range list {
		fmt.Fprintf(out, "%s of %s, image %s: %d objects, %s\n", visible(t.Command), t.Repository, t.Image, len(t.Objects), bytesText(t.Bytes()))
		for _, o := range t.Objects {
			text, err := o.MarshalText()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "  %s\n", text)
		}
	}
	return nil
}

func newTraceRecord() *cobra.Command {
	var mount string
	c := &cobra.Command{
		Use:   "record COMMAND [ARGUMENT ...]",
		Short: "Run a command and make its trace anew",
		Long: `Forgets the trace of COMMAND, runs it with its arguments, and keeps what it read
as its trace. What the kernel has in its own caches is not seen: the trace is
whole if nothing of that image ran since the mount. The exit status is the
command's own, and one of those below when it was not run.`,
		Example: "  neurodeskfs trace record mrinfo image.nii",
		Args:    usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			m, cmd, err := ofCommand(mount, args[0])
			if err != nil {
				return err
			}
			about := &traceRequest{Image: cmd.Hash, Command: cmd.Command}
			if _, err := askTraces(c.Context(), m, controlRequest{Do: "trace record", Trace: about}, bar{}); err != nil {
				return err
			}
			run := exec.CommandContext(c.Context(), filepath.Join(m, "bin", args[0]), args[1:]...)
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			ran := run.Run()
			list, err := exported(c.Context(), m)
			if err != nil {
				return err
			}
			for _, t := range list {
				if t.Image == about.Image && t.Command == about.Command {
					fmt.Fprintf(c.ErrOrStderr(), "neurodeskfs: %s read %d objects, %s\n", args[0], len(t.Objects), bytesText(t.Bytes()))
				}
			}
			var exit *exec.ExitError
			if errors.As(ran, &exit) && exit.ExitCode() > 0 {
				return failure{exit.ExitCode(), errors.New("")}
			}
			return ran
		},
	}
	c.Flags().SetInterspersed(false)
	mountFlag(c, &mount)
	return c
}

func newTraceReplay() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:     "replay COMMAND ...",
		Short:   "Fetch what the traces of commands name, and wait for it",
		Example: "  neurodeskfs trace replay bet fslmaths",
		Args:    usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			all := map[string]trace.Replayed{}
			for _, name := range args {
				m, cmd, err := ofCommand(mount, name)
				if err != nil {
					return err
				}
				show := newBar(c.ErrOrStderr())
				a, err := askTraces(c.Context(), m, controlRequest{Do: "trace replay", Trace: &traceRequest{Image: cmd.Hash, Command: cmd.Command}}, show)
				show.clear()
				r, err := decodeData[trace.Replayed](a, err)
				if err != nil {
					return err
				}
				all[name] = r
				if !asJSON {
					fmt.Fprintf(c.OutOrStdout(), "%s: %d of %d objects are there, %s\n", name, r.There, r.Objects, bytesText(r.Bytes))
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return nil
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
