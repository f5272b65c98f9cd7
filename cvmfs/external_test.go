package cvmfs_test

import (
	"bytes"
	"io/fs"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestExternalFiles: they lie under their own names, stored as their rows say, over
// which their hashes are taken.
func TestExternalFiles(t *testing.T) {
	for _, plain := range []bool{true, false} {
		w := newWorld(t, cvmfstest.Options{Plain: plain, Alter: func(e *catalog.Entry) {
			e.External = e.Path == "/exact"
		}})
		rev := w.fill(contents())
		stored, err := fs.ReadFile(w.repo.Store, rev.Objects("exact")[0])
		if err == nil {
			err = w.repo.External.WriteFile("exact", stored)
		}
		if err == nil {
			err = w.repo.Store.Remove(rev.Objects("exact")[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		w.server.Add(fqrn+".external", w.repo.External)
		w.opts.ExternalURL = w.server.RepositoryURL(fqrn + ".external")
		r := w.mustOpen(1)
		e := at(t, r, "exact")
		for range 2 { // from the server, from the cache
			got, err := r.ReadFile(t.Context(), e, 1<<20)
			if err != nil || !bytes.Equal(got, bytesOf(chunk)) {
				t.Errorf("plain %v: %d bytes, %v", plain, len(got), err)
			}
		}
		if h, ok, err := r.LocalHash(t.Context(), e); h != e.Hash || !ok || err != nil {
			t.Errorf("plain %v: the local copy has hash %v, %v, %v", plain, h, ok, err)
		}
	}
}
