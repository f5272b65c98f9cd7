package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEachReadsInPieces: records of all sizes, in two spaces, with others that come
// meanwhile, are each told once and whole.
func TestEachReadsInPieces(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "nodes"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := OpenTable(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	record := func(i int) string {
		return fmt.Sprintf("%c\x00%d", "ab"[i%2], i) + strings.Repeat("x", i*7919%600+i%97/96*300_000)
	}
	const first, all = 2000, 2100
	for i := range first {
		if _, err := table.Intern(record(i)); err != nil {
			t.Fatal(err)
		}
		if _, err := table.number(spaceVolumes, record(i)); err != nil {
			t.Fatal(err)
		}
	}
	next, told := first, 0
	err = table.Each("a\x00", func(entry uint64, got string) bool {
		if want := record(told * 2); got != want || entry != uint64(told*2+1) {
			t.Fatalf("number %d, %d bytes: %.20q; want %.20q", entry, len(got), got, want)
		}
		told++
		if next < all {
			if _, err := table.Intern(record(next)); err != nil {
				t.Fatal(err)
			}
			next++
		}
		return true
	})
	if err != nil || told != all/2 {
		t.Errorf("%d records, %v; want %d", told, err, all/2)
	}
}
