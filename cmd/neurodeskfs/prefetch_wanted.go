package main

import (
	"slices"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// wanted are the images that prefetch is about.
type wanted struct {
	apps   []string        // APP[/VERSION]
	locked []launch.Locked // those of apps that a lock file names
}

// wantedHere are the images that APP[/VERSION] mean for who works here, as exec
// would run them; no word stands for all that the lock file names.
func wantedHere(args []string, lock string) (w wanted, err error) {
	if len(args) == 0 {
		if args, err = lockedApps(lock); err != nil {
			return w, err
		}
	}
	for _, name := range args {
		pin, err := pinOf(name, lock)
		if err != nil {
			return w, err
		}
		if pin != nil {
			name = pin.App + "/" + pin.Version
			if pin.Locked != nil {
				w.locked = append(w.locked, *pin.Locked)
			}
		}
		w.apps = append(w.apps, name)
	}
	return w, nil
}

// lockedApps are the apps that the lock file names, the one that holds here or another.
func lockedApps(lock string) (apps []string, err error) {
	h := hostWith(lock)
	file, l, err := h.ReadLock()
	switch {
	case err != nil:
		return nil, err
	case len(l.Apps) == 0 && file == "":
		return nil, failf(exitUsage, "there is no %s here: name the apps to be fetched, as in neurodeskfs prefetch fsl ants", launch.LockFile)
	case len(l.Apps) == 0:
		return nil, failf(exitUsage, "%s locks nothing: name the apps to be fetched, as in neurodeskfs prefetch fsl ants", file)
	}
	for _, a := range l.Apps {
		apps = append(apps, a.Name)
	}
	return apps, nil
}

// lockOf is what the lock file says of one of the apps; nil: nothing.
func (w wanted) lockOf(name string) *launch.Locked {
	i := slices.IndexFunc(w.locked, func(l launch.Locked) bool { return l.Name+"/"+l.Build() == name })
	if i < 0 {
		return nil
	}
	return &w.locked[i]
}
