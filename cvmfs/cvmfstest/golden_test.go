package cvmfstest

import (
	"bytes"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

func TestGoldenIsServedByteForByte(t *testing.T) {
	s := startServer(t)
	const fqrn = "delta.golden.test"
	dir := filepath.Join(golden.Path(t, "cvmfs"), fqrn)
	s.Add(fqrn, os.DirFS(dir))
	n, size := 0, int64(0)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if status, got := get(t, s.RepositoryURL(fqrn)+"/"+rel); status != http.StatusOK || !bytes.Equal(got, want) {
			t.Errorf("%s: status %d, %d bytes, want %d", rel, status, len(got), len(want))
		}
		n, size = n+1, size+int64(len(want))
		return nil
	})
	if err != nil || n < 10 {
		t.Fatalf("%d files, %v", n, err)
	}
	if st := s.Stats(); st.Requests != n || st.Bytes != size || st.InFlight != 0 || st.MaxInFlight != 1 {
		t.Errorf("counters %+v, want %d requests and %d bytes", st, n, size)
	}
}

func TestGoldenWithANegativeCaseOverIt(t *testing.T) {
	s := startServer(t)
	const fqrn = "alpha.golden.test"
	dir := golden.Path(t, "cvmfs")
	layer := os.DirFS(filepath.Join(dir, "negative", fqrn, "whitelist-expired"))
	s.Add(fqrn, Overlay(layer, os.DirFS(filepath.Join(dir, fqrn))))
	keys, err := trust.LoadKeys(filepath.Join(dir, "keys", fqrn+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := trust.ParseWhitelist(mustGet(t, s.RepositoryURL(fqrn)+"/.cvmfswhitelist"))
	if err != nil || w.Expires.Year() != 2020 {
		t.Fatalf("whitelist %+v, %v", w, err)
	}
	if w.Verify(keys, fqrn, time.Unix(0, 0)) != nil {
		t.Error("its signature does not hold")
	}
	if _, err := trust.ParseManifest(mustGet(t, s.RepositoryURL(fqrn)+"/.cvmfspublished")); err != nil {
		t.Errorf("the manifest below: %v", err)
	}
}

func TestManifestHasTheFieldsOfAGoldenOne(t *testing.T) {
	dir := golden.Path(t, "cvmfs")
	letters := func(raw []byte) (l string) {
		head, _, _ := bytes.Cut(raw, []byte("--\n"))
		for line := range bytes.Lines(head) {
			if line[0] != 'Y' { // reflog: servers only
				l += string(line[:1])
			}
		}
		return l
	}
	real, err := os.ReadFile(filepath.Join(dir, "alpha.golden.test", ".cvmfspublished"))
	if err != nil {
		t.Fatal(err)
	}
	_, rev := mustPublish(t, Options{FQRN: "r.example.org"}, NewTree())
	if got, want := letters(rev.Manifest), letters(real); got != want {
		t.Errorf("fields %s, want %s", got, want)
	}
}

func TestCatalogHasTheSchemaOfAGoldenOne(t *testing.T) {
	dir := golden.Path(t, "cvmfs")
	real, err := os.ReadFile(filepath.Join(dir, "delta.golden.test", ".cvmfspublished"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := trust.ParseManifest(real)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(filepath.Join(dir, "delta.golden.test", m.RootCatalog.Path(hash.Catalog)))
	if err != nil {
		t.Fatal(err)
	}
	repo, rev := mustPublish(t, Options{FQRN: "r.example.org"}, NewTree())
	ours := mustOpen(t, repo.Store, rev.Root.Path(hash.Catalog))
	schema := func(stored []byte) (string, int) {
		c, err := catalog.OpenBytes(mustInflate(t, stored))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.Schema()
	}
	gotV, gotR := schema(ours)
	wantV, wantR := schema(theirs)
	if gotV != wantV || gotR != wantR {
		t.Errorf("schema %s revision %d, want %s revision %d", gotV, gotR, wantV, wantR)
	}
}
