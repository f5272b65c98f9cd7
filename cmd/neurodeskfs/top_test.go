package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRates(t *testing.T) {
	look := func(uptime float64, requests, bytes, kernel uint64, hits, misses int64) Status {
		return Status{Uptime: uptime, Fuse: FuseStatus{Total: kernel}, Cache: CacheStatus{Hits: hits, Misses: misses},
			Sources: []SourceStatus{{HTTPRequests: requests, HTTPBytes: bytes, InFlight: 2}, {HTTPRequests: 1, InFlight: 1}}}
	}
	for _, c := range []struct {
		name        string
		before, now Status
		want        rates
	}{
		{"two seconds", look(10, 100, 1000, 50, 7, 3), look(12, 110, 5096, 250, 13, 5), rates{Bytes: 2048, Requests: 5, Kernel: 100, Hits: 3, Misses: 1, InFlight: 3}},
		{"nothing happened", look(10, 100, 1000, 50, 7, 3), look(12, 100, 1000, 50, 7, 3), rates{InFlight: 3}},
		{"another daemon took over", look(1000, 100, 1000, 50, 7, 3), look(2, 10, 20, 40, 4, 2), rates{Bytes: 10, Requests: 5.5, Kernel: 20, Hits: 2, Misses: 1, InFlight: 3}},
	} {
		got := ratesBetween(c.before, c.now)
		got.Time = c.want.Time
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestRateLineFitsTheScreen has large figures, and columns that stand below
// their heads.
func TestRateLineFitsTheScreen(t *testing.T) {
	line := rates{Bytes: 1023.9 * (1 << 30), Requests: 12345.6, Errors: 123.4, InFlight: 4096, Kernel: 1234567, Hits: 1, Misses: 0, RSS: 1023 << 20}.String()
	for _, l := range []string{rateHead, line} {
		if n := utf8.RuneCountInString(l); n > screenWidth {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	for _, want := range []string{"100 %", "1023.9 GiB", "12345.6"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %q", want, line)
		}
	}
	if idle := (rates{}).String(); !strings.Contains(idle, "  -  ") {
		t.Errorf("an idle mount has no hit rate: %q", idle)
	}
}
