package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// words are what may come next; with them goes what else the shell may offer.
type words func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// argumentWords are the words that each command takes as arguments.
var argumentWords = map[string]words{
	"check": orFiles(appWords), "env": first(appWords), "exec": orFiles(first(appWords)), "info": first(appWords),
	"lock": appWords, "prefetch": appWords, "shell": first(appWords), "which": first(commandWords),
	"reload": first(mountWords), "status": first(mountWords), "top": first(mountWords), "umount": first(mountWords), "upgrade": first(mountWords),
	"mount": first(directoryWords),
}

// addWords has the shells complete the names of apps, commands and mounts.
func addWords(root *cobra.Command) {
	for _, c := range root.Commands() {
		if f, ok := argumentWords[c.Name()]; ok {
			c.ValidArgsFunction = f
		}
	}
}

// appWords are the apps of the mount, and behind APP/ its versions.
func appWords(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	app, version, ok := strings.Cut(begun, "/")
	if !ok {
		return namesIn(c, "apps", begun), cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, name := range namesIn(c, filepath.Join("apps", app), version) {
		list = append(list, app+"/"+name)
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// commandWords are the commands in M/bin.
func commandWords(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return namesIn(c, "bin", begun), cobra.ShellCompDirectiveNoFileComp
}

// namesIn are the names in a directory of the mount that begin so; none where it
// hangs, for who types waits.
func namesIn(c *cobra.Command, dir, begin string) (list []string) {
	mount := ""
	if f := c.Flag("mount"); f != nil {
		mount = f.Value.String()
	}
	m, err := findMount(mount)
	if err != nil {
		return nil // nothing is mounted: nothing to offer
	}
	entries, _ := within(context.Background(), answerPatience, func() ([]os.DirEntry, error) { return os.ReadDir(filepath.Join(m, dir)) })
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), begin) {
			list = append(list, e.Name())
		}
	}
	return list
}

// mountWords are the mounts that there are.
func mountWords(*cobra.Command, []string, string) (list []string, _ cobra.ShellCompDirective) {
	mounts, _ := wholeMounts()
	for _, m := range mounts {
		list = append(list, m.Mountpoint)
	}
	return list, cobra.ShellCompDirectiveDefault
}

func directoryWords(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// first offers words for the first argument only.
func first(f words) words {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, begun)
	}
}

// orFiles offers files where there are no words.
func orFiles(f words) words {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		list, _ := f(c, args, begun)
		return list, cobra.ShellCompDirectiveDefault
	}
}
