package launch

import (
	"path"
	"strings"
)

// startsDir is where, in the launcher's own directory, starts are announced: a look-up of a name that is never there, which
// the mount answers at once and then fetches what the command needs.
const startsDir = "starts"

// maxStartName is what a file's name can hold, bytes.
const maxStartName = 255

// StartName is the name by which the start of a command of the image with that content hash is announced; "" for one that
// cannot be said in a file's name.
func StartName(hash, command string) string {
	name := hash + ":" + strings.ReplaceAll(command, "/", "%")
	if hash == "" || strings.ContainsAny(hash, ":/") || command == "" || len(name) > maxStartName {
		return ""
	}
	return name
}

// ParseStart takes a name of StartName apart. The slashes of a command are percent signs then.
func ParseStart(name string) (hash, command string, ok bool) {
	hash, command, ok = strings.Cut(name, ":")
	return hash, command, ok && hash != "" && command != ""
}

// announce tells the mount that the command starts. It costs one round trip to the mount, and nothing where the image lies
// outside it.
func announce(cmd Command, h Host) {
	if h.Launcher == "" || cmd.Rootfs == "" || !within(cmd.Rootfs, h.Launcher) {
		return
	}
	if name := StartName(cmd.Hash, cmd.Command); name != "" {
		_, _ = h.Lstat(path.Join(h.Launcher, startsDir, name)) // never there
	}
}
