package tree

import (
	"cmp"
	"strings"
	"unicode"
)

// splitImageName takes the name of an image apart, from the right, since an
// app's name may hold an underscore: neurodesktop-lite_arm64_20260428_20260813.
// The last part is the build date, eight digits. App and version become names in
// the tree, so "." and "..", and what a terminal would obey, are refused.
func splitImageName(s string) (app, version, date string, ok bool) {
	i := strings.LastIndexByte(s, '_')
	if i < 0 {
		return "", "", "", false
	}
	rest, date := s[:i], s[i+1:]
	j := strings.LastIndexByte(rest, '_')
	if j <= 0 || j == len(rest)-1 || len(date) != 8 || strings.Trim(date, "0123456789") != "" {
		return "", "", "", false
	}
	app, version = rest[:j], rest[j+1:]
	if !nameable(app) || !nameable(version) {
		return "", "", "", false
	}
	return app, version, date, true
}

func nameable(s string) bool {
	return s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// newerFirst orders the builds of an app. One without a date goes before others of
// its version, for it is what that version's name means in M/apps: so bin, default,
// pins and modules mean it too.
func newerFirst(aVersion, aDate, bVersion, bDate string) int {
	return cmp.Or(-compareNatural(aVersion, bVersion), order(aDate == "", bDate == ""), -strings.Compare(aDate, bDate))
}

// compareNatural orders free-form versions as a person would: runs of digits by
// their value, all else by bytes, digits before letters. A leading v before a
// digit does not count. A release candidate, alpha or beta comes before its release:
// 26.0.rc3 before 26.0. Versions that differ in spelling only (01 and 1) are ordered by
// their bytes.
func compareNatural(a, b string) int {
	x, y := markCandidate(trimV(a)), markCandidate(trimV(b))
	for x != "" && y != "" {
		dx, dy := leadingDigits(x), leadingDigits(y)
		if dx > 0 && dy > 0 {
			if c := compareNumbers(x[:dx], y[:dy]); c != 0 {
				return c
			}
			x, y = x[dx:], y[dy:]
			continue
		}
		if x[0] != y[0] {
			if x[0] < y[0] {
				return -1
			}
			return 1
		}
		x, y = x[1:], y[1:]
	}
	if c := ending(x) - ending(y); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// candidateMark stands before the word of a release candidate: before the end, and
// before all that versions are made of.
const candidateMark = "\x00"

// candidateWords are in the order in which they come before a release.
var candidateWords = []string{"alpha", "beta", "rc"}

// markCandidate puts it there: in 26.0.rc3, 26.0rc3, 26.0-RC3 and 26.0-beta, not in
// rc3 or arc3.
func markCandidate(version string) string {
	lower := strings.ToLower(version)
	for _, word := range candidateWords {
		i := strings.Index(lower, word)
		if i <= 0 || len(lower) != len(version) { // the latter: letters of another alphabet
			continue
		}
		before, after := lower[i-1], strings.TrimPrefix(lower[i:], word)
		if leadingDigits(lower[i-1:]) > 0 || strings.IndexByte(".-_+", before) >= 0 {
			if after == "" || after[0] < 'a' || after[0] > 'z' {
				return strings.TrimRight(version[:i], ".-_+") + candidateMark + lower[i:]
			}
		}
	}
	return version
}

// ending orders what is left of one of two versions, where of the other nothing is.
func ending(rest string) int {
	switch {
	case rest == "":
		return 0
	case strings.HasPrefix(rest, candidateMark):
		return -1
	}
	return 1
}

func trimV(s string) string {
	if len(s) > 1 && (s[0] == 'v' || s[0] == 'V') && s[1] >= '0' && s[1] <= '9' {
		return s[1:]
	}
	return s
}

func leadingDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// compareNumbers compares two runs of digits of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
