package session

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Duty is a worker's side of what it has with its supervisor:
//
//	d, err := session.Attend(fd)         // what every worker is given
//	...                                  // all that can be done without the mount
//	d.Ready()
//	device, handover, err := d.Await()   // until it is this worker's turn
//	s := session.New(device, raw, session.Options{Handover: handover})
//	go s.Serve()
//	d.Serving()
//	...
//	<-d.Alone()                          // the supervisor has ended; serving goes on
//	d.Attach(fd)                         // until another one comes
//
// Its methods are for one goroutine.
type Duty struct {
	// First is set for the first worker of a mount, which starts from nothing.
	// The others must show what the ones before have shown.
	First bool

	channel *channel
	files   map[string]*os.File
	device  *os.File
	owner   uint32 // the user of the first supervisor
	alone   chan struct{}
}

// The files that the session itself hands on.
const (
	fileJournal = "journal"
	fileBoard   = "board"
)

// Attend receives what a supervisor's worker is given, on the socket that is
// descriptor fd. The error wraps ErrIncompatible when this version could not
// serve the mount; the supervisor has then been told.
func Attend(fd int) (*Duty, error) {
	unix.CloseOnExec(fd)
	c, err := newChannel(fd)
	if err != nil {
		return nil, fmt.Errorf("session: no supervisor: %w", err)
	}
	m, files, err := c.receive()
	var peer *unix.Ucred
	if err == nil {
		peer, err = c.peer()
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("session: no supervisor: %w", err)
	}
	d := &Duty{First: m.First, channel: c, files: named(m.Files, files), owner: peer.Uid, alone: make(chan struct{})}
	switch {
	case len(files) != len(m.Files) || d.files[fileJournal] == nil || d.files[fileBoard] == nil:
		err = fmt.Errorf("session: %d files for the names %q: %w", len(files), m.Files, ErrIncompatible)
	case m.Init != nil:
		err = Compatible(*m.Init)
	}
	if err != nil {
		d.Fail(err, 1)
		return nil, err
	}
	return d, nil
}

// File returns a file that the supervisor keeps for its workers; nil if it has
// none of that name.
func (d *Duty) File(name string) *os.File { return d.files[name] }

// Ready tells the supervisor that this worker can serve at once.
func (d *Duty) Ready() error { return d.channel.send(message{Ready: true}) }

// Fail tells the supervisor why this worker ends instead, with the exit status
// that the reason has.
func (d *Duty) Fail(reason error, status int) {
	f := &Failure{Status: status, Reason: reason.Error(), Incompatible: errors.Is(reason, ErrIncompatible)}
	_ = d.channel.send(message{Failure: f}) // a supervisor that is gone needs no reason
}

// Await waits until this worker is to serve. io.EOF: it is not needed.
func (d *Duty) Await() (device *os.File, h *Handover, err error) {
	m, files, err := d.channel.receive()
	if err != nil {
		return nil, nil, err
	}
	if !m.Device || len(files) != 1 || m.Init == nil {
		closeAll(files)
		return nil, nil, errors.New("session: the supervisor sent something else than the device")
	}
	h = &Handover{Init: *m.Init, Journal: d.files[fileJournal], Board: d.files[fileBoard], Replay: m.Replay, Suspects: m.Suspects, Condemned: m.Condemned}
	d.device = files[0]
	return files[0], h, nil
}

// Serving tells the supervisor that requests are read now, and begins to watch
// whether it is still there.
func (d *Duty) Serving() error {
	err := d.channel.send(message{Serving: true})
	d.watch()
	return err
}

// watch closes alone when the supervisor has ended.
func (d *Duty) watch() {
	alone := make(chan struct{})
	d.alone = alone
	c := d.channel
	go func() {
		defer close(alone)
		for {
			if _, files, err := c.receive(); err != nil {
				return
			} else {
				closeAll(files)
			}
		}
	}()
}

// Alone is closed when the supervisor has ended. Only Serving and Attach start
// the watch.
func (d *Duty) Alone() <-chan struct{} { return d.alone }

// ErrNotOurs is returned by Attach for a process of another user.
var ErrNotOurs = errors.New("session: only who has mounted may supervise the mount")

// Attach makes the process at the other end of the socket fd, of type
// SOCK_SEQPACKET and ours from now on, the supervisor in place of the one that has
// ended: it is handed the device and all files. It must be of the user who has
// mounted, or root; whoever it is holds the mount then.
func (d *Duty) Attach(fd int) error {
	c, err := newChannel(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	peer, err := c.peer()
	if err == nil && peer.Uid != d.owner && peer.Uid != 0 {
		err = ErrNotOurs
		_ = c.send(message{Failure: &Failure{Status: 1, Reason: err.Error()}}) // it may have gone
	}
	if err == nil {
		m := message{Files: []string{KeptDevice}}
		files := []*os.File{d.device}
		for name, f := range d.files {
			m.Files, files = append(m.Files, name), append(files, f)
		}
		err = c.send(m, files...)
	}
	if err != nil {
		c.close()
		return err
	}
	d.channel.close()
	d.channel = c
	d.watch()
	return nil
}

// Close closes the socket and all files but the device.
func (d *Duty) Close() {
	d.channel.close()
	for _, f := range d.files {
		f.Close()
	}
}

// told is the message that makes a worker of a process.
func told(first bool, init *Init, files map[string]*os.File) (message, []*os.File) {
	m := message{First: first, Init: init}
	var list []*os.File
	for name, f := range files {
		m.Files, list = append(m.Files, name), append(list, f)
	}
	return m, list
}
