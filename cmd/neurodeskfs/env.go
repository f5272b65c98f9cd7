package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

func newEnv() *cobra.Command {
	var mount string
	var asJSON, csh bool
	c := &cobra.Command{
		Use:   "env APP[/VERSION]",
		Short: "Print the variables that an app wants to be set on the host",
		Long: `Prints the variables of APP, of the version pinned here or else its newest if
none is named, as lines that a shell can evaluate: FSLDIR and the like, by which
programs of the host find the image's files. Many apps have none. The lines are
for sh, bash, zsh and fish; with --csh for csh and tcsh.`,
		Example: "  eval \"$(neurodeskfs env fsl)\"\n  eval \"`neurodeskfs env --csh fsl`\"\n  neurodeskfs env fsl/6.0.7.22 --json",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if asJSON && csh {
				return failf(exitUsage, "--json and --csh exclude each other")
			}
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			text, err := appEnv(m, args[0])
			if err != nil {
				return err
			}
			if !asJSON && !csh {
				fmt.Fprint(c.OutOrStdout(), text)
				return nil
			}
			vars, err := parseEnv(text)
			if err != nil {
				return err
			}
			if csh {
				fmt.Fprint(c.OutOrStdout(), cshText(vars))
				return nil
			}
			return printJSON(c.OutOrStdout(), vars)
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&csh, "csh", false, "print lines for csh and tcsh")
	return c
}

// cshText is what csh evaluates, which joins the lines.
func cshText(vars map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&b, "setenv %s '%s';\n", name, strings.ReplaceAll(vars[name], "'", `'\''`))
	}
	return b.String()
}

// appEnv reads the env file of APP[/VERSION].
func appEnv(m, name string) (string, error) {
	cmd, err := choose(m, name, "")
	if err != nil {
		return "", err
	}
	if cmd.Retired != "" {
		return "", failf(exitFailure, "%s/%s was retired: %s", cmd.App, cmd.Version, cmd.Retired)
	}
	dir := filepath.Join(m, "apps", cmd.App, cmd.Build())
	if lockedPlace(cmd.Rootfs) {
		dir = filepath.Dir(cmd.Rootfs)
	}
	b, err := os.ReadFile(filepath.Join(dir, "env"))
	return string(b), err
}

// parseEnv reads `export NAME='VALUE'` lines.
func parseEnv(text string) (map[string]string, error) {
	words, err := launch.Split(text)
	if err != nil {
		return nil, fmt.Errorf("the app's env file: %w", err)
	}
	vars := map[string]string{}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			vars[name] = value
		}
	}
	return vars, nil
}

func newShell() *cobra.Command {
	var mount string
	c := &cobra.Command{
		Use:   "shell APP[/VERSION]",
		Short: "Start a shell inside an image",
		Long: `Starts an interactive shell in the image of APP, of the version pinned here or
else its newest if none is named: bash, or sh where the image has no bash. It
sees the same files and the same environment as the app's commands.

Exit status:
  69   the image was retired
  125  an error of neurodeskfs
  127  the image has no shell
  and otherwise the shell's own`,
		Example: "  neurodeskfs shell fsl\n  neurodeskfs shell mrtrix3/3.0.3",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return start(mount, args[0], "", shellOf, nil)
		},
	}
	mountFlag(c, &mount)
	return c
}

// shellOf is the shell to start in the image at rootfs. Links are not followed:
// they lead elsewhere outside the image.
func shellOf(rootfs string) string {
	for _, dir := range []string{"usr/bin", "bin"} {
		if _, err := os.Lstat(filepath.Join(rootfs, dir, "bash")); err == nil {
			return "bash"
		}
	}
	return "sh"
}
