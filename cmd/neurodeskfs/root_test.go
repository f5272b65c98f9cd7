package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// eachCommand calls fn for every command that help shows.
func eachCommand(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			eachCommand(sub, fn)
		}
	}
}

func TestEveryHelpIsWhole(t *testing.T) {
	n := 0
	eachCommand(newRoot(), func(c *cobra.Command) {
		n++
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if !strings.Contains(text, "Examples:\n") || !strings.Contains(text, "\nExit status:\n") {
			t.Errorf("%s --help has no example or no exit statuses", c.CommandPath())
		}
		for line := range strings.Lines(text) {
			if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > screenWidth {
				t.Errorf("%s --help: wider than %d columns: %s", c.CommandPath(), screenWidth, line)
			}
		}
	})
	if n < 25 {
		t.Errorf("only %d commands", n)
	}
}

func TestManualPageEscapes(t *testing.T) {
	c := &cobra.Command{Use: "x", Short: "a - b", Long: ".dot\n'quote \\ back\n" + exitHelp, Example: "  x --y"}
	page := string(manPage(c))
	for _, want := range []string{`a \- b`, "\\&.dot\n\\&'quote \\e back", ".SH EXIT STATUS", `x \-\-y`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in:\n%s", want, page)
		}
	}
}
