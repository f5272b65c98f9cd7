package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// numbered is an object that differs from all of other numbers.
func numbered(i int, size int64) Object {
	return Object{Hash: hash.Sum(hash.SHA1, fmt.Appendf(nil, "%d", i)), Size: size}
}

func sample() Trace {
	chunk, cat := numbered(2, 1<<20), numbered(3, -1)
	chunk.Suffix, chunk.Compression = hash.Chunk, catalog.None
	cat.Suffix = hash.Catalog
	odd := Object{Hash: hash.Sum(hash.SHAKE128, []byte("x")), Size: 7}
	return Trace{
		Repository: "neurodesk.example.org", Image: "0123456789abcdef0123456789abcdef01234567", Command: "bet", Runs: 3,
		Used: time.Date(2026, 8, 1, 2, 3, 4, 0, time.UTC), Objects: []Object{numbered(1, 10), chunk, cat, odd},
	}
}

func TestFormatIsWhatParseReads(t *testing.T) {
	for _, list := range [][]Trace{{sample()}, {}} {
		text, err := Format(list)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil || len(got) != len(list) || len(list) > 0 && !reflect.DeepEqual(got, list) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	text, err := Format([]Trace{sample()})
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	first := numbered(1, 10).Hash.String() + " - 10"
	for what, bad := range map[string]string{
		"no JSON":        "bet",
		"another format": strings.Replace(good, format, "shopping list", 1),
		"newer version":  strings.Replace(good, `"version": 1`, `"version": 2`, 1),
		"path in image":  strings.Replace(good, "0123456789abcdef", "../../etc/pass", 1),
		"short image":    strings.Replace(good, "0123456789abcdef0123456789abcdef01234567", "x", 1),
		"slash":          strings.Replace(good, `"bet"`, `"a/b"`, 1),
		"control":        strings.Replace(good, `"bet"`, `"a\u001bb"`, 1),
		"no command":     strings.Replace(good, `"bet"`, `""`, 1),
		"hash":           strings.Replace(good, first, "zz - 10", 1),
		"md5":            strings.Replace(good, first, strings.Repeat("0", 32)+" - 10", 1),
		"kind":           strings.Replace(good, " - 10", " X 10", 1),
		"size":           strings.Replace(good, " - 10", " - -2", 1),
		"huge":           strings.Replace(good, " - 10", " - 99999999999", 1),
		"too many bytes": strings.Replace(good, " - 10", fmt.Sprintf(" - %d", MaxBytes), 1),
		"words":          strings.Replace(good, " - 10", " - 10 raw raw", 1),
	} {
		if bad == good {
			t.Errorf("%s: the case changes nothing", what)
		}
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
	many := sample()
	many.Objects = nil
	for i := range MaxObjects + 1 {
		many.Objects = append(many.Objects, numbered(i, 1))
	}
	if text, err = Format([]Trace{many}); err == nil {
		_, err = Parse(text)
	}
	if !errors.Is(err, ErrFormat) {
		t.Errorf("too many objects: %v", err)
	}
}

func TestMergeKeepsOrderAndBounds(t *testing.T) {
	a, b := sample(), sample()
	a.Objects = []Object{numbered(1, 1), numbered(2, 1)}
	b.Objects = []Object{numbered(2, 1), numbered(3, 1), numbered(1, 1)}
	other := sample()
	other.Command = "fslmaths"
	got := Union([]Trace{a}, []Trace{b, other})
	want := []Object{numbered(1, 1), numbered(2, 1), numbered(3, 1)}
	if len(got) != 2 || !reflect.DeepEqual(got[0].Objects, want) || len(a.Objects) != 2 {
		t.Errorf("%+v", got)
	}
	var big Trace
	for i := range 3 * MaxObjects {
		big.merge([]Object{numbered(i, MaxBytes/100)})
		if i > 200 {
			break
		}
	}
	if big.Bytes() > MaxBytes || len(big.Objects) != 100 {
		t.Errorf("%d objects of %d bytes", len(big.Objects), big.Bytes())
	}
}

// FuzzParse: no bytes make it panic, and what is taken keeps to the bounds and is
// written as it was read.
func FuzzParse(f *testing.F) {
	text, err := Format([]Trace{sample(), sample()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"neurodeskfs traces","version":1,"traces":[{}]}`))
	real, err := os.ReadFile(filepath.Join("testdata", "pytool.json")) // made by trace export in the golden repository
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		for _, tr := range list {
			if len(tr.Objects) > MaxObjects || tr.Bytes() > MaxBytes {
				t.Errorf("%d objects of %d bytes", len(tr.Objects), tr.Bytes())
			}
		}
		text, err := Format(list)
		if err != nil {
			t.Skip() // a time that JSON has no form for
		}
		again, err := Parse(text)
		if err != nil || len(again) != len(list) {
			t.Errorf("%d traces of %d, %v", len(again), len(list), err)
		}
	})
}
