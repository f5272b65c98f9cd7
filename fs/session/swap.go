package session

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// swap is an upgrade that was asked for.
type swap struct {
	program *os.File
	worker  *process
	done    chan error // gets one answer
}

// errOver is the answer of a supervisor that has ended.
var errOver = errors.New("the mount is gone")

// Upgrade replaces the worker by one that runs program, opened, and every
// worker after it. The one that serves goes on until the new one is ready. When
// ctx ends before the new one serves, that one is killed. program stays the
// caller's, who closes it when another has replaced it. An error that wraps
// ErrIncompatible, or another: workers run what they ran before. Safe for
// concurrent use while Run runs.
func (s *Supervisor) Upgrade(ctx context.Context, program *os.File) error {
	r := &swap{program: program, done: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-s.over:
		return errOver
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-s.over:
		return errOver
	case <-ctx.Done():
	}
	select {
	case s.withdraw <- r:
	case <-s.over:
		return errOver
	}
	select {
	case err := <-r.done: // it may have served at the last moment
		return err
	case <-s.over:
		return errOver
	}
}

// giveUp ends the worker of an upgrade that nobody waits for. Its end is the
// answer; it comes whether the worker had been given the device or not.
func (s *Supervisor) giveUp(r *swap) {
	if s.swapping == r {
		r.worker.kill()
	}
}

// swap begins an upgrade.
func (s *Supervisor) swap(r *swap) {
	if s.swapping != nil || s.active == nil || !s.active.serving {
		r.done <- errors.New("a worker is just being replaced; try again")
		return
	}
	if s.next != nil { // the standby of the old version
		old := s.next
		s.next = nil
		s.board.process.standby.Store(0)
		old.dismiss()
	}
	if err := s.startAs(r.program); err != nil {
		r.done <- err
		s.proceed()
		return
	}
	r.worker = s.next
	s.swapping = r
}

// refused tells why the new version does not serve.
func (r *swap) refused(e event) {
	err := fmt.Errorf("the new version ended before it could serve (%s)", e.status)
	if e.from.failure != nil {
		err = e.from.failure
	}
	r.done <- err
}
