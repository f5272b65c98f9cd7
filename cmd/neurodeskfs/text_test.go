package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/neurodesk/neurodeskfs/fs/tree"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode":     "plain, ünïcode",
		"\x1b[31mred\x1b[0m": `\x1b[31mred\x1b[0m`,
		"a\tb\nc\r":          `a b\x0ac\x0d`,
		"\xff\x9b31m":        `\xff\x9b31m`,
		"\u009b31m":          `\u009b31m`, // the one-character form of ESC [
		"a\u202eb":           `a\u202eb`,  // turns the writing direction
		"\x00\x7f":           `\x00\x7f`,
	} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestListsShowNoNameAsItIs: apps, versions and commands are named by whoever publishes them.
func TestListsShowNoNameAsItIs(t *testing.T) {
	const evil = "a\u009b31m\u202eb"
	var b strings.Builder
	if err := table(&b, [][]string{{evil, "1"}}); err != nil {
		t.Fatal(err)
	}
	l := tree.Listing{Images: []tree.Listed{{App: evil, Version: evil, Commands: []string{evil}}}}
	printMatches(&b, searchApps(l, []string{"a"}))
	shown := strings.ReplaceAll(b.String(), `a\u009b31m\u202eb`, "NAME")
	if strings.Count(shown, "NAME") != 4 || strings.ContainsFunc(shown, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("%q", b.String())
	}
}

func TestClipAndFit(t *testing.T) {
	words := []string{"alpha", "beta", "gamma", "delta"}
	for width := range 40 {
		if got := fitList(words, width); utf8.RuneCountInString(got) > width {
			t.Errorf("%q is wider than %d", got, width)
		}
	}
	if got := fitList(words, 15); got != "alpha beta +2" {
		t.Errorf("%q", got)
	}
	if got := fitList(words, 22); got != "alpha beta gamma delta" {
		t.Errorf("%q", got)
	}
	if got := fitList(nil, 10) + clip("äöü", 3) + clip("äöüß", 3) + clip("x", 0); got != "äöüäö…" {
		t.Errorf("%q", got)
	}
}

func TestColumns(t *testing.T) {
	var b strings.Builder
	columns(&b, []string{"1", "22", strings.Repeat("x", 36), "4", "5"}, "  ")
	if got := b.String(); got != "  1                                     4\n  22                                    5\n  "+strings.Repeat("x", 36)+"\n" {
		t.Errorf("%q", got)
	}
	b.Reset()
	columns(&b, []string{strings.Repeat("y", 100), "z"}, "  ")
	if got := strings.Count(b.String(), "\n"); got != 2 {
		t.Errorf("%q", b.String())
	}
}

func TestSearchRanks(t *testing.T) {
	l := tree.Listing{Images: []tree.Listed{
		{App: "fsl", Version: "6.0", Date: "20240101", Commands: []string{"bet", "bet2", "robustfov"}},
		{App: "betapp", Version: "1", Date: "20240101", Commands: []string{"run"}},
		{App: "other", Version: "1", Date: "20240101", Commands: []string{"alphaBET"}},
		{App: "prefix", Version: "1", Date: "20240101", Commands: []string{"better"}},
		{App: "dated", Version: "bet5", Date: "20240101", Commands: []string{"x"}},
		{App: "none", Version: "1", Date: "20240101", Commands: []string{"y"}},
	}}
	names := func(words ...string) string {
		var list []string
		for _, m := range searchApps(l, words) {
			list = append(list, m.App)
		}
		return strings.Join(list, " ")
	}
	for words, want := range map[string]string{
		"BET":      "fsl prefix betapp other dated",
		"bet 6.0":  "fsl",
		"bet none": "",
		"2024":     "betapp dated fsl none other prefix",
	} {
		if got := names(strings.Fields(words)...); got != want {
			t.Errorf("%s: %q, want %q", words, got, want)
		}
	}
	if got := searchApps(l, []string{"bet"})[0].Commands; strings.Join(got, " ") != "bet bet2" {
		t.Errorf("%q", got)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := table(&out, [][]string{{"APP", "N", ""}, {"größe", "10", ""}, {"x", "1", "retired"}}); err != nil {
		t.Fatal(err)
	}
	if want := "APP    N\ngröße  10\nx      1   retired\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
