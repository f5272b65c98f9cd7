package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// newSupervisor makes what does not depend on the mount.
func newSupervisor(o SupervisorOptions) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StuckAfter <= 0 {
		o.StuckAfter = 30 * time.Second
	}
	s := &Supervisor{o: o, log: o.Logger, program: o.Program, replay: o.NoResend, hopeless: hopelessAfter, alive: map[*process]bool{},
		events: make(chan event), requests: make(chan *swap), withdraw: make(chan *swap), leave: make(chan struct{}), over: make(chan struct{})}
	if s.program == nil {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return nil, fmt.Errorf("session: this program cannot be started again: %w", err)
		}
		s.program = f
	}
	return s, nil
}

// NewSupervisor makes a supervisor, whose Start mounts.
func NewSupervisor(o SupervisorOptions) (*Supervisor, error) {
	s, err := newSupervisor(o)
	if err != nil {
		return nil, err
	}
	s.files = map[string]*os.File{}
	for name, make := range map[string]func() (*os.File, error){
		fileJournal: newJournal,
		fileBoard:   newBoard,
		fileTerms:   func() (*os.File, error) { return memoryFile("neurodeskfs-terms", 0) },
	} {
		f, err := make()
		if err != nil {
			s.closeFiles()
			return nil, err
		}
		s.files[name] = f
	}
	if s.board, err = mapBoard(s.files[fileBoard]); err != nil {
		s.closeFiles()
		return nil, err
	}
	for name, f := range o.Files {
		s.files[name] = f
	}
	s.board.process.supervisor.Store(int64(os.Getpid()))
	return s, nil
}

// Start starts the first worker, mounts when it is ready, and returns when it
// serves. ctx ends a mount helper that hangs. An error is the worker's *Failure,
// or what Mount says; nothing is left then. Of a supervisor that goes on with
// another's mount it returns at once.
func (s *Supervisor) Start(ctx context.Context) error {
	if s.device != nil {
		s.goOn()
		return nil
	}
	if err := s.start(); err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := ""
	for s.active == nil || !s.active.serving {
		select {
		case e := <-s.events:
			s.handle(e)
			if e.message == nil {
				last = strings.TrimSpace(e.status + " " + e.from.reason())
			}
		case <-tick.C:
			s.watch()
		}
		switch {
		case s.err != nil:
		case s.stopping:
			s.err = errors.New("the mount went away at once")
		case s.retry != nil: // Run would go on to try for ever
			s.err = errors.New("no worker comes to serve the mount, which is taken away again; the last one ended: " + last)
		case s.next != nil && s.next.ready && s.device == nil:
			s.err = s.mount(ctx)
			if s.err == nil {
				s.entrust(s.next)
			}
		}
		if s.err != nil {
			s.abandon(ctx)
			return s.err
		}
	}
	return nil
}

// abandon ends what Start has begun, so that nothing is left.
func (s *Supervisor) abandon(ctx context.Context) {
	mounted := s.device != nil && !s.stopping
	s.end()
	if !mounted {
		return
	}
	if _, err := Unmount(ctx, s.o.Mount.Mountpoint); err != nil {
		s.log.Error("the mount that nobody serves is still there", "err", err)
	}
}

func (s *Supervisor) mount(ctx context.Context) error {
	device, err := Mount(ctx, s.o.Mount)
	if err != nil {
		return err
	}
	init, err := Negotiate(device, s.log)
	if err != nil {
		device.Close()
		return fmt.Errorf("the mount went away at once: %w", err)
	}
	s.device, s.init = device, init
	text, err := json.Marshal(terms{init, s.replay})
	if err == nil {
		_, err = s.files[fileTerms].WriteAt(text, 0)
	}
	return err
}
