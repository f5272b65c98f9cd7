package launch

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Pin says which version of one app a person works with.
type Pin struct {
	App     string
	Version string  // a name in M/apps/APP: a version, or VERSION_DATE
	From    string  // the lock file, or NEURODESK_PIN
	Locked  *Locked // of a lock file: the very image
}

// Why says for people what makes the pin hold.
func (p Pin) Why() string {
	if p.Locked != nil {
		return "locked by " + p.From
	}
	return "pinned by " + p.From
}

// CheckPin tells whether app and version can be names in M/apps.
func CheckPin(app, version string) error {
	if !pathPart(app) || !pathPart(version) {
		return fmt.Errorf("%q is no pin: write APP=VERSION with names as in M/apps", clip(app+"="+version))
	}
	return nil
}

// parsePins reads NEURODESK_PIN: APP=VERSION words, parted by blanks or commas.
func parsePins(text string) ([]Pin, error) {
	var pins []Pin
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		app, version, _ := strings.Cut(word, "=")
		if err := CheckPin(app, version); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(pins, func(p Pin) bool { return p.App == app }) {
			return nil, fmt.Errorf("%s is there twice", clip(app))
		}
		pins = append(pins, Pin{App: app, Version: version, From: "NEURODESK_PIN"})
	}
	return pins, nil
}

// Pins are those of the caller, the ones that go before others first: the lock file's, then NEURODESK_PIN's for apps that
// the lock does not name. Every error is an *Exit.
func (h *Host) Pins() ([]Pin, error) {
	var pins []Pin
	file, l, err := h.ReadLock()
	if err != nil {
		return nil, &Exit{StatusError, err.Error()}
	}
	for i, a := range l.Apps {
		if a.Hash == "" {
			return nil, &Exit{StatusError, fmt.Sprintf("%s: %s has no hash, so nothing is locked; run `neurodeskfs lock` beside it", clip(file), clip(a.Name))}
		}
		pins = append(pins, Pin{a.Name, a.Build(), file, &l.Apps[i]})
	}
	env, err := parsePins(h.getenv("NEURODESK_PIN"))
	if err != nil {
		return nil, &Exit{StatusError, fmt.Sprintf("NEURODESK_PIN: %v; mend or unset it", err)}
	}
	for _, p := range env {
		if !slices.ContainsFunc(pins, func(q Pin) bool { return q.App == p.App }) {
			pins = append(pins, p)
		}
	}
	return pins, nil
}

// ReadLock reads the lock file that holds here: the one that NEURODESK_LOCK names, else that of the current directory or
// of the nearest one above. file is "" where there is none.
func (h *Host) ReadLock() (file string, l Lock, err error) {
	if file, err = h.FindLock(); err != nil || file == "" {
		return "", l, err
	}
	text, err := h.readAll(file, MaxLockFile)
	if err == nil {
		l, err = ParseLock(text)
	}
	if err != nil {
		return file, l, fmt.Errorf("%s: %w; mend it, or set NEURODESK_LOCK=/dev/null to do without", clip(file), err)
	}
	return file, l, nil
}

// FindLock tells where the lock file is, "" where there is none. A directory that the automounter serves is not looked at:
// asking for any name there makes it act. An error is returned for a file that another user could have put there, and for a
// link that leads nowhere.
func (h *Host) FindLock() (string, error) {
	if file := h.getenv("NEURODESK_LOCK"); file != "" {
		if !path.IsAbs(file) {
			file = path.Join(h.Cwd, file)
		}
		return path.Clean(file), nil
	}
	if h.Cwd == "" {
		return "", nil // Plan has more to say of that
	}
	var mounts []hostMount
	if strings.Contains(h.MountInfo, " - autofs ") {
		mounts = parseMounts(h.MountInfo)
	}
	for dir := h.Cwd; ; dir = path.Dir(dir) {
		file := path.Join(dir, LockFile)
		if servedBy(mounts, dir) != "autofs" {
			fi, err := h.Lstat(file)
			if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
				if fi, err = h.Stat(file); err != nil { // as git-annex leaves it until its content is fetched
					return "", fmt.Errorf("%s is a link to what cannot be read (%v): fetch it or remove the link, or set NEURODESK_LOCK=/dev/null to do without", clip(file), err)
				}
			}
			if err == nil && !fi.IsDir() {
				return file, h.trustLock(file, dir, fi)
			}
		}
		if dir == "/" {
			return "", nil
		}
	}
}

