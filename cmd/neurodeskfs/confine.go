package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// ownProgram is the program of this process, whatever has become of its name.
const ownProgram = "/proc/self/exe"

// newConfine is what root's daemon is started through: it gives up all rights and
// executes a program. Rights belong to threads; the program that is executed then
// has only those of the one thread that was left.
func newConfine() *cobra.Command {
	var as string
	var write []string
	c := &cobra.Command{
		Use:     "confine --as UID:GID --write DIR -- PROGRAM [ARGUMENT ...]",
		Short:   "Execute a program without any privilege",
		Hidden:  true,
		Example: "  neurodeskfs confine --as 65534:65534 --write /var/cache -- id",
		Args:    usage(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			uid, gid := -1, -1
			if as != "" {
				u, g, _ := strings.Cut(as, ":")
				var uidErr, gidErr error
				uid, uidErr = strconv.Atoi(u)
				gid, gidErr = strconv.Atoi(g)
				if uidErr != nil || gidErr != nil || uid < 0 || gid < 0 {
					return failf(exitUsage, "--as %q is no UID:GID", as)
				}
			}
			return confine(uid, gid, write, args)
		},
	}
	c.Flags().StringVar(&as, "as", "", "user and group, by number; default: as it is")
	c.Flags().StringSliceVar(&write, "write", nil, "the only `DIR` in which it may write; may be repeated")
	return c
}

// confine gives up all rights and executes args. It returns only if that fails.
func confine(uid, gid int, write, args []string) error {
	runtime.LockOSThread() // what follows is about this thread, which then is the process
	raiseLockable()
	if err := dropBounding(); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if uid >= 0 {
		if err := becomeThread(uid, gid); err != nil {
			return fmt.Errorf("become user %d: %w", uid, err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if len(write) > 0 {
		if err := forbidWriting(write); err != nil {
			return err
		}
	}
	program := args[0]
	if program == ownProgram {
		args = append([]string{os.Args[0]}, args[1:]...)
	}
	err := syscall.Exec(program, args, os.Environ())
	return fmt.Errorf("execute %s: %w", program, err)
}

// raiseLockable lets memory be locked without a capability, where root may allow it.
func raiseLockable() {
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) // what is allowed may do
}

// dropBounding takes every capability out of the bounding set. Root without
// CAP_SETPCAP, as in some containers, may not: then no_new_privs, which makes the
// set mean nothing, has to do.
func dropBounding() error {
	for c := uintptr(0); c <= 63; c++ {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel has no more
		}
		if err != nil {
			return err
		}
		if held == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

// becomeThread changes user and groups of this thread alone; the others end when
// the program is executed.
func becomeThread(uid, gid int) error {
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return e
	}
	return nil
}

// dropCapabilities empties this thread's sets.
func dropCapabilities() error {
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) // before Linux 4.3 there are none
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// writing is all that Landlock can forbid of changing files, in its second version;
// from the third on, cutting them off is a right of its own, which truncate(2) and
// open(2) for reading with O_TRUNC need.
const writing = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
	unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
	unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER

// forbidWriting leaves this thread the right to change files in the directories
// only, and in /dev/null. Kernels without Landlock, or with its first version,
// which knows no renaming between directories, leave all as it is.
func forbidWriting(dirs []string) error {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 || version < 2 {
		return nil
	}
	handled := uint64(writing)
	if version >= 3 {
		handled |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled}
	rules, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if e != 0 {
		return fmt.Errorf("landlock: %w", e)
	}
	defer unix.Close(int(rules))
	for _, at := range append([]string{"/dev/null"}, dirs...) {
		access := handled
		if at == "/dev/null" {
			access &= unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
		}
		err := allowBeneath(int(rules), at, access)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
			continue // the program finds out itself that it cannot write there
		}
		if err != nil {
			return fmt.Errorf("landlock: %s: %w", at, err)
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); e != 0 {
		return fmt.Errorf("landlock: %w", e)
	}
	return nil
}

func allowBeneath(rules int, at string, access uint64) error {
	fd, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The kernel's struct is packed: 8 bytes and 4.
	var rule [12]byte
	*(*uint64)(unsafe.Pointer(&rule[0])) = access
	*(*int32)(unsafe.Pointer(&rule[8])) = int32(fd)
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule[0])), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}
