package image

import (
	"slices"
	"strings"
	"testing"
)

func TestModulesOfAScript(t *testing.T) {
	got := modules([]byte("#!/usr/bin/python3\nimport os, email.message\nfrom .local import x\nNAMES = \"json html.parser\"\nimport os\n"))
	for _, want := range []string{"os", "email.message", "json", "html.parser", "local"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing among %v", want, got)
		}
	}
	seen := map[string]bool{}
	for _, w := range got {
		if seen[w] {
			t.Errorf("%s twice", w)
		}
		seen[w] = true
	}
}

const goodBundle = `{"name": "CVMFS_BUNDLE", "version": "1.0.0", "encoding": "UTF-8", "dependencies": ["/sw/lib/libfoo.so", "/sw/data.bin"]}`

func TestParseBundle(t *testing.T) {
	if list, err := parseBundle([]byte(goodBundle)); err != nil || !slices.Equal(list, []string{"/sw/lib/libfoo.so", "/sw/data.bin"}) {
		t.Errorf("%q, %v", list, err)
	}
	for what, change := range map[string][2]string{
		"no JSON":    {`{"name"`, `"name"`},
		"other name": {"CVMFS_BUNDLE", "BUNDLE"},
		"version 2":  {"1.0.0", "2.0.0"},
		"relative":   {"/sw/data.bin", "sw/data.bin"},
		"climbs":     {"/sw/data.bin", "/sw/../../etc/passwd"},
		"the root":   {"/sw/data.bin", "/"},
		"long path":  {"/sw/data.bin", "/" + strings.Repeat("x", 5000)},
		"many files": {`"/sw/data.bin"`, `"/sw/data.bin"` + strings.Repeat(`,"/a"`, maxDependencies)},
		"no list":    {`["/sw/lib/libfoo.so", "/sw/data.bin"]`, `"/sw"`},
		"large":      {"{", "{" + strings.Repeat(" ", maxBundle)},
	} {
		bad := strings.Replace(goodBundle, change[0], change[1], 1)
		if bad == goodBundle {
			t.Errorf("%s: the case changes nothing", what)
		}
		if list, err := parseBundle([]byte(bad)); err == nil {
			t.Errorf("%s: %q", what, list)
		}
	}
}

// FuzzBundle: no bytes make it panic, and what is taken keeps to the bounds.
func FuzzBundle(f *testing.F) {
	f.Add([]byte(goodBundle))
	f.Add([]byte(`{"name":"CVMFS_BUNDLE","version":"1","dependencies":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseBundle(b)
		if err != nil {
			return
		}
		for _, name := range list {
			if name[0] != '/' || strings.Contains(name, "/../") || len(list) > maxDependencies {
				t.Errorf("%q of %d", name, len(list))
			}
		}
	})
}
