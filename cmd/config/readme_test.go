package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReadmeHasEachKey: the README's table of keys names those that there are, and
// no other.
func TestReadmeHasEachKey(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begun := strings.Cut(string(text), "| key | unit | default | range |\n")
	table, _, ended := strings.Cut(rest, "\n\n")
	if !begun || !ended {
		t.Fatal("README.md has no table of keys")
	}
	var told []string
	for line := range strings.Lines(table) {
		place := ""
		for _, key := range regexp.MustCompile("`([a-z0-9_.]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			if i := strings.IndexByte(key[1], '.'); i >= 0 {
				place = key[1][:i+1]
				told = append(told, key[1])
				continue
			}
			told = append(told, place+key[1]) // of the table that the row began with
		}
	}
	var there []string
	for _, key := range keysOf("") {
		if key == "app" {
			continue // has the keys of launch, for an app's name
		}
		inside := keysOf(key)
		if len(inside) == 0 {
			there = append(there, key)
		}
		for _, k := range inside {
			there = append(there, key+"."+k)
		}
	}
	slices.Sort(told)
	slices.Sort(there)
	if len(there) < 50 {
		t.Fatalf("only %d keys: %q", len(there), there)
	}
	for _, key := range there {
		if !slices.Contains(told, key) {
			t.Errorf("README.md does not tell of %s", key)
		}
	}
	for _, key := range told {
		if !slices.Contains(there, key) {
			t.Errorf("README.md tells of %s, which does not exist", key)
		}
	}
	if len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("README.md tells of a key twice: %q", told)
	}
}
