package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	readmeLimit = 4096 // bytes that info reads of a README
	readmeLines = 12   // lines that it shows
)

// AppInfo is what info prints about one image.
type AppInfo struct {
	App        string   `json:"app"`
	Version    string   `json:"version"`
	Date       string   `json:"date"`
	Builds     []Build  `json:"builds"` // all of the app
	Hash       string   `json:"hash,omitempty"`
	Repository string   `json:"repository"`
	Image      string   `json:"image"` // repository:path
	Revision   uint64   `json:"revision"`
	Retired    bool     `json:"retired"`
	Path       string   `json:"path"`             // in the mount
	Rootfs     string   `json:"rootfs,omitempty"` // in the mount
	InBin      int      `json:"commands_in_bin"`  // how many of the commands are M/bin's
	Commands   []string `json:"commands"`
	Readme     string   `json:"readme,omitempty"` // its beginning, as it is
}

// Build is one image of an app.
type Build struct {
	Name    string `json:"name"` // as in M/apps/NAME
	Retired bool   `json:"retired"`
	Default bool   `json:"default"` // what APP without a version means
}

func newInfo() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:   "info APP[/VERSION]",
		Short: "Show an app's versions, its commands and where it comes from",
		Long: `Shows one image of APP, that of its newest version if none is named: hash,
source, commands, the beginning of its README and where it lies in the mount.
VERSION is a name as in M/apps/APP: 6.0.7.22 or 6.0.7.22_20260416.`,
		Example: "  neurodeskfs info fsl\n  neurodeskfs info mrtrix3/3.0.3 --json | jq -r '.commands[]'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			info, err := appInfo(m, args[0], c.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), info)
			}
			info.print(c.OutOrStdout())
			return nil
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// appInfo gathers what the mount says of APP[/VERSION].
func appInfo(m, name string, warn io.Writer) (AppInfo, error) {
	cmd, err := describeApp(m, name)
	if err != nil {
		return AppInfo{}, err
	}
	l, err := readIndex(m, warn)
	if err != nil {
		return AppInfo{}, err
	}
	info := AppInfo{
		App: cmd.App, Version: cmd.Version, Date: cmd.Date, Builds: []Build{}, Image: cmd.Image,
		Revision: cmd.Revision, Retired: cmd.Retired != "", Rootfs: cmd.Rootfs, Commands: []string{},
	}
	if !info.Retired {
		info.Hash = cmd.Hash
	}
	standard, _ := filepath.EvalSymlinks(filepath.Join(m, "apps", cmd.App, "default"))
	for _, i := range l.Images {
		if i.App != cmd.App {
			continue
		}
		info.Builds = append(info.Builds, Build{i.Build(), i.Retired, i.Build() == filepath.Base(standard)})
		if i.Version == cmd.Version && i.Date == cmd.Date {
			info.Commands = slices.Sorted(slices.Values(i.Commands))
			info.Path, info.Repository = filepath.Join(m, "apps", i.App, i.Build()), i.FQRN
		}
	}
	own := filepath.Join(cmd.App, filepath.Base(info.Path))
	for _, d := range l.Names {
		if d.Owner == own {
			info.InBin++
		}
	}
	info.Readme = readHead(filepath.Join(info.Path, "README.md"))
	return info, nil
}

// readHead reads the beginning of a text; "" if there is none.
func readHead(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, readmeLimit))
	return string(b)
}

// print writes the image's data for people, 80 columns wide.
func (i AppInfo) print(out io.Writer) {
	row := func(name, value string) {
		value = visible(value)
		if len(value) > screenWidth-12 {
			name += "\n "
		}
		fmt.Fprintf(out, "%-10s  %s\n", name, value)
	}
	row("app", i.App)
	row("version", i.Version)
	if i.Date != "" {
		row("built", i.Date)
	}
	if i.Retired {
		row("retired", "the repository has taken the image away: choose another version")
	}
	if i.Hash != "" {
		row("hash", i.Hash)
	}
	row("source", i.Repository)
	if i.Image != "" {
		row("image", strings.TrimPrefix(i.Image, i.Repository+":"))
	}
	row("revision", fmt.Sprint(i.Revision))
	row("folder", i.Path)
	fmt.Fprintf(out, "\nversions\n")
	var builds []string
	for _, b := range i.Builds {
		text := visible(b.Name)
		if b.Default {
			text += " (default)"
		}
		if b.Retired {
			text += " (retired)"
		}
		builds = append(builds, text)
	}
	columns(out, builds, "  ")
	fmt.Fprintf(out, "\ncommands: %d, of which %d are in bin\n", len(i.Commands), i.InBin)
	columns(out, visibles(i.Commands), "  ")
	if i.Readme != "" {
		fmt.Fprintf(out, "\nREADME.md\n")
		printHead(out, i.Readme)
	}
}

// printHead writes the first lines of a text that anyone may have written.
func printHead(out io.Writer, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for n, line := range lines {
		if n == readmeLines {
			fmt.Fprintln(out, "  ...")
			return
		}
		line = visible(strings.TrimRight(line, "\r "))
		fmt.Fprintln(out, strings.TrimRight("  "+clip(line, screenWidth-2), " "))
	}
}
