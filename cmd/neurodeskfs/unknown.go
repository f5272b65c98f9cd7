package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// checkCommand refuses the name of a command that does not exist, also below a
// command that has others below it, for which cobra would print its help.
func checkCommand(root *cobra.Command, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return nil // made by cobra when it runs
	}
	root.InitDefaultHelpCmd()
	// Find's own error has several lines, and no status.
	c, rest, _ := root.Find(args)
	if c.Runnable() {
		return nil
	}
	for _, name := range rest {
		if name == "" || name[0] != '-' {
			return unknownCommand(c, name)
		}
	}
	return nil
}

func unknownCommand(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2
	hint := ""
	if near := c.SuggestionsFor(name); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return failf(exitUsage, "there is no command \"%s %s\"%s (see %s --help)", c.CommandPath(), name, hint, c.CommandPath())
}
