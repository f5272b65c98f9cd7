package job

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// startGuard starts the guard in new namespaces and returns its pid. What this
// process was given above stderr, such as the descriptor that PMI_FD names, is
// passed on under its number.
func startGuard(argv []string) (int, error) {
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: namespaces(os.Geteuid(), os.Getegid()),
	})
	switch {
	case err == nil:
		return pid, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS), errors.Is(err, unix.EINVAL):
		return 0, fmt.Errorf("%w (%w)%s", ErrNamespace, err, remedy())
	}
	return 0, fmt.Errorf("start in a new namespace: %w", err)
}

// namespaces is how the guard starts: root in a mount namespace; others in a
// user namespace too, in which they have CAP_SYS_ADMIN and are who they are.
// Only one id can be mapped without help: others' files show as nobody's.
func namespaces(uid, gid int) *syscall.SysProcAttr {
	if uid == 0 {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
}

// settings are what administrators forbid user namespaces by.
var settings = []struct{ file, bad, ask string }{
	{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "an AppArmor profile with `userns,` for neurodeskfs"},
}

// remedy says what to ask the administrator for, and the way without.
func remedy() string {
	const without = "a daemon on the node (neurodeskfs mount) does without"
	if os.Geteuid() == 0 {
		return ": root lacks CAP_SYS_ADMIN here; " + without
	}
	for _, s := range settings {
		if b, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(b)) == s.bad {
			return ": ask your administrator for " + s.ask + "; " + without
		}
	}
	return ": this machine, or the container that this is, forbids user namespaces; " + without
}

// dropCapabilities takes from what this thread starts from now on all that the
// user namespace gave.
func dropCapabilities() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
