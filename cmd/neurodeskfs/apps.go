package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// indexPatience is how long the commands that need the whole index wait for it.
const indexPatience = 30 * time.Second

// readIndex reads a mount's index, waiting, bounded, until it is complete.
func readIndex(mountpoint string, warn io.Writer) (tree.Listing, error) {
	var l tree.Listing
	deadline := time.Now().Add(indexPatience)
	for {
		b, err := readOwn(mountpoint, "index.json")
		if err != nil {
			return l, err
		}
		l = tree.Listing{}
		if err := json.Unmarshal(b, &l); err != nil {
			return l, fmt.Errorf("index of %s: %w", mountpoint, err)
		}
		if l.Pending == 0 {
			return l, nil
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(warn, "neurodeskfs: %d images could not be read yet; the list is not complete\n", l.Pending)
			return l, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// mountFlag adds --mount.
func mountFlag(c *cobra.Command, p *string) {
	c.Flags().StringVar(p, "mount", "", "the mount's `DIR`; else $NEURODESK_MOUNT, else the only mount")
}

func printJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := out.Write(plainJSON(b.Bytes()))
	return err
}

// plainJSON escapes what a terminal would obey and JSON leaves as it is, such as
// characters that reorder others.
func plainJSON(b []byte) []byte {
	var out []byte
	for _, r := range string(b) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		default:
			for _, u := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, u)
			}
		}
	}
	return out
}

func newList() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the apps and their versions",
		Example: "  neurodeskfs list\n  neurodeskfs list --json | jq -r '.[].app' | sort -u",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			l, err := readIndex(m, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), l.Images)
			}
			rows := [][]string{{"APP", "VERSION", "DATE", "COMMANDS", ""}}
			for _, i := range l.Images {
				note := ""
				if i.Retired {
					note = "retired"
				}
				rows = append(rows, []string{i.App, i.Version, i.Date, strconv.Itoa(len(i.Commands)), note})
			}
			return table(c.OutOrStdout(), rows)
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with each image's commands")
	return c
}

func newExec() *cobra.Command {
	var mount, lock string
	c := &cobra.Command{
		Use:   "exec APP[/VERSION] -- COMMAND [ARGUMENT ...]",
		Short: "Run any program of an image, exposed or not",
		Long: `Runs COMMAND from the image of APP. If no version is named, it is the one that
a lock file, $NEURODESK_PIN or the site pins (see neurodeskfs pin), else the
newest.
VERSION is a name as in M/apps/APP: 6.0.7.22 or 6.0.7.22_20260416.

Exit status:
  2    wrong arguments
  69   the image was retired
  125  an error of neurodeskfs
  126  COMMAND cannot be executed
  127  there is no such command
  and otherwise the program's own`,
		Example: "  neurodeskfs exec fsl -- bet in.nii out.nii\n  neurodeskfs exec mrtrix3/3.0.3 -- sh -c 'ls /opt'\n  neurodeskfs exec --lock study/neurodesk.lock fsl -- bet in.nii out.nii",
		Args:    usage(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			if args[1] == "--" {
				args = slices.Delete(args, 1, 2)
			}
			if len(args) < 2 {
				return failf(exitUsage, "which command of %s? (see %s --help)", args[0], c.CommandPath())
			}
			return start(mount, args[0], lock, func(string) string { return args[1] }, args[2:])
		},
	}
	c.Flags().SetInterspersed(false)
	mountFlag(c, &mount)
	c.Flags().StringVar(&lock, "lock", "", "the image that this lock `FILE` names for APP")
	return c
}

// choose describes APP[/VERSION], without a version the one that is pinned here. With a lock file, that names the image.
func choose(m, name, lock string) (launch.Command, error) {
	pin, err := pinOf(name, lock)
	switch {
	case err != nil:
		return launch.Command{}, err
	case pin == nil:
		return describeApp(m, name)
	}
	h := launch.RealHost("")
	return h.Pinned(m, *pin)
}

// pinOf is the pin that APP[/VERSION] means here: none if a version is named. With a lock file, that names the image.
func pinOf(name, lock string) (*launch.Pin, error) {
	app, version, _ := strings.Cut(name, "/")
	if version != "" && lock == "" {
		return nil, nil
	}
	h := hostWith(lock)
	pins, err := h.Pins()
	i := slices.IndexFunc(pins, func(p launch.Pin) bool { return p.App == app && (lock == "" || p.Locked != nil) })
	switch {
	case err != nil:
		return nil, err
	case i < 0 && lock == "":
		return nil, nil
	case i < 0:
		return nil, failf(exitFailure, "%s does not name %s: neurodeskfs lock --file %s %s adds it", lock, app, lock, name)
	case lock != "" && version != "" && version != pins[i].Version && version != pins[i].Locked.Version:
		return nil, failf(exitFailure, "%s locks %s to %s, not %s: leave the version out", lock, app, pins[i].Version, version)
	}
	return &pins[i], nil
}

// hostWith is the host with another lock file than the one that holds here; "": with that one.
func hostWith(lock string) launch.Host {
	h := launch.RealHost("")
	if lock != "" {
		h.Env = append(h.Env, "NEURODESK_LOCK="+lock)
	}
	return h
}

// describeApp reads what the mount says of APP[/VERSION].
func describeApp(m, name string) (cmd launch.Command, err error) {
	app, ver, _ := strings.Cut(name, "/")
	if ver == "" {
		ver = "default"
	}
	if app == "" || app == "." || app == ".." || strings.Contains(ver, "/") || ver == "." || ver == ".." {
		return cmd, fmt.Errorf("%q is no APP or APP/VERSION", name)
	}
	if _, err := readOwn(m, "version"); err != nil { // also where nothing is mounted, or the mount hangs
		return cmd, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(m, "apps", app, ver))
	if err != nil {
		if _, err := os.Stat(filepath.Join(m, "apps", app)); err != nil {
			return cmd, fmt.Errorf("there is no app %q: neurodeskfs search WORD finds apps by a part of their names and by their commands", app)
		}
		return cmd, fmt.Errorf("the app %s has no version %q: ls %s shows the versions", app, ver, filepath.Join(m, "apps", app))
	}
	text, err := readOwn(m, filepath.Join("apps", app, filepath.Base(dir)))
	if err != nil {
		return cmd, err
	}
	return launch.ParseCommand(text)
}

// start replaces this process with a program of APP[/VERSION], which name finds by
// the image's root. An error has the status that it has where a program was to run.
func start(mount, app, lock string, name func(rootfs string) string, args []string) error {
	m, err := findMount(mount)
	var cmd launch.Command
	if err == nil {
		cmd, err = choose(m, app, lock)
	}
	if err == nil {
		cmd.Command, cmd.Path = name(cmd.Rootfs), ""
		err = execute(m, cmd, args)
	}
	return notStarted(err)
}

// notStarted gives an error that kept a program from starting its status: one of
// the others could be the program's own.
func notStarted(err error) error {
	var exit *launch.Exit
	switch {
	case errors.As(err, &exit):
		return failure{exit.Code, exit}
	case exitStatus(err) == exitUsage:
		return err
	}
	return failure{launch.StatusError, err}
}

// execute replaces this process with the command. It returns only if that fails.
func execute(m string, cmd launch.Command, args []string) error {
	policy, dir, err := launch.LoadPolicy(filepath.Join(m, ".neurodeskfs/launcher"))
	if err != nil {
		return err
	}
	return launch.Run(policy, cmd, args, launch.RealHost(dir), os.Stderr)
}
