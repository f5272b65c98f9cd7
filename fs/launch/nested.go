package launch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// inside tells whether this process runs in a container of that very image: the runtimes name theirs in a variable.
func (h *Host) inside(cmd Command) bool {
	if !h.Nested || cmd.Rootfs == "" || cmd.Retired != "" || cmd.Refused != "" {
		return false
	}
	return h.getenv("APPTAINER_CONTAINER") == cmd.Rootfs || h.getenv("SINGULARITY_CONTAINER") == cmd.Rootfs
}

// native replaces this process by a command of the image that it runs in, as a call by the bare name would. It comes back
// only with an *Exit.
func native(mountpoint string, cmd Command, args []string, h Host, stderr io.Writer) error {
	name := cmd.Path
	if name == "" {
		name = cmd.Command
	}
	file := h.lookPath(name, mountpoint)
	err := error(syscall.ENOENT)
	if file != "" {
		if err := record("", cmd, args, h, time.Now(), nil); err != nil {
			say(stderr, err.Error())
		}
		err = syscall.Exec(file, append([]string{name}, args...), h.Env)
	}
	exit := &Exit{StatusError, fmt.Sprintf("%s: start %s: %v", clip(cmd.Command), clip(file), err)}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		exit = (&planner{cmd: &cmd}).noSuchCommand()
	case errors.Is(err, fs.ErrPermission):
		exit = (&planner{cmd: &cmd}).notExecutable()
	}
	refused(exit, "", cmd, args, h, stderr)
	return exit
}
