package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// lockTries is how often an image is looked at again while the mount moves to another revision.
const lockTries = 5

// lockWork is one call of the lock command.
type lockWork struct {
	mount, file   string
	check, update bool
	json          bool
}

func newLock() *cobra.Command {
	var w lockWork
	c := &cobra.Command{
		Use:   "lock [APP[/VERSION] ...]",
		Short: "Write down which images a directory's work is done with, or check",
		Long: `Writes the images of the apps named, those of their newest versions where none
is, into neurodesk.lock: by content hash, and with the revision that has them.
Names in M/bin then mean these images for whoever works in that directory or
below it. The file is the one that holds here already, else a new one in the
current directory. An app in it stays as it is until --update, or until another
version of it is named. Without an APP, what the file lacks is filled in. A SIF
in a folder is read to its end once: by its SHA-256 other computers know it.

--check compares the file with what the mount shows now, lists what differs,
and then fails. An image that the newest revision lacks still runs as long as a
server has its revision: then the list says so.

$NEURODESK_LOCK names another file than the nearest one for all commands.`,
		Example: "  neurodeskfs lock fsl/6.0.7.22 ants\n  neurodeskfs lock --check\n  neurodeskfs lock --update fsl",
		Args:    usage(cobra.ArbitraryArgs),
		RunE: func(c *cobra.Command, args []string) error {
			if w.check && w.update {
				return failf(exitUsage, "--check and --update exclude each other")
			}
			m, err := findMount(w.mount)
			if err != nil {
				return err
			}
			w.mount = m
			return w.run(c, args)
		},
	}
	mountFlag(c, &w.mount)
	c.Flags().StringVar(&w.file, "file", "", "lock `FILE`, instead of the one that holds here")
	c.Flags().BoolVar(&w.check, "check", false, "compare the file with the mount")
	c.Flags().BoolVar(&w.update, "update", false, "move the apps named, or all, to the newest versions")
	c.Flags().BoolVar(&w.json, "json", false, "print JSON")
	return c
}

func (w *lockWork) run(c *cobra.Command, args []string) error {
	lock, found, err := w.read()
	if err != nil {
		return err
	}
	if len(args) == 0 && len(lock.Apps) == 0 {
		what := "there is no " + launch.LockFile + " here"
		if found {
			what = w.file + " locks nothing"
		}
		return failf(exitUsage, "%s: name the apps to be locked, as in neurodeskfs lock fsl ants", what)
	}
	if w.check {
		return w.compare(c.OutOrStdout(), lock, args)
	}
	before := slices.Clone(lock.Apps)
	if err := w.change(&lock, args); err != nil {
		return err
	}
	if !slices.Equal(before, lock.Apps) {
		if err := writeLock(w.file, lock); err != nil {
			return err
		}
	}
	if w.json {
		return printJSON(c.OutOrStdout(), lock.Apps)
	}
	rows := [][]string{}
	for _, a := range lock.Apps {
		note := ""
		if !slices.Contains(before, a) {
			note = "new in " + w.file
		}
		switch {
		case a.RootHash != "":
		case a.Repository != "":
			note = strings.TrimPrefix(note+"; runs as long as "+a.Repository+" has this very file", "; ")
		case a.SHA256 != "":
			note = strings.TrimPrefix(note+"; runs where a folder has a copy of this file", "; ")
		default:
			note = strings.TrimPrefix(note+"; a local image: nothing but this machine has it", "; ")
		}
		rows = append(rows, []string{a.Name, a.Build(), note})
	}
	return table(c.OutOrStdout(), rows)
}

// read finds and reads the lock file. A file that is not there yet is an empty lock.
func (w *lockWork) read() (lock launch.Lock, found bool, err error) {
	h := launch.RealHost("")
	if w.file != "" {
		if w.file, err = filepath.Abs(w.file); err != nil {
			return lock, false, err
		}
		h.Env = append(h.Env, "NEURODESK_LOCK="+w.file)
	}
	file, lock, err := h.ReadLock()
	if errors.Is(err, os.ErrNotExist) && !w.check {
		w.file = file
		return launch.Lock{}, false, nil
	}
	if err != nil {
		return lock, false, err
	}
	if w.file = file; file == "" {
		if h.CwdErr != nil {
			return lock, false, fmt.Errorf("the current directory cannot be told: %w", h.CwdErr)
		}
		w.file = filepath.Join(h.Cwd, launch.LockFile)
	}
	return lock, file != "", nil
}

