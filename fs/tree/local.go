package tree

import (
	"context"
	"os"
	"path/filepath"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// Local is an image of the host that somebody named by its path.
type Local struct {
	App    string // what the mount would call it
	File   string // absolute: a single-file image, or a root tree
	Beside string // the folder in which its commands.txt may lie; "": none
}

// FindLocal recognises what the absolute path at names: a single-file image, a
// root tree, or a container's folder NAME_VERSION_DATE with an image of that
// name. ok is false for what can be none of these.
func FindLocal(at string) (l Local, ok bool) {
	st, err := os.Stat(at)
	dir, name := filepath.Split(filepath.Clean(at))
	if err != nil || name == "" {
		return l, false
	}
	_, inner := os.Stat(filepath.Join(at, ".singularity.d"))
	c, known := dirStore{dir: dir}.container(name)
	switch {
	case known:
		l = Local{App: c.app, File: c.file, Beside: c.beside}
		if app, _, _, split := splitImageName(trimSuffix(c.name)); c.app == "" && split {
			l.App = app
		}
	case st.Mode().IsRegular() || inner == nil:
		l = Local{App: trimSuffix(name), File: at}
	default:
		return l, false
	}
	if parent := filepath.Clean(dir); l.Beside == "" && trimSuffix(name) == filepath.Base(parent) && name != trimSuffix(name) {
		l.Beside = parent
	}
	return l, true
}

// FindCommands asks an image without commands.txt what it exposes, as the mount
// does for the app of that name.
func FindCommands(ctx context.Context, f image.Files, app string) ([]Command, error) {
	return findCommands(ctx, f, app, neverSet(DefaultNever))
}

// WhyNotInBin says why a command's name never stands in M/bin; "" if it may.
func WhyNotInBin(name string) string {
	never := neverSet(DefaultNever)
	switch {
	case plausible(name, never):
		return ""
	case never[name], interpreterVersion(name):
		return "a shell, interpreter, core utility or package tool"
	}
	return "nothing that a person would type"
}
