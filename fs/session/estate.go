package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// An Estate is what a supervisor leaves, and another goes on with: the device and
// the files that every worker is handed. It comes from the worker that the dead
// one has left (Adopt), or from who has kept the files (Inherit).
type Estate struct {
	files  map[string]*os.File // with the device
	terms  terms
	worker *process // serves, and is ours now; nil: none does
}

// terms are what holds for the life of the mount. They lie in a file, so that
// whoever has the files has all.
type terms struct {
	Init   Init `json:"init"`
	Replay bool `json:"replay,omitempty"` // the kernel cannot send requests again
}

// maxTerms bounds that file, bytes: INIT twice.
const maxTerms = 16 << 10

// KeptDevice is the name of the mount itself among what Supervisor.Kept gives.
const KeptDevice = "device"

// fileTerms is the name of the terms.
const fileTerms = "terms"

// adoptPatience is how long an orphaned worker may take to hand all over.
const adoptPatience = 10 * time.Second

// ErrNoEstate is returned by Inherit when the files are not all there.
var ErrNoEstate = errors.New("session: no mount was handed on")

// ErrSupervised is returned by Adopt when the worker's supervisor lives: it is just
// becoming another version of itself, and will adopt the worker.
var ErrSupervised = errors.New("another process supervises the mount")

