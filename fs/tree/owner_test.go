package tree

import (
	"slices"
	"testing"
)

// candidate reads "app version date commands", with a + in front where retired.
func candidate(app, version, date string, commands int) Candidate {
	return Candidate{App: app, Version: version, Date: date, Commands: commands}
}

func retired(c Candidate) Candidate {
	c.Retired = true
	return c
}

func pinned(c Candidate) Candidate {
	c.Pinned = true
	return c
}

func TestOwnerOfAName(t *testing.T) {
	for _, c := range []struct {
		what    string
		command string
		list    []Candidate
		want    []string // the winner first
		reason  string
	}{
		{"alone", "bet", []Candidate{candidate("fsl", "6", "20200101", 9)},
			[]string{"fsl/6_20200101"}, "the only image that has it"},
		{"the newest version, in natural order", "bet",
			[]Candidate{candidate("fsl", "6.0.7.4", "20260101", 9), candidate("fsl", "6.0.7.16", "20200101", 9)},
			[]string{"fsl/6.0.7.16_20200101", "fsl/6.0.7.4_20260101"}, "the newest version of the only app that has it"},
		{"the newest build of a version", "bet",
			[]Candidate{candidate("fsl", "6", "20200101", 9), candidate("fsl", "6", "20210101", 9)},
			[]string{"fsl/6_20210101", "fsl/6_20200101"}, "the newest version of the only app that has it"},
		{"own name, though it exposes more", "dcm2niix",
			[]Candidate{candidate("bidsapp", "1", "20250101", 2), candidate("dcm2niix", "1", "20200101", 50)},
			[]string{"dcm2niix/1_20200101", "bidsapp/1_20250101"}, "the app has the command's own name"},
		{"own name, case and dashes aside", "hd-bet",
			[]Candidate{candidate("aaa", "1", "20250101", 1), candidate("HDBET", "1", "20200101", 50)},
			[]string{"HDBET/1_20200101", "aaa/1_20250101"}, "the app has the command's own name"},
		{"the fewest commands", "bet",
			[]Candidate{candidate("bidsapp", "1", "20250101", 700), candidate("fsl", "1", "20200101", 600)},
			[]string{"fsl/1_20200101", "bidsapp/1_20250101"}, "the app exposes the fewest commands (600)"},
		{"equal: by name", "bet",
			[]Candidate{candidate("zeta", "1", "20250101", 6), candidate("alpha", "1", "20200101", 6)},
			[]string{"alpha/1_20200101", "zeta/1_20250101"}, "the first app by name"},
		{"a site's pin before all but life", "dcm2niix",
			[]Candidate{candidate("dcm2niix", "1", "20200101", 2), pinned(candidate("bidsapp", "1", "20250101", 50)), candidate("bidsapp", "2", "20260101", 50)},
			[]string{"bidsapp/1_20250101", "dcm2niix/1_20200101", "bidsapp/2_20260101"}, "the site pins bidsapp to 1_20250101"},
		{"a pin on a retired image", "tool",
			[]Candidate{pinned(retired(candidate("tool", "2", "20250101", 1))), candidate("tool", "1", "20200101", 1)},
			[]string{"tool/1_20200101", "tool/2_20250101"}, "the newest version of the only app that has it"},
		{"live before retired, own name or not", "tool",
			[]Candidate{retired(candidate("tool", "2", "20250101", 1)), candidate("other", "1", "20200101", 60)},
			[]string{"other/1_20200101", "tool/2_20250101"}, "the others are retired"},
		{"an older live version before a retired one", "tool",
			[]Candidate{retired(candidate("tool", "2", "20250101", 1)), candidate("tool", "1", "20200101", 1)},
			[]string{"tool/1_20200101", "tool/2_20250101"}, "the newest version of the only app that has it"},
		{"retired only", "tool",
			[]Candidate{retired(candidate("a", "2", "20250101", 1)), retired(candidate("b", "3", "20250101", 1))},
			[]string{"a/2_20250101", "b/3_20250101"}, "only retired images have it"},
	} {
		before := slices.Clone(c.list)
		for range 2 { // the order of the candidates does not count
			o := own(c.command, c.list)
			got := []string{o.Winner.build()}
			for _, other := range o.Others {
				got = append(got, other.build())
			}
			if !slices.Equal(got, c.want) || o.Reason != c.reason {
				t.Errorf("%s: %q because %q, want %q because %q", c.what, got, o.Reason, c.want, c.reason)
			}
			slices.Reverse(c.list)
		}
		if len(c.list) != len(before) {
			t.Errorf("%s: the list was changed", c.what)
		}
	}
}
