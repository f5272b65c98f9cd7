package main

import (
	"testing"

	"github.com/neurodesk/neurodeskfs/cmd/config"
)

// TestNetConfigFollowsRedirects where the source says so, and nowhere else.
func TestNetConfigFollowsRedirects(t *testing.T) {
	var s config.Source
	if c := netConfig(s); c.MaxRedirects != 0 {
		t.Errorf("%d redirects by default", c.MaxRedirects)
	}
	s.FollowRedirects = true
	if c := netConfig(s); c.MaxRedirects != 4 {
		t.Errorf("%d redirects", c.MaxRedirects)
	}
}
