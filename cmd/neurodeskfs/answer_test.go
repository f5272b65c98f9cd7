package main

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestWithin: nobody waits longer for a mount than his patience, or ^C, allows.
func TestWithin(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	hangs := func() (int, error) { <-hang; return 0, nil }
	if _, err := within(t.Context(), time.Millisecond, hangs); !errors.Is(err, errNoAnswer) || err.Error() != "does not answer within 1ms" {
		t.Error(err)
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := within(interrupted, time.Hour, hangs); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n, err := within(t.Context(), time.Hour, func() (int, error) { return 1, errors.ErrUnsupported }); n != 1 || !errors.Is(err, errors.ErrUnsupported) {
		t.Error(n, err)
	}
}
