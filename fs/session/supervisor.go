package session

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"
)

// A Supervisor holds a connection, and a worker that serves it: the process that
// holds the descriptor of /dev/fuse, so that the connection lives whatever
// becomes of the worker, and that starts the next one.
//
//	mount(2), INIT        the supervisor, once the first worker is ready
//	requests              the worker, which reads the same open file
//	the worker ends       wait4, or it is halted; FUSE_NOTIFY_RESEND, or the journal; the standby serves
//	unmount               readers get ENODEV, the worker ends with status 0, and so do we
//	we end                the worker serves on, and hands all to the next supervisor; see Estate
//
// One goroutine, Run, owns all of it; Upgrade asks it.
type Supervisor struct {
	o       SupervisorOptions
	log     *slog.Logger
	program *os.File // what workers run; an upgrade changes it
	files   map[string]*os.File
	board   *board
	device  *os.File // nil: not mounted yet
	init    Init
	replay  bool // the kernel cannot send requests again

	forgetful bool // a test's: nothing is sent again

	events   chan event
	requests chan *swap
	withdraw chan *swap    // asked for by those who wait no longer
	leave    chan struct{} // Leave
	over     chan struct{} // closed by end
	alive    map[*process]bool
	active   *process // has been given the device
	next     *process // the standby, or who is to become active
	swapping *swap    // the upgrade under way; next is its worker

	suspects suspects
	strikes  int       // workers in a row that came to nothing
	hopeless int       // hopelessAfter; a test has less patience
	ended    time.Time // of the last active worker
	warm     bool      // a standby was ready then
	retry    <-chan time.Time
	watchdog watchdog
	stopping bool
	leaving  bool  // Run returns when the worker is all that is left
	left     bool  // it did
	err      error // of the first worker
}

// SupervisorOptions are the choices of NewSupervisor.
type SupervisorOptions struct {
	// Mount says what to mount where, once the first worker is ready.
	Mount MountOptions
	// Program is what workers run, opened; default: this process's own.
	Program *os.File
	// Command makes the command that starts a worker, which finds its socket as
	// descriptor 3 and calls Attend. program is a path that the new process can
	// execute.
	Command func(program string) *exec.Cmd
	// Files are handed to every worker, by name. They stay the caller's.
	Files map[string]*os.File
	// NoResend makes do without FUSE_NOTIFY_RESEND, as on Linux before 6.9.
	NoResend bool
	// NoStandby starts a worker only when it is needed, which saves its memory.
	NoStandby bool
	// StuckAfter is how long a worker may show no sign of life; default 30 s.
	StuckAfter time.Duration
	// Logger is told of each take-over. Default: discard.
	Logger *slog.Logger
}

// Run keeps the mount served, and returns when the kernel has let go of it and
// no worker is left, or after Leave. stop ends it without an unmount: workers are
// killed, and whoever uses the mount gets errors.
func (s *Supervisor) Run(stop <-chan struct{}) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	if s.left {
		s.left, s.leaving = false, false
		s.proceed()
	}
	for !s.stopping {
		if s.mayLeave() {
			s.left = true
			return nil
		}
		select {
		case e := <-s.events:
			s.handle(e)
		case r := <-s.requests:
			s.swap(r)
		case r := <-s.withdraw:
			s.giveUp(r)
		case <-s.leave:
			s.withdrawStandby()
		case <-s.retry:
			s.retry = nil
			s.proceed()
		case <-tick.C:
			s.watch()
		case <-stop:
			s.stopping = true
		}
	}
	s.end()
	return nil
}

// end kills who is left and closes what is ours.
func (s *Supervisor) end() {
	close(s.over)
	if s.device != nil {
		s.device.Close()
	}
	for p := range s.alive {
		if p.told || p.ready {
			p.kill() // it holds nothing that must be put in order
		} else {
			p.dismiss()
		}
	}
	for len(s.alive) > 0 {
		if e := <-s.events; e.message == nil {
			s.forgetProcess(e.from)
		}
	}
	s.closeFiles() // the board stays mapped: SetVersion may write on it at any time
}

// closeFiles closes those that are not the caller's.
func (s *Supervisor) closeFiles() {
	for name, f := range s.files {
		if s.o.Files[name] != f {
			f.Close()
		}
	}
}

func (s *Supervisor) forgetProcess(p *process) {
	p.channel.close()
	delete(s.alive, p)
	if s.active == p {
		s.active = nil
		s.board.process.worker.Store(0)
	}
	if s.next == p {
		s.next = nil
		s.board.process.standby.Store(0)
	}
}

// handle is what a worker's event leads to.
func (s *Supervisor) handle(e event) {
	p := e.from
	switch {
	case e.message == nil:
		s.onEnd(e)
	case e.message.Failure != nil:
		p.failure = e.message.Failure
	case e.message.Ready:
		p.ready = true
		if s.device != nil {
			s.onReady(p)
		}
	case e.message.Serving:
		s.onServing(p)
	}
}

