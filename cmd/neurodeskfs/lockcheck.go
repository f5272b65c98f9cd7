package main

import (
	"errors"
	"io"
	"slices"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// What lock --check says of an app.
const (
	lockSame     = "same"     // today's tree has the very image
	lockRebuilt  = "rebuilt"  // that build has another content now
	lockGone     = "gone"     // the build is not there any more, or retired
	lockUnlocked = "unlocked" // the file has no hash of it
)

// LockCheck is what lock --check says of one app.
type LockCheck struct {
	launch.Locked
	State string `json:"state"`
	Today string `json:"today,omitempty"` // the hash that the build has now
	Runs  bool   `json:"runs"`            // the locked image can be had
	Why   string `json:"why,omitempty"`   // why it cannot
}

// compare compares the lock, or the apps named, with the mount, and fails if something differs.
func (w *lockWork) compare(out io.Writer, lock launch.Lock, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(lock.Apps, func(a launch.Locked) bool { return a.Name == n }) {
			return failf(exitFailure, "%s is not in %s", n, w.file)
		}
	}
	list, differing := []LockCheck{}, 0
	for _, a := range lock.Apps {
		if len(names) > 0 && !slices.Contains(names, a.Name) {
			continue
		}
		c := checkLocked(w.mount, w.file, a)
		if list = append(list, c); c.State != lockSame {
			differing++
		}
	}
	if w.json {
		if err := printJSON(out, list); err != nil {
			return err
		}
	} else if err := printLockChecks(out, list); err != nil {
		return err
	}
	if differing > 0 {
		return failf(exitFailure, "%d of %d apps in %s differ from the mount", differing, len(list), clip(w.file, 40))
	}
	return nil
}

// checkLocked compares one app with the mount.
func checkLocked(m, file string, a launch.Locked) LockCheck {
	c := LockCheck{Locked: a, State: lockGone}
	if cmd, err := describeApp(m, a.Name+"/"+a.Build()); err == nil && cmd.Retired == "" {
		c.Today, c.State = cmd.Hash, lockRebuilt
	}
	h := launch.RealHost("")
	switch {
	case a.Hash == "":
		c.State, c.Why = lockUnlocked, "it has no hash: neurodeskfs lock fills it in"
		return c
	case a.ShownAs(&h, m, c.Today):
		c.State, c.Runs = lockSame, true
		return c
	}
	_, err := h.Pinned(m, launch.Pin{App: a.Name, Version: a.Build(), From: file, Locked: &a})
	var exit *launch.Exit
	switch {
	case err == nil:
		c.Runs = true
	case errors.As(err, &exit):
		c.Why = exit.Message
	default:
		c.Why = err.Error()
	}
	return c
}

func printLockChecks(out io.Writer, list []LockCheck) error {
	rows := [][]string{}
	for _, c := range list {
		text := map[string]string{lockSame: "the same", lockRebuilt: "rebuilt", lockGone: "gone", lockUnlocked: "not locked"}[c.State]
		switch {
		case c.State == lockSame:
		case c.Runs:
			text += "; runs from its revision as long as servers have it"
		case c.State == lockUnlocked:
			text += ": neurodeskfs lock fills it in"
		default:
			text += "; cannot be had any more"
		}
		rows = append(rows, []string{c.Name, c.Build(), text})
	}
	if err := table(out, rows); err != nil {
		return err
	}
	for _, c := range list {
		if c.Why != "" && c.State != lockUnlocked {
			wrap(out, "! ", visible(c.Why))
		}
	}
	return nil
}
