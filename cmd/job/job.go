// Package job runs one program in a mount namespace of its own, in which a tree
// is mounted, and leaves nothing behind: no mount, no process.
//
// Three processes do it, all of the same binary, so that no program has to be
// there on the node:
//
//	run ─┬─ what slurmd, a shell or make sees: hands signals in, ends as the program did
//	     └─ guard ─┬─ in the new namespaces: makes the mount point, starts and watches both
//	               ├─ the daemon, in a session of its own, which ends when the guard says so,
//	               │  and what it starts, which ends with it
//	               └─ the program
//
// An ordinary user gets a user namespace as well, in which his ids are what they
// are outside; root needs none. The program has no capability that it would not
// have had outside.
//
// # Why nothing stays
//
// A mount namespace goes with its last process, and takes its mounts along. So
// it is enough that no process stays. Both run and guard are child subreapers:
// whatever a process below them does (fork twice, leave its session), it stays
// their descendant, and wait4(2) answers ECHILD only when none is left. When the
// guard is killed, run gets its orphans and kills them; when run is killed, the
// pipe from it to the guard ends, and the guard kills. Program and daemon also
// die with the thread that started them (PR_SET_PDEATHSIG), which covers both
// being killed at once but for grandchildren, which are then SLURM's to find.
//
// A PID namespace would do the same with less, but in it every job's processes
// have the same small numbers: scripts and tools that name temporary files by
// $$ on a shared file system would overwrite each other's, one array task the next.
//
// # Signals
//
// A signal that is sent to run alone is handed to the program. One that is sent
// to the whole process group (the terminal's ^C) or to every process of a step
// (scancel) has reached the program already, and must not come twice. The guard
// tells them apart: it hands on what run got, and it itself did not.
package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Spec says what to run, and with which tree.
type Spec struct {
	// Mountpoint is an absolute path. It need not exist: where it lies in a
	// directory that this user cannot write to, such as /, it is made inside the
	// namespace only. Where that cannot be done, another place is taken.
	Mountpoint string
	// Daemon is the command that serves the mount, without what Inside adds:
	// --ready-fd=N, on which it says "ready" or a status and a reason,
	// --until-fd=N, at whose end it unmounts and exits, and the mount point.
	Daemon []string
	// Log is the file that takes the daemon's messages.
	Log string
	// Program is what to run, its name looked up in PATH, bin of the tree first.
	Program []string
}

// Exit statuses of our own errors, as those of exec.
const (
	StatusError    = 125
	StatusNotExec  = 126
	StatusNotFound = 127
)

// ErrNamespace is returned by Run when this machine lets this user make no
// namespaces.
var ErrNamespace = errors.New("no namespace can be made")

// forwarded are the signals that reach the program through run. Those that stop
// and continue reach it as part of its process group.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGXCPU, unix.SIGPWR,
}

// heeded are those of forwarded that the caller does not ignore. Those that he does, as by nohup, the program is to ignore
// too, which it inherits as long as nobody asks to be told of them. Go knows that of SIGHUP and SIGINT only.
func heeded() []os.Signal { return slices.DeleteFunc(slices.Clone(forwarded), signal.Ignored) }

// Run starts guard, the command (found at /proc/self/exe) that calls Inside with
// the number of a descriptor, which is appended to its last word, and returns how
// the program ended. Messages of the guard go to stderr. Run is called once in a
// process, which has no other children, and should end soon after.
func Run(s Spec, guard []string) (unix.WaitStatus, error) {
	runtime.LockOSThread() // PR_SET_PDEATHSIG is about the thread
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become a subreaper: %w", err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, heeded()...)
	ours, theirs, err := wire()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	guard = slices.Clone(guard)
	guard[len(guard)-1] += strconv.Itoa(theirs)
	pid, err := startGuard(guard)
	unix.Close(theirs)
	if err != nil {
		return 0, err
	}
	letGo()
	go func() {
		if json.NewEncoder(ours).Encode(s) != nil {
			return // the guard is gone, as wait will say
		}
		for sig := range signals {
			if number, ok := sig.(unix.Signal); ok {
				_, _ = ours.Write([]byte{byte(number)})
			}
		}
	}()
	status, err := await(pid)
	killAll()
	return status, err
}

// wire makes the pipe to the guard, whose end stays open when the guard starts.
func wire() (ours *os.File, theirs int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, os.NewSyscallError("pipe2", err)
	}
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETFD, 0); err != nil {
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(p[1]), "guard"), p[0], nil
}

// await waits for the end of the child pid, and reaps others on the way.
func await(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case got == pid:
			return status, nil
		}
	}
}

// letGo closes our copies of stdin and stdout: who reads the program's output
// must see its end when the program closes it.
func letGo() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for _, fd := range []int{0, 1} {
		_ = unix.Dup3(int(null.Fd()), fd, 0)
	}
}

// readSpec reads what Run wrote, and no byte more: signals follow.
func readSpec(r io.Reader) (s Spec, err error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return s, err
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	err = json.Unmarshal(line, &s)
	return s, err
}
