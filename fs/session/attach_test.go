package session

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is a user who has mounted nothing.
const nobody = 65534

// nobodysSockets is a pair of sockets that nobody has made, or whoever runs the test
// if that is not root.
func nobodysSockets(t *testing.T) (fds [2]int) {
	t.Helper()
	runtime.LockOSThread() // the system call is the thread's, unlike unix.Setresuid
	defer runtime.UnlockOSThread()
	become := func(euid uintptr) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), euid, ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	if os.Getuid() == 0 {
		become(nobody)
		defer become(0)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// TestOnlyWhoHasMountedBecomesItsSupervisor: who supervises holds /dev/fuse, and may
// answer whatever he likes.
func TestOnlyWhoHasMountedBecomesItsSupervisor(t *testing.T) {
	fds := nobodysSockets(t)
	d := &Duty{owner: nobody + 1}
	if err := d.Attach(fds[0]); !errors.Is(err, ErrNotOurs) {
		t.Errorf("%v, want %v", err, ErrNotOurs)
	}
	var told *Failure
	if _, err := Adopt(fds[1]); !errors.As(err, &told) || told.Reason != ErrNotOurs.Error() {
		t.Errorf("the other end is told: %v", err)
	}
}