// servedBy gives the type of the file system that a directory lies on, "" where it is not known.
func servedBy(mounts []hostMount, dir string) string {
	best := hostMount{}
	for _, m := range mounts {
		if within(dir, m.point) && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best.fstype
}

// trustLock refuses a lock file that anybody may write, or that another ordinary user has put into a directory like /tmp:
// its root hash would make them choose what we run.
func (h *Host) trustLock(file, dir string, fi fs.FileInfo) error {
	const anybody = 0o002
	st, ok := fi.Sys().(*syscall.Stat_t)
	if ok && fi.Mode().Perm()&anybody == 0 && (int(st.Uid) == h.UID || st.Uid == 0) {
		return nil
	}
	in, err := h.Stat(dir)
	switch {
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no plain file", clip(file))
	case fi.Mode().Perm()&anybody != 0:
		return fmt.Errorf("everybody may write %s, so it is not obeyed; run `chmod o-w` on it, or set NEURODESK_LOCK to it, or to /dev/null to do without", clip(file))
	case err != nil || in.Mode().Perm()&anybody != 0:
		return fmt.Errorf("%s is another user's, in a directory where everybody may write, so it is not obeyed; copy it, or set NEURODESK_LOCK to it, or to /dev/null to do without", clip(file))
	}
	return nil
}

// SameName compares an app's name with a command's, case, - and _ aside.
func SameName(app, command string) bool { return fold(app) == fold(command) }

func fold(s string) string { return unjoined.Replace(strings.ToLower(s)) }

var unjoined = strings.NewReplacer("-", "", "_", "")

// errNoCommand is returned when the pinned image is there and has no such command; with it comes what is said of the image.
var errNoCommand = errors.New("no such command")

// ApplyPins gives the command that name means for this caller on the mount at mountpoint, where cmd is what M/bin has.
// The first pinned app that has it wins: all of the lock file's go before those of NEURODESK_PIN; among each, the app of
// the command's own name, then the one that has the name in M/bin, then the order in which they were written. Where that
// second one is pinned, but lacks the command, nothing runs: its other versions are not what the caller wants.
// pin is nil where none applies. Warnings are of pins that could not be looked into. Every error is an *Exit.
func (h *Host) ApplyPins(mountpoint string, cmd Command) (_ Command, pin *Pin, warn []string, err error) {
	pins, err := h.Pins()
	if err != nil || len(pins) == 0 {
		return cmd, nil, nil, err
	}
	slices.SortStableFunc(pins, func(a, b Pin) int { return cmp.Compare(a.rank(cmd), b.rank(cmd)) })
	var missing *Exit
	for _, p := range pins {
		c, err := h.pinned(mountpoint, p, "bin/"+cmd.Command)
		switch {
		case err == nil:
			return c, &p, warn, nil
		case errors.Is(err, errNoCommand) && c.Refused != "" && (p.App == cmd.App || SameName(p.App, cmd.Command)):
			c.Command = cmd.Command // which it may have: nobody could look
			return c, &p, warn, nil
		case errors.Is(err, errNoCommand) && p.App == cmd.App:
			missing = &Exit{StatusNotFound, fmt.Sprintf("%s: %s %s, %s, has no such command; `neurodeskfs which --all %s` shows what has it",
				clip(cmd.Command), clip(p.App), clip(p.Version), p.Why(), clip(cmd.Command))}
		case errors.Is(err, errNoCommand):
		case p.App != cmd.App && !SameName(p.App, cmd.Command):
			warn = append(warn, fmt.Sprintf("%s: %v; whether it has this command is not known", clip(cmd.Command), err))
		default:
			exit := &Exit{StatusError, err.Error()}
			errors.As(err, &exit)
			return cmd, nil, warn, &Exit{exit.Code, clip(cmd.Command) + ": " + exit.Message}
		}
	}
	if missing != nil {
		return cmd, nil, warn, missing
	}
	return cmd, nil, warn, nil
}

// rank orders the pins for the command that M/bin has: smaller ones go first.
func (p Pin) rank(cmd Command) int {
	rank := 0
	if p.Locked == nil {
		rank = 3
	}
	switch {
	case SameName(p.App, cmd.Command):
		return rank
	case p.App == cmd.App:
		return rank + 1
	}
	return rank + 2
}

// Pinned describes the image that a pin means, as M/.neurodeskfs/apps does. Every error is an *Exit.
func (h *Host) Pinned(mountpoint string, p Pin) (Command, error) { return h.pinned(mountpoint, p, "") }

// Look asks the mount about the image of a command whose file was made without: it is opened now, if nobody did before.
// Every error is an *Exit.
func (h *Host) Look(mountpoint string, cmd Command) (Command, error) {
	if cmd.Hash != Unseen {
		return cmd, nil
	}
	c, err := h.pinned(mountpoint, Pin{App: cmd.App, Version: cmd.Build()}, "bin/"+cmd.Command)
	var gone *Exit
	switch {
	case errors.Is(err, errNoCommand) && c.Hash != "": // its file is none of the image's own commands: PATH decides
		c.Command, c.Path = cmd.Command, ""
	case errors.Is(err, errNoCommand) || errors.As(err, &gone):
		return cmd, &Exit{StatusNotFound, fmt.Sprintf("%s: the server does not have its image, %s; `neurodeskfs search %s` shows others", clip(cmd.Command), clip(cmd.Image), clip(cmd.App))}
	case err != nil:
		return cmd, &Exit{StatusError, fmt.Sprintf("%s: its image, %s, cannot be read: %v; `neurodeskfs status` says more", clip(cmd.Command), clip(cmd.Image), err)}
	}
	c.Default = cmd.Default
	return c, nil
}

// pinned reads what the mount says of a name in the image that is pinned: bin/COMMAND, or "" for the image itself.
func (h *Host) pinned(mountpoint string, p Pin, name string) (Command, error) {
	own := path.Join(mountpoint, ".neurodeskfs")
	build := path.Join(mountpoint, "apps", p.App, p.Version)
	if link, err := h.Readlink(build); err == nil && pathPart(link) {
		build = path.Join(path.Dir(build), link)
	}
	description := path.Join(own, "apps", p.App, path.Base(build))
	file := description
	if name != "" {
		file = path.Join(build, name)
	}
	c, err := h.readCommand(file)
	switch {
	case err == nil && (p.Locked == nil || p.Locked.ShownAs(h, mountpoint, c.Hash)):
		return c, nil
	case p.Locked == nil && !errors.Is(err, fs.ErrNotExist):
		return c, err
	case p.Locked == nil:
		if d, err := h.readCommand(description); err == nil {
			return d, errNoCommand
		}
		return c, &Exit{StatusError, fmt.Sprintf("%s has no version %s, which %s wants: ls %s", clip(p.App), clip(p.Version), p.From, path.Join(mountpoint, "apps", p.App))}
	}
	if errors.Is(err, fs.ErrNotExist) && name != "" {
		if d, err := h.readCommand(description); err == nil && p.Locked.ShownAs(h, mountpoint, d.Hash) {
			return d, errNoCommand
		}
	}
	return h.fromRevision(own, p, name)
}

// fromRevision is pinned for an image that today's revision does not have: the daemon shows it from the locked one.
func (h *Host) fromRevision(own string, p Pin, name string) (Command, error) {
	l := p.Locked
	what := fmt.Sprintf("%s %s, %s, is not among the images of today", clip(l.Name), clip(l.Build()), p.Why())
	if l.RootHash == "" {
		return Command{}, &Exit{StatusRetired, what + ", and the lock names no revision that has it; bring the image back, or run `neurodeskfs lock --update " + l.Name + "`"}
	}
	at := path.Join(own, "locked", l.Place())
	if name == "" {
		name = "description"
	}
	c, err := h.readCommand(path.Join(at, name))
	if err == nil {
		// The lock knows the image by the name that it had; policy and provenance go by that.
		c.App, c.Version, c.Date = l.Name, l.Version, l.Date
		return c, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if d, err := h.readCommand(path.Join(at, "description")); err == nil {
			return d, errNoCommand
		}
		return c, &Exit{StatusRetired, what + fmt.Sprintf(", nor in revision %d (root %s) of %s", l.Revision, clip(l.RootHash), clip(l.Repository)) + l.copies()}
	}
	return c, &Exit{StatusRetired, what + fmt.Sprintf(", and no server gives revision %d of %s any more (%v)", l.Revision, clip(l.Repository), err) + l.copies()}
}

// copies says where else an image may be had. Neurodesk keeps its builds as single files too.
func (l Locked) copies() string {
	const neurodesk, store = "neurodesk.ardc.edu.au", "https://neurocontainers.neurodesk.workers.dev/"
	if l.Repository != neurodesk || l.Date == "" {
		return "; ask whoever runs that repository for a copy of " + clip(l.Image)
	}
	return "; a copy as one file may be at " + store + l.Name + "_" + l.Build() + ".simg (use it as a source of kind \"dir\")"
}

// readAll reads a file of at most limit bytes and one more, so that the parsers see that it is too long. Most are short.
func (h *Host) readAll(file string, limit int) ([]byte, error) {
	const usual = 4 << 10
	text, err := h.ReadAt(file, 0, usual)
	if err == nil && len(text) == usual {
		text, err = h.ReadAt(file, 0, limit+1)
	}
	return text, err
}

func (h *Host) readCommand(file string) (Command, error) {
	text, err := h.readAll(file, MaxCommandFile)
	if err != nil {
		return Command{}, err
	}
	c, err := ParseCommand(text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", clip(file), err)
	}
	return c, nil
}
