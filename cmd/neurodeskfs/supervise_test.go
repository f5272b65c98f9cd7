package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestASignalComesBeforeAnotherVersion: what was sent before another program
// begins in this process is not lost with this one; of signals after the first
// only a SIGINT ends all at once.
func TestASignalComesBeforeAnotherVersion(t *testing.T) {
	stopped := 0
	stop := func() { stopped++ }
	s := &supervised{mountpoint: filepath.Join(t.TempDir(), "none"), log: slog.New(slog.DiscardHandler)}
	signals := make(chan os.Signal, 2)
	for i, c := range []struct {
		sig     syscall.Signal
		stopped int
	}{{syscall.SIGTERM, 0}, {syscall.SIGTERM, 0}, {syscall.SIGINT, 1}} {
		signals <- c.sig
		s.makeRoom(nil, signals, stop) // with nil it would panic
		if !s.ending || stopped != c.stopped || len(signals) > 0 {
			t.Errorf("signal %d, %v: %+v, stopped %d times", i, c.sig, s, stopped)
		}
	}
}