// onReady gives the device to a worker that was waited for.
func (s *Supervisor) onReady(p *process) {
	switch {
	case p != s.next: // it was dismissed
	case s.active == nil:
		if s.retry == nil {
			s.entrust(p)
		}
	case s.swapping != nil:
		// The one before is killed, and its end makes this one serve.
		s.active.kill()
	default:
		s.board.process.standby.Store(int64(p.pid))
	}
}

// entrust gives p the device. The last worker has ended.
func (s *Supervisor) entrust(p *process) {
	s.active, s.next = p, nil
	s.board.process.standby.Store(0)
	s.board.process.worker.Store(int64(p.pid))
	m := message{Device: true, Init: &s.init, Replay: s.replay, Suspects: s.suspects.present, Condemned: s.suspects.condemned}
	p.told = true
	if err := p.channel.send(m, s.device); err != nil {
		s.log.Error("a worker does not take the mount", "pid", p.pid, "err", err)
		p.kill()
	}
}

func (s *Supervisor) onServing(p *process) {
	p.serving, p.began = true, time.Now()
	s.watchdog = watchdog{}
	b := &s.board.process
	b.since.Store(p.began.UnixNano())
	if !s.ended.IsZero() {
		pause := p.began.Sub(s.ended)
		b.takeovers.Add(1)
		b.lastPause.Store(int64(pause))
		b.longestPause.Store(max(b.longestPause.Load(), int64(pause)))
		s.log.Info("a worker has taken over", "pid", p.pid, "pause", pause.Round(10*time.Microsecond), "standby", s.warm, "takeovers", b.takeovers.Load())
	}
	if s.swapping != nil && s.swapping.worker == p {
		s.swapping.done <- nil
		s.program, s.swapping = p.program, nil
	}
	s.proceed()
}

// proceed makes the next worker serve if none does, and starts the one that is
// wanted and not there.
func (s *Supervisor) proceed() {
	switch {
	case s.retry != nil || s.stopping:
		return
	case s.active == nil && gone(int(s.device.Fd())):
		s.stopping = true
		return
	case s.active == nil && s.next != nil && s.next.ready:
		s.entrust(s.next)
		return
	case s.next != nil || s.active != nil && (s.o.NoStandby || s.leaving || !s.active.serving):
		return
	}
	if err := s.start(); err != nil {
		s.log.Error("a worker cannot be started", "err", err)
		s.pause(max(s.strike(), firstPause))
	}
}

// start starts the next worker.
func (s *Supervisor) start() error { return s.startAs(s.program) }

func (s *Supervisor) startAs(program *os.File) error {
	var init *Init
	if s.device != nil {
		init = &s.init
	}
	m, files := told(init == nil, init, s.files)
	p, err := startProcess(s.o.Command, program, m, files)
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	s.next = p
	s.alive[p] = true
	go p.watch(s.events)
	return nil
}

// onEnd is the end of a worker.
func (s *Supervisor) onEnd(e event) {
	p := e.from
	active, next := p == s.active, p == s.next
	s.forgetProcess(p)
	switch {
	case s.device == nil: // the first one
		s.err = errors.New("the worker ended before it was ready: " + e.status)
		if p.failure != nil {
			s.err = p.failure
		}
	case active && gone(int(s.device.Fd())):
		s.stopping = true
	case active:
		s.onActiveEnd(e)
	case next:
		s.onNextEnd(e)
	}
}

// onActiveEnd makes the next worker take over.
func (s *Supervisor) onActiveEnd(e event) {
	p := e.from
	if s.ended.IsZero() || p.serving {
		s.ended, s.warm = time.Now(), s.next != nil && s.next.ready
	}
	s.log.Warn("a worker has ended", "pid", p.pid, "status", e.status, "reason", p.reason())
	s.recall()
	switch {
	case s.swapping == nil:
		s.retry = nil
		s.pause(s.judge(e))
	case s.swapping.worker == p:
		s.swapping.refused(e)
		s.swapping = nil
	}
	s.proceed()
}

// recall has the requests that the last worker read and did not answer sent
// again, or notes that the journal must tell them.
func (s *Supervisor) recall() {
	if s.replay || s.forgetful {
		return
	}
	switch err := resend(s.device); {
	case errors.Is(err, errNoResend):
		s.replay = true
	case errors.Is(err, errGone):
		s.stopping = true
	case err != nil:
		s.log.Error("requests may have been lost", "err", err)
	}
}

func (p *process) reason() string {
	if p.failure == nil {
		return ""
	}
	return p.failure.Reason
}

// onNextEnd is the end of one that never got the device.
func (s *Supervisor) onNextEnd(e event) {
	if s.swapping != nil && s.swapping.worker == e.from {
		s.swapping.refused(e)
		s.swapping = nil
	} else {
		s.log.Error("a worker ended before it could serve", "pid", e.from.pid, "status", e.status, "reason", e.from.reason())
		s.pause(s.strike())
	}
	s.proceed()
}
