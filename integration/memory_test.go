package integration

import (
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// mostResident is what the daemon may have resident, in bytes, however much was
// seen.
const mostResident = 100e6

// TestMountMemoryIsFlat walks over a large repository and reads every tenth file.
// NEURODESKFS_ENTRIES is how many entries it has; make bench CASE=find FULL=1 has a
// million.
func TestMountMemoryIsFlat(t *testing.T) {
	entries := 100_000
	if text := os.Getenv("NEURODESKFS_ENTRIES"); text != "" {
		var err error
		if entries, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	// more catalogs than are kept open, and more files than are remembered
	const folders, files = 10, 99
	tree := cvmfstest.NewTree()
	for i := range entries / (files + 1) {
		part := fmt.Sprintf("part%04d", i/folders)
		if i%folders == 0 {
			tree.Nested(part)
		}
		for f := range files {
			tree.File(fmt.Sprintf("%s/folder%05d/file%02d", part, i, f), []byte{'0' + byte(f%10)}, 0o644)
		}
	}
	s := newStratum(t)
	_, _, src := s.publish(cvmfstest.Options{FQRN: countedFQRN, Plain: true}, tree)
	m := mount(t, setup{Sources: []source{src}})
	begin := m.Status()
	seen, read := 0, 0
	err := filepath.WalkDir(m.Raw(countedFQRN), func(p string, e iofs.DirEntry, err error) error {
		seen++
		if err == nil && e.Type().IsRegular() && seen%10 == 0 {
			read++
			_, err = os.ReadFile(p)
		}
		return err
	})
	if err != nil || seen < entries || read < entries/11 {
		t.Fatalf("%d entries, %d files read: %v", seen, read, err)
	}
	end := m.Status()
	t.Logf("%d entries, %d read: resident %d bytes, %d before; %+v", seen, read, end.RSS, begin.RSS, end.Memory)
	if end.RSS > mostResident {
		t.Errorf("%d bytes are resident, more than %d", end.RSS, int64(mostResident))
	}
	if m := end.Memory; m.Catalogs > 48 || m.Files > 2048 || m.Objects > 512 || m.Limit > mostResident {
		t.Errorf("a bound does not hold: %+v", m)
	}
}
