package main

import (
	"sync"
	"testing"
)

// TestSourcesAreLookedAtWhileTheyMove is for the race detector: status, statfs and
// the cache commands go through the sources at any time, without daemon.moving.
func TestSourcesAreLookedAtWhileTheyMove(t *testing.T) {
	const rounds = 100
	d := &daemon{sources: []*source{{}}}
	var moving sync.WaitGroup
	moving.Go(func() {
		for range rounds {
			d.moving.Lock()
			d.sources[0].behind = !d.sources[0].behind
			d.moving.Unlock()
		}
	})
	for range rounds {
		d.idle()
		for _, s := range d.sources {
			s.status(nil)
		}
	}
	moving.Wait()
}
