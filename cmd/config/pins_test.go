package config

import (
	"strings"
	"testing"
	"time"
)

const sourceHead = "[[source]]\nfqrn = \"a.example.org\"\nservers = [\"http://s.example.org/cvmfs/@fqrn@\"]\npublic_keys = [\"/k\"]\n"

func TestDatePin(t *testing.T) {
	want := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{`"2026-08-01T00:00:00Z"`, `2026-08-01T00:00:00Z`, `"2026-08-01T02:00:00+02:00"`} {
		c, err := Parse([]byte(sourceHead + "date = " + text))
		if err != nil || !c.Sources[0].Date.Equal(want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{`date = "yesterday"`, "date = \"2026-08-01T00:00:00Z\"\ntag = \"x\"", "date = \"2026-08-01T00:00:00Z\"\nrevision = 3"} {
		if _, err := Parse([]byte(sourceHead + text)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestBlacklistAndCrawlers(t *testing.T) {
	if _, err := Parse([]byte(sourceHead + `blacklist = "relative"`)); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Error(err)
	}
	for text, want := range map[string]int{"": -1, "[mount]\ncrawlers = []\n": 0, "[mount]\ncrawlers = [\"a\", \"b\"]\n": 2} {
		c, err := Parse([]byte(text + sourceHead + `blacklist = "/etc/cvmfs/blacklist"`))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Mount.Crawlers; (got == nil) != (want < 0) || want > 0 && len(got) != want {
			t.Errorf("%q: crawlers %#v", text, got)
		}
	}
}
