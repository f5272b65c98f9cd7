package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// PinInfo is one app whose version something other than the usual rules decides.
type PinInfo struct {
	App     string `json:"app"`
	Version string `json:"version"`           // a name in M/apps/APP
	From    string `json:"from"`              // a lock file, NEURODESK_PIN, or "site"
	Locked  bool   `json:"locked"`            // the very image
	Old     bool   `json:"old"`               // today's revision lacks it: it is served from its own
	Problem string `json:"problem,omitempty"` // why it does not work
}

// fromSite is PinInfo.From of a site's pin.
const fromSite = "site"

func newPin() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:   "pin",
		Short: "Show which versions are pinned here, and by what",
		Long: `Shows the apps whose version is not just the newest for whoever works in the
current directory, by what goes first:

  the lock file of this or the nearest directory above, or $NEURODESK_LOCK
  $NEURODESK_PIN, such as "fsl=6.0.7.22 ants=2.5.3"
  launch.pins in the configuration of the mount

Fails if one of them means nothing that can be had.`,
		Example: "  neurodeskfs pin\n  NEURODESK_PIN=fsl=6.0.7.22 neurodeskfs pin --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			list, err := pinsHere(m, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), list)
			} else {
				err = printPins(c.OutOrStdout(), list)
			}
			if n := countProblems(list); err == nil && n > 0 {
				err = failf(exitFailure, "%d of %d pins cannot be followed", n, len(list))
			}
			return err
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// pinsHere gathers the pins that hold for this process on the mount m.
func pinsHere(m string, warn io.Writer) ([]PinInfo, error) {
	h := launch.RealHost("")
	pins, err := h.Pins()
	if err != nil {
		return nil, err
	}
	l, err := readIndex(m, warn)
	if err != nil {
		return nil, err
	}
	list := []PinInfo{}
	for _, p := range pins {
		info := PinInfo{App: p.App, Version: p.Version, From: p.From, Locked: p.Locked != nil}
		cmd, err := h.Pinned(m, p)
		if err != nil {
			info.Problem = err.Error()
		} else if info.Old = lockedPlace(cmd.Rootfs); cmd.Retired != "" {
			info.Problem = cmd.Retired
		}
		list = append(list, info)
	}
	for _, p := range l.Pins {
		if slices.ContainsFunc(list, func(i PinInfo) bool { return i.App == p.App }) {
			continue
		}
		info := PinInfo{App: p.App, Version: p.Version, From: fromSite}
		if p.Build == "" {
			info.Problem = "no source has that version, so the usual rules hold"
		}
		list = append(list, info)
	}
	return list, nil
}

func countProblems(list []PinInfo) (n int) {
	for _, i := range list {
		if i.Problem != "" {
			n++
		}
	}
	return n
}

// printPins writes the pins in groups by what makes them hold.
func printPins(out io.Writer, list []PinInfo) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "nothing is pinned here: M/bin has the newest versions")
		return err
	}
	width := 1
	for _, i := range list {
		width = max(width, len(visible(i.App)))
	}
	last := ""
	for _, i := range list {
		if i.From != last {
			what := "pinned by " + i.From
			switch {
			case i.Locked:
				what = "locked by " + i.From
			case i.From == fromSite:
				what = "pinned by launch.pins of the site"
			}
			fmt.Fprintln(out, visible(what))
			last = i.From
		}
		line := fmt.Sprintf("  %-*s  %s", width, visible(i.App), visible(i.Version))
		switch {
		case i.Problem != "":
			line += "  ! see below"
		case i.Old:
			line += "  from its own revision: today's lacks it"
		}
		fmt.Fprintln(out, line)
	}
	for _, i := range list {
		if i.Problem != "" {
			wrap(out, "! ", visible(i.App+": "+i.Problem))
		}
	}
	return nil
}
