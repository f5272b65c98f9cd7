package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What systemd is told, and keeps: sd_notify(3), sd_pid_notify_with_fds(3) and
// sd_listen_fds(3). The unit needs Type=notify and FileDescriptorStoreMax=.

// notifier talks to the service manager that started this process; the zero one
// to nobody.
type notifier struct{ address string }

// findNotifier takes the address out of the environment, so that no worker gets it.
func findNotifier() notifier {
	n := notifier{os.Getenv("NOTIFY_SOCKET")}
	os.Unsetenv("NOTIFY_SOCKET")
	return n
}

// env is what a program that goes on in this process must have.
func (n notifier) env() []string {
	if n.address == "" {
		return nil
	}
	return []string{"NOTIFY_SOCKET=" + n.address}
}

// say sends one message, a variable on each line, with descriptors.
func (n notifier) say(text string, files ...*os.File) error {
	if n.address == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	// An address that begins with @ is an abstract one, here as there.
	if err := unix.Sendmsg(fd, []byte(text), rights, &unix.SockaddrUnix{Name: n.address}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell the service manager at %s: %w", n.address, err)
	}
	return nil
}

// keep has files kept for the next supervisor, should this one be killed, in place
// of those that may be left of a mount that is gone: the device is dropped by itself
// when its connection ends, the files in memory that belong to it are not.
func (n notifier) keep(files map[string]*os.File) error {
	errs := []error{n.drop(files)}
	for name, f := range files {
		errs = append(errs, n.say("FDSTORE=1\nFDNAME="+name, f))
	}
	return errors.Join(errs...)
}

// drop gives up what keep has kept.
func (n notifier) drop(files map[string]*os.File) error {
	var errs []error
	for name := range files {
		errs = append(errs, n.say("FDSTOREREMOVE=1\nFDNAME="+name))
	}
	return errors.Join(errs...)
}

const (
	listenFirst = 3 // SD_LISTEN_FDS_START
	// keptVariable has what a supervisor hands to the program that goes on in its
	// process: NAME=DESCRIPTOR, separated by commas.
	keptVariable = "NEURODESKFS_KEPT"
)

// inherited takes the files that were kept for this process, by name, by the
// service manager or by what ran in this process before.
func inherited() (map[string]*os.File, error) {
	environment := map[string]string{}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", keptVariable} {
		environment[name] = os.Getenv(name)
		os.Unsetenv(name)
	}
	files := map[string]*os.File{}
	for name, fd := range namedDescriptors(environment, os.Getpid()) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("the file %s that was kept is not there as descriptor %d: %w", name, fd, err)
		}
		files[name] = os.NewFile(uintptr(fd), name)
	}
	return files, nil
}

// namedDescriptors reads the variables for the process pid.
func namedDescriptors(environment map[string]string, pid int) map[string]int {
	fds := map[string]int{}
	if environment["LISTEN_PID"] == strconv.Itoa(pid) {
		n, _ := strconv.Atoi(environment["LISTEN_FDS"])
		names := strings.Split(environment["LISTEN_FDNAMES"], ":")
		for i := range min(n, len(names)) {
			fds[names[i]] = listenFirst + i
		}
	}
	for entry := range strings.SplitSeq(environment[keptVariable], ",") {
		name, text, _ := strings.Cut(entry, "=")
		if fd, err := strconv.Atoi(text); err == nil && fd >= listenFirst {
			fds[name] = fd
		}
	}
	return fds
}

// handOn makes files survive the execution of another program in this process,
// and returns the variable that names them.
func handOn(files map[string]*os.File) (variable string, err error) {
	var entries []string
	for name, f := range files {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return "", os.NewSyscallError("fcntl", err)
		}
		entries = append(entries, name+"="+strconv.Itoa(int(f.Fd())))
	}
	return keptVariable + "=" + strings.Join(entries, ","), nil
}

// keepBack undoes handOn.
func keepBack(files map[string]*os.File) {
	for _, f := range files {
		unix.CloseOnExec(int(f.Fd()))
	}
}
