package cvmfs_test

import (
	"bytes"
	"errors"
	"regexp"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestADamagedNestedCatalogSpoilsNoOther: what a catalog says of one nested
// catalog is not understood; all else is there, and the place itself is an error.
func TestADamagedNestedCatalogSpoilsNoOther(t *testing.T) {
	for name, instead := range map[string]string{"no hash": "/bad-$2", "another place": "//ad$1$2"} {
		row := regexp.MustCompile("/bad([0-9a-f])([0-9a-f]{39})")
		w := newWorld(t, cvmfstest.Options{Forge: func(path string, database []byte) []byte {
			if path != "" {
				return database
			}
			if len(row.FindAll(database, -1)) != 1 {
				t.Fatal("the row of /bad is not found")
			}
			return row.ReplaceAll(database, []byte(instead))
		}})
		tree := cvmfstest.NewTree()
		for _, dir := range []string{"bad", "good"} {
			tree.Nested(dir)
			tree.File(dir+"/x", []byte(dir), 0o644)
		}
		w.fill(tree)
		r := w.mustOpen(1)
		got, err := r.ReadFile(t.Context(), at(t, r, "good/x"), 10)
		if err != nil || !bytes.Equal(got, []byte("good")) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		w.server.Reset()
		if _, err := r.Lookup(t.Context(), at(t, r, "bad").Ref, "x"); !errors.Is(err, catalog.ErrCorrupt) || w.server.Count(cvmfstest.All) != 0 {
			t.Errorf("%s: %v, %d requests", name, err, w.server.Count(cvmfstest.All))
		}
	}
}
