package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableIsFollowed: who is to take over has read nearly all when its turn comes,
// while another still writes.
func TestTableIsFollowed(t *testing.T) {
	const records = 5000
	path := filepath.Join(t.TempDir(), "nodes")
	table := openTable(t, path)
	mustIntern(t, table, "first")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	standby, err := LoadTable(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range records {
			if _, err := table.Intern(fmt.Sprint(i, strings.Repeat("x", i%2000))); err != nil {
				t.Error(err)
			}
		}
	}()
	for writing := true; writing; {
		select {
		case <-written:
			writing = false
		default:
		}
		if err := standby.Follow(); err != nil {
			t.Fatal(err)
		}
	}
	if standby.end != table.end {
		t.Errorf("%d of %d bytes were read", standby.end, table.end)
	}
	if err := standby.Own(); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if n := mustIntern(t, standby, fmt.Sprint(i, strings.Repeat("x", i%2000))); n != uint64(i+2) {
			t.Fatalf("record %d has number %d", i, n)
		}
	}
}
