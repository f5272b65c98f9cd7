package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// goldenSets are the folders of golden repositories.
var goldenSets = []string{"cvmfs", "neurodesk"}

// goldenSet is the folder that holds the repository.
func goldenSet(t testing.TB, fqrn string) string {
	t.Helper()
	for _, set := range goldenSets {
		if _, err := os.Stat(golden.Path(t, set, fqrn)); err == nil {
			return set
		}
	}
	t.Fatalf("no golden repository %s", fqrn)
	return ""
}

// stratum is a Stratum 1 in process.
type stratum struct {
	*cvmfstest.Server
	t testing.TB
}

func newStratum(t testing.TB) *stratum {
	t.Helper()
	s, err := cvmfstest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &stratum{s, t}
}

// Golden serves golden repositories at their newest revision, below layers
// that are asked first, and returns how to mount one. delta's external data
// are served too.
func (s *stratum) Golden(fqrn string, layers ...fs.FS) source {
	s.t.Helper()
	set := goldenSet(s.t, fqrn)
	s.Add(fqrn, cvmfstest.Overlay(append(layers, os.DirFS(golden.Path(s.t, set, fqrn)))...))
	src := source{FQRN: fqrn, Servers: []string{s.URL()}, Keys: golden.Path(s.t, set, "keys", fqrn+".pub"), Layout: "none"}
	if external := golden.Path(s.t, set, fqrn+".external"); exists(external) {
		s.Add(fqrn+".external", os.DirFS(external))
		src.ExternalURL = s.RepositoryURL(fqrn + ".external")
	}
	return src
}

// goldenRevision is the layer that makes a server show a revision, as one that
// lags behind does.
func goldenRevision(t testing.TB, fqrn string, n int) fs.FS {
	t.Helper()
	b, err := os.ReadFile(golden.Path(t, goldenSet(t, fqrn), "manifests", fqrn, fmt.Sprintf("golden-rev%d.cvmfspublished", n)))
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{".cvmfspublished": {Data: b}}
}

// goldenCase is the layer of a case of the negative set.
func goldenCase(t testing.TB, fqrn, name string) fs.FS {
	t.Helper()
	return os.DirFS(golden.Path(t, "cvmfs", "negative", fqrn, name))
}

// publish serves a repository that is made for the test, and returns how to
// mount it.
func (s *stratum) publish(opt cvmfstest.Options, tree *cvmfstest.Tree) (*cvmfstest.Repository, *cvmfstest.Revision, source) {
	s.t.Helper()
	repo, err := cvmfstest.New(opt)
	if err != nil {
		s.t.Fatal(err)
	}
	revision, err := repo.Publish(s.t.Context(), tree)
	if err != nil {
		s.t.Fatal(err)
	}
	return repo, revision, s.serve(repo, opt.FQRN)
}

// serve serves a repository and returns how to mount it.
func (s *stratum) serve(repo *cvmfstest.Repository, fqrn string) source {
	s.t.Helper()
	s.Add(fqrn, repo.Store)
	pem, err := repo.Keys.MasterPEM()
	if err != nil {
		s.t.Fatal(err)
	}
	key := filepath.Join(shortDir(s.t), "key.pub")
	if err := os.WriteFile(key, pem, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return source{FQRN: fqrn, Servers: []string{s.URL()}, Keys: key, Layout: "none"}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestGoldenMountShowsTheRepository(t *testing.T) {
	s := newStratum(t)
	m := mount(t, setup{Sources: []source{s.Golden("alpha.golden.test")}})
	b, err := os.ReadFile(m.Raw("alpha.golden.test", "README.txt"))
	if err != nil || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
	if got := m.Status(); got.Mountpoint != m.Dir || len(got.Sources) != 1 || got.Sources[0].Error != "" {
		t.Errorf("status %+v", got)
	}
}
