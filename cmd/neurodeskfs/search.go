package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// Match is one app that search found.
type Match struct {
	App      string   `json:"app"`
	Versions []string `json:"versions"` // VERSION_DATE, as the index has them: newest first
	Commands []string `json:"commands"` // those that match, best first
	Rank     int      `json:"rank"`     // 0 is best
	// Owns says which of the commands are this app's in M/bin, without pins of the caller's, and why.
	Owns map[string]string `json:"owns"`
}

// How well a word matches, from best to worst. An app ranks as its worst word.
const (
	rankCommand       = iota // a command's name
	rankCommandPrefix        // the beginning of a command's name
	rankApp                  // in the app's name
	rankCommandPart          // in a command's name
	rankVersion              // in a version
	rankNone
)

func newSearch() *cobra.Command {
	var mount string
	var asJSON bool
	c := &cobra.Command{
		Use:   "search WORD ...",
		Short: "Find apps by the names of apps, commands and versions",
		Long: `Lists the apps in which every WORD occurs: in the name of a command, of the app,
or in a version. Upper and lower case are the same. The best matches come first:
a command's whole name, its beginning, the app's name, then the rest. Of a
command that several apps have it is said whose it is in M/bin, and why.`,
		Example: "  neurodeskfs search bet\n  neurodeskfs search fsl 6.0 --json | jq -r '.[].app'",
		Args:    usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := findMount(mount)
			if err != nil {
				return err
			}
			l, err := readIndex(m, c.ErrOrStderr())
			if err != nil {
				return err
			}
			list := searchApps(l, args)
			if asJSON {
				if err := printJSON(c.OutOrStdout(), list); err != nil || len(list) > 0 {
					return err
				}
			}
			if len(list) == 0 {
				return failf(exitFailure, "nothing matches %q: neurodeskfs list shows the apps", strings.Join(args, " "))
			}
			printMatches(c.OutOrStdout(), list)
			printOwners(c.OutOrStdout(), list, args)
			return nil
		},
	}
	mountFlag(c, &mount)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// searchApps lists the apps that match all words, best first.
func searchApps(l tree.Listing, words []string) []Match {
	apps := make(map[string]*Match)
	commands := make(map[string]map[string]bool)
	for _, i := range l.Images {
		m := apps[i.App]
		if m == nil {
			m = &Match{App: i.App, Versions: []string{}, Commands: []string{}, Owns: map[string]string{}}
			apps[i.App], commands[i.App] = m, make(map[string]bool)
		}
		m.Versions = append(m.Versions, i.Build())
		for _, name := range i.Commands {
			commands[i.App][name] = true
		}
	}
	owned := make(map[string]tree.Decided, len(l.Names))
	for _, d := range l.Names {
		owned[d.Command] = d
	}
	list := []Match{}
	for app, m := range apps {
		best := make(map[string]int) // of the commands that match
		for _, w := range words {
			m.Rank = max(m.Rank, rankWord(strings.ToLower(w), *m, commands[app], best))
		}
		if m.Rank == rankNone {
			continue
		}
		for name := range best {
			m.Commands = append(m.Commands, name)
			if d := owned[name]; strings.HasPrefix(d.Owner, app+"/") {
				m.Owns[name] = d.Reason
			}
		}
		slices.SortFunc(m.Commands, func(a, b string) int {
			return cmp.Or(best[a]-best[b], strings.Compare(a, b))
		})
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b Match) int {
		return cmp.Or(a.Rank-b.Rank, strings.Compare(a.App, b.App))
	})
	return list
}

// rankWord ranks a word in lower case and notes the commands that it matches.
func rankWord(w string, m Match, commands map[string]bool, best map[string]int) int {
	rank := rankNone
	if strings.Contains(strings.ToLower(m.App), w) {
		rank = rankApp
	}
	for name := range commands {
		lower := strings.ToLower(name)
		r := rankNone
		switch {
		case lower == w:
			r = rankCommand
		case strings.HasPrefix(lower, w):
			r = rankCommandPrefix
		case strings.Contains(lower, w):
			r = rankCommandPart
		default:
			continue
		}
		rank = min(rank, r)
		if old, ok := best[name]; !ok || r < old {
			best[name] = r
		}
	}
	if slices.ContainsFunc(m.Versions, func(v string) bool { return strings.Contains(strings.ToLower(v), w) }) {
		rank = min(rank, rankVersion)
	}
	return rank
}

// printMatches writes a line of at most 80 columns for each match.
func printMatches(out io.Writer, list []Match) {
	app, version := len("APP"), len("VERSION")
	list = slices.Clone(list)
	for i := range list {
		m := &list[i]
		m.App, m.Versions, m.Commands = visible(m.App), visibles(m.Versions), visibles(m.Commands)
		app = max(app, min(len(m.App), 24))
		version = max(version, min(len(versionsText(*m)), 28))
	}
	rest := screenWidth - app - version - 4
	fmt.Fprintf(out, "%-*s  %-*s  %s\n", app, "APP", version, "VERSION", "COMMANDS THAT MATCH")
	for _, m := range list {
		line := fmt.Sprintf("%-*s  %-*s  %s", app, clip(m.App, app), version, clip(versionsText(m), version), fitList(m.Commands, rest))
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
}

// printOwners says whose a command is that was asked for by its very name, where several apps have it.
func printOwners(out io.Writer, list []Match, words []string) {
	for _, w := range words {
		having := 0
		line := ""
		for _, m := range list {
			for _, name := range m.Commands {
				if !strings.EqualFold(name, w) {
					continue
				}
				having++
				if reason, ok := m.Owns[name]; ok {
					line = fmt.Sprintf("%s in bin is %s's: %s", name, m.App, reason)
				}
			}
		}
		if having > 1 && line != "" {
			wrap(out, "", visible(line))
		}
	}
}

func versionsText(m Match) string {
	if len(m.Versions) > 1 {
		return fmt.Sprintf("%s (+%d)", m.Versions[0], len(m.Versions)-1)
	}
	return m.Versions[0]
}

// fitList writes as many words as fit and counts the others.
func fitList(words []string, width int) string {
	text := ""
	for i, w := range words {
		next := w
		if i > 0 {
			next = text + " " + w
		}
		more := ""
		if left := len(words) - i - 1; left > 0 {
			more = fmt.Sprintf(" +%d", left)
		}
		if len(next)+len(more) > width && i > 0 {
			return clip(fmt.Sprintf("%s +%d", text, len(words)-i), width)
		}
		text = next
	}
	return clip(text, width)
}