// Adopt takes over the worker at the other end of the socket fd, which is of type
// SOCK_SEQPACKET and ours from now on; see Duty.Attach. The worker serves on. The
// error wraps ErrSupervised when it is not for us.
func Adopt(fd int) (*Estate, error) {
	c, err := newChannel(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	e, err := adopt(c)
	if err != nil {
		c.close()
		return nil, fmt.Errorf("session: the worker was not taken over: %w", err)
	}
	return e, nil
}

func adopt(c *channel) (*Estate, error) {
	peer, err := c.peer()
	if err != nil {
		return nil, err
	}
	if err := c.file.SetReadDeadline(time.Now().Add(adoptPatience)); err != nil {
		return nil, err
	}
	m, files, err := c.receive()
	if errors.Is(err, io.EOF) {
		err = errors.New("it takes no supervisor, or another one was faster")
	}
	if err != nil {
		return nil, err
	}
	if m.Failure != nil {
		closeAll(files)
		return nil, m.Failure
	}
	e, err := Inherit(named(m.Files, files))
	if err == nil && e.supervised() {
		err = ErrSupervised
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	e.worker = &process{pid: int(peer.Pid), channel: c, ready: true, told: true, serving: true, began: time.Now()}
	return e, c.file.SetReadDeadline(time.Time{})
}

// named puts names to the files of a message; those without one are left out.
func named(names []string, files []*os.File) map[string]*os.File {
	m := map[string]*os.File{}
	for i, f := range files {
		if i < len(names) {
			m[names[i]] = f
		}
	}
	return m
}

// Inherit goes on with the files that Supervisor.Kept gave. They are the estate's
// then. The error is ErrNoEstate when the mount itself is not among them, and
// wraps ErrIncompatible when this version cannot go on with them.
func Inherit(files map[string]*os.File) (*Estate, error) {
	for _, name := range []string{KeptDevice, fileTerms, fileJournal, fileBoard} {
		if files[name] == nil {
			return nil, ErrNoEstate
		}
	}
	e := &Estate{files: files}
	if err := json.NewDecoder(io.NewSectionReader(files[fileTerms], 0, maxTerms)).Decode(&e.terms); err != nil {
		return nil, fmt.Errorf("session: the terms of the mount: %w: %w", err, ErrIncompatible)
	}
	return e, Compatible(e.terms.Init)
}

// File returns a file of the estate; nil if it has none of that name.
func (e *Estate) File(name string) *os.File { return e.files[name] }

// LastWorker is the process that served when the estate was left, 0 for none. It
// may have ended.
func (e *Estate) LastWorker() int {
	if e.worker != nil {
		return e.worker.pid
	}
	_, worker := e.processes()
	return worker
}

// processes are those that the board names, 0 for one that it does not.
func (e *Estate) processes() (supervisor, worker int) {
	b, err := mapBoard(e.files[fileBoard])
	if err != nil {
		return 0, 0
	}
	defer unmapBoard(b)
	return int(b.process.supervisor.Load()), int(b.process.worker.Load())
}

// supervised reports whether another process than this is the mount's supervisor.
func (e *Estate) supervised() bool {
	pid, _ := e.processes()
	if pid == 0 || pid == os.Getpid() {
		return false
	}
	switch readTask(strconv.Itoa(pid)).state {
	case "", "Z", "X":
		return false
	}
	return true
}

// Close closes the files of an estate that nobody goes on with.
func (e *Estate) Close() {
	for _, f := range e.files {
		f.Close()
	}
	if e.worker != nil {
		e.worker.channel.close()
	}
}

// GoOn makes a supervisor that goes on with an estate, which is its own then. Its
// Start mounts nothing: the worker that was adopted serves on, or a new one is
// started. Of the options, Mount and Files are not used.
func GoOn(o SupervisorOptions, e *Estate) (*Supervisor, error) {
	s, err := newSupervisor(o)
	if err != nil {
		return nil, err
	}
	if s.board, err = mapBoard(e.files[fileBoard]); err != nil {
		return nil, err
	}
	if f := s.board.format.Load(); f != boardFormat {
		unmapBoard(s.board)
		return nil, fmt.Errorf("session: the board has format %d: %w", f, ErrIncompatible)
	}
	s.device, s.init, s.replay = e.files[KeptDevice], e.terms.Init, s.replay || e.terms.Replay
	s.files = map[string]*os.File{}
	for name, f := range e.files {
		if name != KeptDevice {
			s.files[name] = f
		}
	}
	s.board.process.supervisor.Store(int64(os.Getpid()))
	s.board.process.standby.Store(0)
	s.board.process.version.store("")
	if s.active = e.worker; s.active != nil {
		s.alive[s.active] = true
	}
	return s, nil
}

// goOn is Start where the mount is there.
func (s *Supervisor) goOn() {
	if s.active != nil {
		go s.active.watch(s.events)
	} else {
		s.ended = time.Now()
		_, _ = unix.Wait4(int(s.board.process.worker.Load()), nil, unix.WNOHANG, nil) // where it was this process's child
		s.recall()
	}
	s.proceed()
}

// Kept is what Inherit makes an estate of: all that another process needs to go
// on with the mount. The files stay the supervisor's.
func (s *Supervisor) Kept() map[string]*os.File {
	kept := map[string]*os.File{KeptDevice: s.device}
	for name, f := range s.files {
		kept[name] = f
	}
	return kept
}

// Leave makes Run return while the mount and its worker live on, for another
// supervisor to go on with what Kept gives. Run may be called again instead. Safe
// for concurrent use while Run runs.
func (s *Supervisor) Leave() {
	select {
	case s.leave <- struct{}{}:
	case <-s.over:
	}
}

// Left reports whether Run returned for Leave.
func (s *Supervisor) Left() bool { return s.left }

// SetVersion says on the board which version this supervisor is of. Safe for
// concurrent use with Run, which may have returned.
func (s *Supervisor) SetVersion(version string) { s.board.process.version.store(version) }

// withdrawStandby ends the standby, and those that were dismissed before, as only
// the worker that serves is left to the next supervisor.
func (s *Supervisor) withdrawStandby() {
	s.leaving = true
	s.board.process.standby.Store(0)
	if s.active == nil || s.swapping != nil {
		return
	}
	s.next = nil
	for p := range s.alive {
		if p != s.active {
			p.kill() // it holds nothing that must be put in order
		}
	}
}

// mayLeave reports whether the worker that serves is all there is.
func (s *Supervisor) mayLeave() bool {
	return s.leaving && s.active != nil && s.active.serving && len(s.alive) == 1
}
