package catalog

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// smallest returns the n smallest golden objects; a corpus that is empty fails.
func smallest(f *testing.F, suffix hash.Suffix, n int) [][]byte {
	f.Helper()
	objects := slices.Collect(maps.Values(goldenObjects(f, suffix)))
	slices.SortFunc(objects, func(a, b []byte) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return bytes.Compare(a, b)
	})
	return objects[:min(n, len(objects))]
}

// expected reports whether err is one that outside bytes may cause.
func expected(err error) bool {
	return err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrNotFound)
}

// FuzzCatalog is best run with -fuzzminimizetime 1x: making files of 16 kB
// smaller takes all the time otherwise.
func FuzzCatalog(f *testing.F) {
	f.Add(small(f))
	for _, suffix := range []hash.Suffix{hash.Catalog, hash.History} {
		for _, b := range smallest(f, suffix, 6) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<18 {
			return
		}
		if rows, err := openAndTour(b, 200); !expected(err) {
			t.Errorf("%d rows, %v", rows, err)
		}
		h, err := OpenHistoryBytes(b)
		if err != nil {
			if !expected(err) {
				t.Error(err)
			}
			return
		}
		if _, err := h.Tags(t.Context()); !expected(err) {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzXattrs(f *testing.F) {
	f.Add([]byte("\x01\x02\x06\x01user.ax\x01\x00b"))
	seeds := 0
	for _, b := range goldenObjects(f, hash.Catalog) {
		c, err := OpenBytes(b)
		if err != nil {
			f.Fatal(err)
		}
		for _, r := range all(f, c) {
			if blob, err := c.xattrBlob(f.Context(), r.ID); err == nil && len(blob) > 0 {
				f.Add(blob)
				seeds++
			}
		}
		c.Close()
	}
	if seeds == 0 {
		f.Fatal("no golden attributes")
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		attrs, err := ParseXattrs(blob)
		if err != nil {
			if !expected(err) {
				t.Error(err)
			}
			return
		}
		again, err := packXattrs(attrs)
		if err != nil || len(attrs) > 0 && again[0] == blob[0] && !bytes.Equal(again, blob) {
			t.Errorf("%x became %x, %v", blob, again, err)
		}
	})
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"pre-$(GOLDEN_X)-post", "../$(GOLDEN_DIR:-sw)/$(GOLDEN_VER:-v1)/bin", "$(", "$()", "$(A:-)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, link string) {
		calls := 0
		plain := Expand(link, func(name string) (string, bool) {
			calls++
			if strings.Contains(name, ")") || strings.Contains(name, ":-") {
				t.Errorf("variable %q", name)
			}
			return "$(" + name + ")", true
		})
		if calls != strings.Count(link, "$(") && calls > strings.Count(link, ")") {
			t.Errorf("%q: %d variables", link, calls)
		}
		if calls == 0 && plain != link {
			t.Errorf("%q became %q", link, plain)
		}
		if short := Expand(link, func(string) (string, bool) { return "", false }); len(short) > len(link) {
			t.Errorf("%q grew to %q", link, short)
		}
	})
}

// FuzzChunks reads pairs of bytes as offsets and sizes.
func FuzzChunks(f *testing.F) {
	f.Add([]byte{0, 4, 4, 5}, int64(9))
	f.Add([]byte{0, 4, 5, 5}, int64(10))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		var chunks []Chunk
		for pair := range slices.Chunk(b, 2) {
			if len(pair) == 2 {
				chunks = append(chunks, Chunk{int64(int8(pair[0])), int64(int8(pair[1])), hash.Sum(hash.SHA1, pair)})
			}
		}
		err := checkChunks(chunks, size)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		var end int64
		for _, c := range chunks {
			if c.Offset != end || c.Size < 0 {
				t.Errorf("%v accepted", chunks)
			}
			end += c.Size
		}
		if end != size {
			t.Errorf("%v accepted for %d bytes", chunks, size)
		}
	})
}
