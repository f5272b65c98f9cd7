package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/check"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// maxBeside bounds a text that lies beside an image, bytes.
const maxBeside = 4 << 20

func newCheck() *cobra.Command {
	var mount, keyring string
	var asJSON bool
	c := &cobra.Command{
		Use:   "check IMAGE|APP[/VERSION]",
		Short: "Examine an image for its author: can each command start?",
		Long: `Examines an image and runs nothing of it: does every declared command exist (of
commands.txt, DEPLOY_PATH, DEPLOY_BINS, runscript), is it executable, and are
its interpreter, its loader and all libraries in the image. Also: names that
other apps have, names that never stand in bin, mount points that are missing,
size by directory. With --keys a PGP signature must be good too.

IMAGE is a SIF file, a squashfs file, a sandbox directory or a container's
folder with its commands.txt; no mount is needed. APP is an app of the mount.
What exists as a file or a directory is an IMAGE. Exit status 1 says that
something is wrong with the image, or that it cannot be read.`,
		Example: "  neurodeskfs check fsl_6.0.7.22_20260416.simg\n  neurodeskfs check ./sandbox --json | jq .faults\n  neurodeskfs check fsl/6.0.7.22",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			s, done, err := checkSubject(c.Context(), args[0], mount, c.ErrOrStderr())
			if err != nil {
				return err
			}
			defer done()
			if keyring != "" {
				keys, err := image.LoadKeyring(keyring)
				if err != nil {
					return failf(exitUsage, "%w", err)
				}
				s.Verify = func(ctx context.Context) (image.Signatures, error) { return image.VerifyHost(ctx, s.Name, keys) }
			}
			report, err := check.Image(c.Context(), s)
			if err != nil {
				return failf(exitFailure, "%s cannot be examined: %w", s.Name, err)
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				printReport(c.OutOrStdout(), report)
			}
			if err == nil && len(report.Faults) > 0 {
				err = failf(exitFailure, "%s: %d faults", visible(s.Name), len(report.Faults))
			}
			return err
		},
	}
	mountFlag(c, &mount)
	c.Flags().StringVar(&keyring, "keys", "", "`FILE` of public PGP keys; one must have signed the SIF")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// checkSubject finds out what arg names and opens it; done gives it back.
func checkSubject(ctx context.Context, arg, mount string, warn io.Writer) (s check.Subject, done func(), err error) {
	at, err := filepath.Abs(arg)
	if err != nil {
		return s, nil, err
	}
	local, isPath := tree.FindLocal(at)
	m, mountErr := findMount(mount)
	if mount != "" && mountErr != nil {
		return s, nil, mountErr
	}
	if !isPath {
		if _, err := os.Stat(at); err == nil && (filepath.IsAbs(arg) || strings.HasPrefix(arg, ".")) {
			return s, nil, failf(exitUsage, "%s is no image: write a SIF or squashfs file, a directory with .singularity.d or bin/sh, or a folder that holds an image of its own name", arg)
		}
		if mountErr != nil {
			return s, nil, failf(exitStatus(mountErr), "there is no file %s, and no app of that name: %w", arg, mountErr)
		}
		if local, err = appImage(m, arg); err != nil {
			return s, nil, err
		}
	}
	s = check.Subject{Name: local.File, App: local.App, Raw: true}
	if isPath && mount == "" && mountErr == nil { // the mount only has names to compare with
		if _, mountErr = within(ctx, answerPatience, func() ([]byte, error) { return readOwn(m, "version") }); errors.Is(mountErr, errNoAnswer) {
			fmt.Fprintf(warn, "neurodeskfs: %s %v: its apps are not compared with\n", m, mountErr)
		}
	}
	if mountErr == nil {
		if s.Others, err = otherApps(m, local.App, warn); err != nil && (!isPath || mount != "") {
			return s, nil, err
		}
	}
	if local.Beside != "" {
		s.CommandsTxt = readBeside(local.Beside, "commands.txt")
		s.EnvTxt = readBeside(local.Beside, "env.txt")
	}
	s.Files, done, err = openImage(ctx, local.File)
	return s, done, err
}

// openImage opens a single-file image or a root tree of the host.
func openImage(ctx context.Context, name string) (files image.Files, done func(), err error) {
	name, err = filepath.EvalSymlinks(name)
	if err != nil {
		return files, nil, err
	}
	st, err := os.Stat(name)
	switch {
	case err != nil:
		return files, nil, err
	case st.IsDir():
		return image.HostFiles(name), func() {}, nil
	}
	files, done, err = image.OpenHost(ctx, name)
	if errors.Is(err, image.ErrRefused) {
		err = failf(exitFailure, "%s: %w", name, err)
	}
	return files, done, err
}