// change brings the lock up to what the arguments want.
func (w *lockWork) change(lock *launch.Lock, args []string) error {
	for i, a := range lock.Apps {
		switch {
		case w.update && len(args) == 0:
			if err := w.put(lock, a.Name); err != nil {
				return err
			}
		case a.Hash == "":
			entry, err := lockEntry(w.mount, a.Name+"/"+a.Build())
			if err != nil {
				return err
			}
			lock.Apps[i] = entry
		}
	}
	for _, arg := range args {
		app, version, _ := strings.Cut(arg, "/")
		i := slices.IndexFunc(lock.Apps, func(a launch.Locked) bool { return a.Name == app })
		switch {
		case i < 0 && w.update:
			return failf(exitFailure, "%s is not in %s: neurodeskfs lock %s adds it", app, w.file, arg)
		case i >= 0 && version == "" && !w.update:
			return failf(exitFailure, "%s is locked to %s already: neurodeskfs lock --update %s moves it", app, lock.Apps[i].Build(), app)
		}
		if err := w.put(lock, arg); err != nil {
			return err
		}
	}
	return nil
}

// put adds or replaces the entry of APP[/VERSION].
func (w *lockWork) put(lock *launch.Lock, name string) error {
	entry, err := lockEntry(w.mount, name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(lock.Apps, func(a launch.Locked) bool { return a.Name == entry.Name })
	switch {
	case i < 0:
		lock.Apps = append(lock.Apps, entry)
	case lock.Apps[i].Hash != entry.Hash || lock.Apps[i].SHA256 != entry.SHA256 || lock.Apps[i].Build() != entry.Build():
		lock.Apps[i] = entry // the same image keeps the revision that it was locked at
	}
	return nil
}

// lockEntry says what would lock APP[/VERSION], and has made sure that it does.
func lockEntry(m, name string) (launch.Locked, error) {
	for try := 1; ; try++ {
		cmd, err := describeApp(m, name)
		if err != nil {
			return launch.Locked{}, err
		}
		if cmd.Retired != "" {
			return launch.Locked{}, failf(exitFailure, "%s/%s cannot be locked: %s", cmd.App, cmd.Version, cmd.Retired)
		}
		if cmd.Refused != "" {
			return launch.Locked{}, failf(exitFailure, "%s/%s cannot be locked: %s", cmd.App, cmd.Version, cmd.Refused)
		}
		entry := launch.Locked{Name: cmd.App, Version: cmd.Version, Date: cmd.Date, Image: cmd.Image, Hash: cmd.Hash}
		repository, image, ok := strings.Cut(cmd.Image, ":")
		if !ok || filepath.IsAbs(cmd.Image) {
			h := launch.RealHost("")
			entry.SHA256, err = h.ContentHash(m, cmd.Hash)
			if errors.Is(err, os.ErrNotExist) { // a directory: nothing names its content
				err = nil
			}
			return entry, err
		}
		s, err := readStatus(m)
		if err != nil {
			return entry, err
		}
		for _, src := range s.Sources {
			if at, ok := src.holds(cmd.Image); ok { // no revision: the hash stands for URL, ETag and length
				entry.Image, entry.Repository = at, src.FQRN
				return entry, nil
			}
			if src.FQRN == repository {
				entry.Image, entry.Repository, entry.Revision, entry.RootHash = image, repository, src.Revision, src.RootHash
			}
		}
		_, err = os.Lstat(filepath.Join(m, ".neurodeskfs/locked", entry.Place()))
		if err == nil {
			return entry, nil
		}
		if try == lockTries {
			return entry, fmt.Errorf("revision %d does not give the image of %s by its hash: %w; try again, or see the daemon's log", entry.Revision, name, err)
		}
	}
}

// holds reports whether an image, as command files name it, is one of a bucket's, and at which path of the server.
func (s SourceStatus) holds(image string) (at string, ok bool) {
	before, behind, ok := strings.Cut(s.URL, "@image@")
	u, err := url.Parse(image)
	if !ok || err != nil || !strings.HasPrefix(image, before) || !strings.HasSuffix(image, behind) {
		return "", false
	}
	return path.Clean("/" + u.EscapedPath()), true
}

// writeLock replaces the lock file. What is no file, as the /dev/null of $NEURODESK_LOCK, stays what it is.
func writeLock(file string, lock launch.Lock) error {
	slices.SortFunc(lock.Apps, func(a, b launch.Locked) int { return cmp.Compare(a.Name, b.Name) })
	text, err := lock.Format()
	if err != nil {
		return err
	}
	err = replaceFile(file, text)
	if errors.Is(err, errNoFile) {
		return failf(exitUsage, "%w to write a lock into: name one by --file, or unset NEURODESK_LOCK", err)
	}
	if err != nil {
		return fmt.Errorf("the lock file cannot be written: %w", err)
	}
	return nil
}
