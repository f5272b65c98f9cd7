package integration

import (
	"strings"
	"testing"
)

// TestMountCompletion: what a shell offers behind a command are the apps, versions, commands and mounts that there are.
func TestMountCompletion(t *testing.T) {
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	for line, want := range map[string]string{
		"info mrt":                "mrtrix3 :4",
		"exec mrt":                "mrtrix3 :0",
		"lock mrtrix3 ni":         "niftitools :4",
		"prefetch niftitools/r":   "niftitools/r7771 niftitools/r7771_20220101 :4",
		"which dcm2niix-":         "dcm2niix-build :4",
		"info mrtrix3 ":           ":4",
		"exec mrtrix3 ":           ":0",
		"check ./ima":             ":0",
		"env nosuch/":             ":4",
		"info --mount /nowhere m": ":4",
		"mount ":                  ":16",
	} {
		if got := complete(t, m, line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if got := complete(t, m, "umount "); !strings.Contains(got, m.Dir) {
		t.Errorf("umount: %q", got)
	}
}

// complete is what the program tells a shell's script: words, and :N for what else to offer.
func complete(t *testing.T, m *mounted, line string) string {
	t.Helper()
	words := strings.Split(line, " ")
	r := run(t, m.Command(program(t), append([]string{"__complete"}, words...)...))
	if r.Status != 0 {
		t.Errorf("%q: exit status %d, %s", line, r.Status, r.Stderr)
	}
	return strings.Join(strings.Fields(r.Stdout), " ")
}