// appImage finds where the image of APP[/VERSION] lies: in the raw view of its
// repository, which shows it as it is, or on the host.
func appImage(m, name string) (local tree.Local, err error) {
	cmd, err := describeApp(m, name)
	if err != nil {
		return local, failf(exitUsage, "%w", err)
	}
	if cmd.Retired != "" {
		return local, failf(exitFailure, "%s %s was retired: %s", cmd.App, cmd.Version, cmd.Retired)
	}
	at := cmd.Image
	if strings.Contains(at, "://") { // on object storage, which the mount shows as a file
		at = filepath.Join(m, "apps", cmd.App, cmd.Build(), "image.sif")
	} else if fqrn, path, ok := strings.Cut(cmd.Image, ":"); ok && !filepath.IsAbs(cmd.Image) {
		at = filepath.Join(m, "cvmfs", fqrn, path)
	}
	local = tree.Local{App: cmd.App, File: at}
	if filepath.Ext(at) == ".simg" && filepath.Base(filepath.Dir(at)) == strings.TrimSuffix(filepath.Base(at), ".simg") {
		local.Beside = filepath.Dir(at)
	}
	return local, nil
}

// readBeside reads a file that lies beside an image, nil where there is none.
func readBeside(dir, name string) []byte {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBeside))
	if err != nil {
		return nil
	}
	return b
}

// otherApps tells which other apps of a mount have a command.
func otherApps(m, own string, warn io.Writer) (func(string) []string, error) {
	l, err := readIndex(m, warn)
	if err != nil {
		return nil, err
	}
	apps := map[string][]string{}
	for _, i := range l.Images {
		for _, c := range i.Commands {
			if i.App != own && !i.Retired && !slices.Contains(apps[c], i.App) {
				apps[c] = append(apps[c], i.App)
			}
		}
	}
	return func(command string) []string { return apps[command] }, nil
}

// printReport writes a report for people, 80 columns wide.
func printReport(out io.Writer, r check.Report) {
	bad := map[string]bool{}
	for _, f := range r.Faults {
		for _, c := range f.Commands {
			bad[c] = true
		}
	}
	rows := [][2]string{
		{"image", clipLeft(visible(r.Image), screenWidth-14)}, {"app", visible(r.App)}, {"architecture", r.Architecture},
		{"commands", fmt.Sprintf("%d, of which %d cannot start; declared by %s", len(r.Commands), len(bad), listed(r.Sources, "nothing"))},
		{"size", fmt.Sprintf("%s in %d files, directories and links", bytesText(r.Bytes), r.Entries)},
	}
	if len(r.Signers) > 0 {
		rows = append(rows, [2]string{"signed by", listed(r.Signers, "")})
	}
	if len(r.Driver) > 0 {
		rows = append(rows, [2]string{"GPU driver", listed(r.Driver, "") + " (of the host)"})
	}
	pairs(out, rows)
	var faults, hidden, shared, sizes, mounts [][2]string
	for _, f := range r.Faults {
		faults = append(faults, [2]string{"  " + someOf(f.Commands), visible(f.Problem)})
	}
	for _, h := range hiddenByReason(r.Hidden) {
		hidden = append(hidden, [2]string{"  " + someOf(h.commands), h.why})
	}
	for _, s := range r.Shared {
		shared = append(shared, [2]string{"  " + clip(visible(s.Command), 24), listed(s.Apps, "")})
	}
	if len(r.MountPoints) > 0 {
		mounts = [][2]string{{"", strings.Join(r.MountPoints, " ")}}
	}
	for _, p := range r.Largest {
		sizes = append(sizes, [2]string{"  " + bytesText(p.Bytes), clip(visible(p.Path), 60)})
	}
	for _, section := range []struct {
		title string
		rows  [][2]string
	}{
		{"WRONG", faults},
		{"never in bin, but in the app's own bin", hidden},
		{"names that other apps of the mount have too", shared},
		{"mount points that are missing (neurodeskfs does without them)", mounts},
		{"largest directories", sizes},
	} {
		if len(section.rows) > 0 {
			fmt.Fprintf(out, "\n%s\n", section.title)
			pairs(out, section.rows)
		}
	}
}

// reasoned are the commands that never stand in bin for one reason.
type reasoned struct {
	why      string
	commands []string
}

func hiddenByReason(list []check.Hidden) (all []reasoned) {
	for _, h := range list {
		i := slices.IndexFunc(all, func(r reasoned) bool { return r.why == h.Why })
		if i < 0 {
			i, all = len(all), append(all, reasoned{why: h.Why})
		}
		all[i].commands = append(all[i].commands, h.Command)
	}
	return all
}

// someOf names a few commands and counts the others.
func someOf(commands []string) string {
	switch n := len(commands); n {
	case 0:
		return "the image"
	case 1, 2:
		return clip(listed(commands, ""), 28)
	default:
		return clip(visible(commands[0]), 18) + fmt.Sprintf(" and %d more", n-1)
	}
}

// listed joins names for people.
func listed(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	var all []string
	for _, n := range names {
		all = append(all, visible(n))
	}
	return strings.Join(all, ", ")
}

// clipLeft is clip that keeps the end.
func clipLeft(text string, width int) string {
	if r := []rune(text); len(r) > width {
		return "…" + string(r[len(r)-width+1:])
	}
	return text
}
