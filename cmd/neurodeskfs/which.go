package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// Found is one image that has a command, as which prints it.
type Found struct {
	Path   string `json:"path"`
	Build  string `json:"build"`
	Owner  bool   `json:"owner"` // M/bin's
	Reason string `json:"reason,omitempty"`
}

func newWhich() *cobra.Command {
	var mount string
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "which COMMAND",
		Short: "Show which image runs when a name is typed, and why",
		Long: `Shows the image that a name in M/bin means for whoever types it in the current
directory, and the rule that decides, in this order:

  a pin       a lock file, then $NEURODESK_PIN, then the site (neurodeskfs pin)
  its own     the app has the command's own name, case, - and _ aside
  the fewest  the app exposes the fewest commands; equal: the first by name
  the newest  version of that app that has the command, then the newest build

Retired images own nothing that another image has.`,
		Example: "  neurodeskfs which bet\n  neurodeskfs which --all dcm2niix",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			l, err := readIndex(m, c.ErrOrStderr())
			if err != nil {
				return err
			}
			list, err := find(m, l, args[0], c.ErrOrStderr())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return failf(exitFailure, "no image has a command %q: neurodeskfs list shows the apps", args[0])
			}
			if !all {
				list = list[:1]
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			var rows [][]string
			for _, f := range list {
				rows = append(rows, []string{f.Path, f.Build, f.Reason})
			}
			return table(c.OutOrStdout(), rows)
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVarP(&all, "all", "a", false, "every image that has the command, the winner first")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// find lists the images that have a command: the one that is pinned here, the
// owner in M/bin, then the others in the order in which they would follow.
func find(m string, l tree.Listing, command string, warn io.Writer) ([]Found, error) {
	var list []Found
	inApps := func(build string) string { return filepath.Join(m, "apps", build, "bin", command) }
	if i := slices.IndexFunc(l.Names, func(d tree.Decided) bool { return d.Command == command }); i >= 0 {
		d := l.Names[i]
		list = append(list, Found{filepath.Join(m, "bin", command), d.Owner, true, d.Reason})
		for _, o := range d.Others {
			list = append(list, Found{inApps(o), o, false, ""})
		}
		return pinnedFirst(m, list, command, warn)
	}
	for _, i := range l.Images {
		if slices.Contains(i.Commands, command) {
			build := i.App + "/" + i.Build()
			list = append(list, Found{inApps(build), build, false, "not in bin: the host's own, no plausible name, or its image lists no commands"})
		}
	}
	return list, nil
}

// pinnedFirst puts the image that a pin of the caller's gives M/bin's command to
// in front of the list, whose first image is the owner without it.
func pinnedFirst(m string, list []Found, command string, warn io.Writer) ([]Found, error) {
	text, err := os.ReadFile(list[0].Path)
	if err != nil {
		return nil, err
	}
	cmd, err := launch.ParseCommand(text)
	if err != nil {
		return nil, err
	}
	h := launch.RealHost("")
	cmd, pin, warnings, err := h.ApplyPins(m, cmd)
	for _, w := range warnings {
		fmt.Fprintln(warn, "neurodeskfs: "+w)
	}
	if err != nil || pin == nil {
		return list, err
	}
	build := cmd.App + "/" + cmd.Build()
	first := Found{list[0].Path, build, true, pin.Why()}
	list[0].Path, list[0].Owner, list[0].Reason = filepath.Join(m, "apps", list[0].Build, "bin", command), false, "bin's without the pin: "+list[0].Reason
	if !lockedPlace(cmd.Rootfs) { // else today's build of that name is another image
		list = slices.DeleteFunc(list, func(f Found) bool { return f.Build == build })
	}
	return append([]Found{first}, list...), nil
}

// lockedPlace reports whether an image is shown from the revision that a lock names.
func lockedPlace(rootfs string) bool {
	return strings.HasSuffix(filepath.Dir(filepath.Dir(rootfs)), "/.neurodeskfs/locked")
}
