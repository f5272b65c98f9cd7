package tree

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestSplitImageName(t *testing.T) {
	for _, c := range []struct {
		name               string
		app, version, date string
		ok                 bool
	}{
		{"fsl_6.0.7.22_20260416", "fsl", "6.0.7.22", "20260416", true},
		{"neurodesktop-lite_arm64_20260428_20260813", "neurodesktop-lite_arm64", "20260428", "20260813", true},
		{"niftitools_r7771_20220101", "niftitools", "r7771", "20220101", true},
		{"a_b_c_d_20220101", "a_b_c", "d", "20220101", true},
		{"mrtrix3src_latest_latest", "", "", "", false},
		{"fsl_6.0_2026041", "", "", "", false},
		{"fsl_6.0_202604160", "", "", "", false},
		{"fsl_6.0_2026041x", "", "", "", false},
		{"fsl__20260416", "", "", "", false},
		{"_6.0_20260416", "", "", "", false},
		{"fsl_20260416", "", "", "", false},
		{"20260416", "", "", "", false},
		{"_20260416", "", "", "", false},
		{"__20260416", "", "", "", false},
		{"modules", "", "", "", false},
		{"", "", "", "", false},
		{"._1_20260416", "", "", "", false},
		{".._1_20260416", "", "", "", false},
		{"fsl_.._20260416", "", "", "", false},
		{"fsl_._20260416", "", "", "", false},
		{".hidden_1_20260416", ".hidden", "1", "20260416", true},
		{"a\nb_1_20260416", "", "", "", false},
		{"a\tb_1_20260416", "", "", "", false},
		{"fsl_1\x7f_20260416", "", "", "", false},
		{"fsl\u009b31m_1_20260416", "", "", "", false}, // the one-character form of ESC [
		{"a\u202eb_1_20260416", "", "", "", false},     // turns the writing direction
		{"gehirn ä_1_20260416", "gehirn ä", "1", "20260416", true},
	} {
		app, version, date, ok := splitImageName(c.name)
		if app != c.app || version != c.version || date != c.date || ok != c.ok {
			t.Errorf("%q: %q, %q, %q, %v", c.name, app, version, date, ok)
		}
	}
}

func FuzzImageName(f *testing.F) {
	f.Add("fsl_6.0.7.22_20260416")
	f.Add(".._.._20260416")
	f.Fuzz(func(t *testing.T, name string) {
		app, version, date, ok := splitImageName(name)
		if !ok {
			return
		}
		if app+"_"+version+"_"+date != name || len(date) != 8 {
			t.Errorf("%q: %q, %q, %q", name, app, version, date)
		}
		for _, part := range []string{app, version} {
			if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q has the part %q", name, part)
			}
		}
	})
}

// ascending are versions as they occur in the world, in the order that we want.
var ascending = [][]string{
	{"1", "2", "10", "20", "100"},
	{"r7770", "r7771", "r10000"},
	{"v1.0.20240202", "v1.0.20240203", "v1.1", "v2", "v10"},
	{"1.0", "v1.1", "1.2", "v1.10"}, // a v does not count
	{"2023b", "2024a", "2024b", "2025a"},
	{"alpha9", "alpha119", "alpha1000"},
	{"25.3", "26.0.rc2", "26.0.rc3", "26.0.rc10", "26.0", "26.0.0", "26.0.1"}, // a candidate is no release yet
	{"1.2.rc", "1.2rc1", "1.2-rc2", "1.2", "1.2.src1", "1.3"},
	{"3.0-RC2", "3.0_RC3", "3.0", "3.0.1"},
	{"4.2.0-alpha.2", "4.2.0-beta", "4.2.0-beta.1", "4.2.0b", "4.2.1"},
	{"1.0alpha2", "1.0Beta1", "1.0rc1", "1.0", "1.0.1", "1.0.betamax"},
	{"rc1", "rc2"},
	{"4.0.1", "4.0.1.sm75", "4.0.1.sm80", "4.0.2"},
	{"19a", "20a", "20b", "21"},
	{"0.3.1", "0.3.1a0", "0.3.1a1", "0.3.2"},
	{"6.0.5.1", "6.0.7.4", "6.0.7.16", "6.0.7.22"},
	{"25.1.2", "25.1.2.post1", "25.1.3"},
	{"chen.2023.12.31", "chen.2024.04.19"},
	{"1.0", "1.0.gpu", "1.1"},
	{"3.0.1", "2024b", "latest"},                          // digits before letters
	{"007", "07", "7", "007.1"},                           // equal in value: by their bytes
	{"1", "v1", "1.0"},                                    // likewise
	{"1.99999999999999999999", "1.100000000000000000000"}, // longer than any integer
}

func TestCompareNatural(t *testing.T) {
	for _, list := range ascending {
		for i, a := range list {
			for j, b := range list {
				got := compareNatural(a, b)
				if i < j && got >= 0 || i > j && got <= 0 || i == j && got != 0 {
					t.Errorf("compareNatural(%q, %q) = %d", a, b, got)
				}
			}
		}
	}
}

// FuzzCompareNatural checks that it is a total order of texts.
func FuzzCompareNatural(f *testing.F) {
	var all []string
	for _, list := range ascending {
		all = append(all, list...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		f.Add(all[r.IntN(len(all))], all[r.IntN(len(all))], all[r.IntN(len(all))])
	}
	f.Add("v01", "1", "v1")
	f.Add("v", "v0", "0")
	f.Add("1a", "01b", "1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		sign := func(x, y string) int { return min(1, max(-1, compareNatural(x, y))) }
		if sign(a, b) != -sign(b, a) {
			t.Errorf("%q and %q: %d one way, %d the other", a, b, sign(a, b), sign(b, a))
		}
		if (sign(a, b) == 0) != (a == b) {
			t.Errorf("%q and %q are equal: %d", a, b, sign(a, b))
		}
		sorted := []string{a, b, c}
		slices.SortFunc(sorted, compareNatural)
		if sign(sorted[0], sorted[1]) > 0 || sign(sorted[1], sorted[2]) > 0 || sign(sorted[0], sorted[2]) > 0 {
			t.Errorf("not transitive: %q", sorted)
		}
	})
}
