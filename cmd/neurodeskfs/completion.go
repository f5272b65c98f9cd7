package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// completionHelp says what to do with the script for a shell. What comes with
// cobra is of other systems too, and wider than a terminal.
var completionHelp = map[string]string{
	"bash": `Prints a script with which bash, by its package bash-completion, completes
commands, options and the names of apps. In the shell that runs now:

  source <(neurodeskfs completion bash)`,
	"zsh": `Prints a script with which zsh completes commands, options and the names of
apps. For all shells to come, a file _neurodeskfs in a directory of fpath; in
the one that runs now:

  autoload -U compinit; compinit
  source <(neurodeskfs completion zsh)`,
	"fish": `Prints a script with which fish completes commands, options and the names of
apps. For all shells to come, ~/.config/fish/completions/neurodeskfs.fish; in
the one that runs now:

  neurodeskfs completion fish | source`,
	"powershell": `Prints a script with which PowerShell completes commands and options. For all
shells to come, what it prints in the profile; in the one that runs now:

  neurodeskfs completion powershell | Out-String | Invoke-Expression`,
}

// addCompletion adds cobra's commands that print such scripts.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	c.Short = "Print the script with which a shell completes commands"
	c.Long = c.Short + "."
	c.Example = "  d=~/.local/share/bash-completion/completions\n  mkdir -p $d && neurodeskfs completion bash > $d/neurodeskfs"
	c.SetUsageTemplate(strings.Replace(c.UsageTemplate(), " for more information about a command.", " for more.", 1))
	for _, sub := range c.Commands() {
		sub.Short = "Print the script for " + sub.Name()
		sub.Long = completionHelp[sub.Name()]
		sub.Example = "  neurodeskfs completion " + sub.Name()
	}
}
