package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestLaunchProvenance: each start leaves one line, which names the runtime that was asked for.
func TestLaunchProvenance(t *testing.T) {
	runtimes := runtimesPresent(t)
	for _, c := range newConformers(t) {
		c.t = t
		file := filepath.Join(c.who.home, "provenance.jsonl")
		for _, runtime := range runtimes {
			inv := shell("printf 'a\nb'; exit 3").with("NEURODESK_PROVENANCE=" + file)
			if got := c.observe(inv, runtime); got.stdout != "a\nb" || got.stderr != "" || got.status != 3 {
				t.Errorf("%s: %+v", runtime, got)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if len(lines) != len(runtimes) {
			t.Fatalf("%d lines: %q", len(lines), text)
		}
		for i, line := range lines {
			var got struct {
				Runtime, App, Repository, Cwd string
				Exit                          *int
			}
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatal(err)
			}
			if got.Runtime != runtimes[i] || got.App != "niftitools" || got.Repository != "neurodesk.golden.test" || got.Cwd != c.work {
				t.Errorf("%s: %+v", runtimes[i], got)
			}
			// Under bwrap the launcher stays, and knows how it ended; the others take its place.
			if known := got.Exit != nil && *got.Exit == 3; known != (runtimes[i] == "bwrap") || !known && got.Exit != nil {
				t.Errorf("%s: exit %s", runtimes[i], line)
			}
		}
		c.refusedStart(file)
		for _, runtime := range runtimes {
			c.tooLong(file, runtime)
		}
	}
}

// tooLong: arguments that the kernel takes for the launcher, and not for the runtime, which needs some of its own.
func (c conformer) tooLong(file, runtime string) {
	c.t.Helper()
	const limit = 2 << 20 // bytes: a quarter of the stack's usual limit
	for spare := 0; spare < 64<<10; spare += 512 {
		args := slices.Repeat([]string{strings.Repeat("x", 100_000)}, (limit-spare)/100_009)
		args = append(args, strings.Repeat("y", (limit-spare)%100_009))
		cmd := c.start(invoke("cat", args...).with("NEURODESK_PROVENANCE="+file), runtime)
		var said bytes.Buffer
		cmd.Stderr = &said
		err := cmd.Run()
		if errors.Is(err, syscall.E2BIG) {
			continue // the launcher itself
		}
		text, readErr := os.ReadFile(file)
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 125 || !strings.Contains(said.String(), "too long together") || readErr != nil || !strings.HasSuffix(string(text), "\"exit\":125}\n") {
			c.t.Errorf("%s: %v, %v: %s", runtime, err, readErr, said.String()[:min(said.Len(), 500)])
		}
		return
	}
	c.t.Errorf("%s: no length was found at which the launcher can be started", runtime)
}

// refusedStart: one that did not come to the tool leaves a line too, with our own status.
func (c conformer) refusedStart(file string) {
	c.t.Helper()
	if got := c.observe(invoke("nosuch", "a").with("NEURODESK_PROVENANCE="+file), "apptainer"); got.status != 127 || !strings.Contains(got.stderr, "no such command") {
		c.t.Errorf("%+v", got)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var got struct {
		Command, Runtime, App string
		Exit                  int
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil || got.Command != "nosuch" || got.App != "niftitools" || got.Runtime != "" || got.Exit != 127 {
		c.t.Errorf("%+v, %v", got, err)
	}
}
