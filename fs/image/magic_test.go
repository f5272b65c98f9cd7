package image

import (
	"strings"
	"testing"
)

func TestMagicNames(t *testing.T) {
	for name, want := range map[string]struct {
		base  string
		page  pageRequest
		known bool
	}{
		"user.fqrn":            {"fqrn", pageRequest{}, true},
		"xfsroot.rawlink":      {"rawlink", pageRequest{}, true},
		"user.chunk_list@0":    {"chunk_list", pageRequest{people: true}, true},
		"user.chunk_list~12":   {"chunk_list", pageRequest{number: 12}, true},
		"user.chunk_list~?":    {"chunk_list", pageRequest{count: true}, true},
		"user.chunk_list@?":    {"chunk_list", pageRequest{count: true, people: true}, true},
		"user.chunk_list~":     {},
		"user.chunk_list~+1":   {},
		"user.chunk_list~-1":   {},
		"user.chunk_list~0~0":  {},
		"user.hash~9999999999": {},
		"user.":                {},
		"user":                 {},
		"fqrn":                 {},
		"trusted.fqrn":         {},
		"xfsroot.fqrn":         {},
		"user.nobody":          {},
		"user.@0":              {},
	} {
		base, page, known := parseMagic(name)
		if known != want.known || known && (base != want.base || page != want.page) {
			t.Errorf("%s: %q, %+v, %v", name, base, page, known)
		}
	}
}

func FuzzMagicNames(f *testing.F) {
	for _, name := range magicNames {
		f.Add(name, "text\n")
	}
	f.Add("user.chunk_list~?", strings.Repeat("line\n", 20000))
	f.Add("user.chunk_list@1", strings.Repeat("x", 100000))
	f.Fuzz(func(t *testing.T, name, text string) {
		base, page, known := parseMagic(name)
		if !known {
			return
		}
		if _, err := page.of(base, text); err != nil && !page.count && page.number < len(paginate(text)) {
			t.Errorf("page %d of %d: %v", page.number, len(paginate(text)), err)
		}
		pages := paginate(text)
		for _, p := range pages {
			if len(p) > pageBytes {
				t.Errorf("a page has %d bytes", len(p))
			}
		}
		if strings.Join(pages, "") != text {
			t.Error("the pages are not the text")
		}
	})
}
