package cvmfs_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

func TestPins(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	var roots []string
	for i := range 3 {
		tree := cvmfstest.NewTree()
		tree.File("n", fmt.Append(nil, i+1), 0o644)
		rev, err := w.repo.Publish(t.Context(), tree, fmt.Sprint("v", i+1))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, rev.Root.String())
	}
	for want := range 3 {
		for name, set := range map[string]func(*cvmfs.Options){
			"tag":       func(o *cvmfs.Options) { o.Tag = fmt.Sprint("v", want+1) },
			"revision":  func(o *cvmfs.Options) { o.Revision = uint64(want + 1) },
			"root hash": func(o *cvmfs.Options) { o.RootHash = roots[want] },
		} {
			pinned := *w
			set(&pinned.opts)
			r, err := pinned.open()
			if err != nil {
				t.Errorf("%s %d: %v", name, want+1, err)
				continue
			}
			if b, err := r.ReadFile(t.Context(), at(t, r, "n"), 9); string(b) != fmt.Sprint(want+1) || err != nil || !r.Head().Pinned {
				t.Errorf("%s %d: %q, %v, %+v", name, want+1, b, err, r.Head())
			}
		}
	}
	for want, set := range map[string]func(*cvmfs.Options){
		`no tag "v9"`:                 func(o *cvmfs.Options) { o.Tag = "v9" },
		"only tagged revisions":       func(o *cvmfs.Options) { o.Revision = 9 },
		"root_hash of " + fqrn:        func(o *cvmfs.Options) { o.RootHash = "xyz" },
		"root catalog: cvmfs: object": func(o *cvmfs.Options) { o.RootHash = strings.Repeat("0", 40) },
	} {
		pinned := *w
		set(&pinned.opts)
		if _, err := pinned.open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// TestAGarbledManifestOnOneOfTwoHosts is overcome by the other.
func TestAGarbledManifestOnOneOfTwoHosts(t *testing.T) {
	for name, effect := range map[string]cvmfstest.Effect{
		"a bit": cvmfstest.FlipBit(5), "the signature": cvmfstest.FlipBit(-3), "truncated": cvmfstest.Truncate(50), "empty": cvmfstest.Truncate(0), "a portal": cvmfstest.Portal(), "404": cvmfstest.Status(404),
	} {
		for _, file := range []string{".cvmfspublished", ".cvmfswhitelist"} {
			w := newWorld(t, cvmfstest.Options{})
			w.fill(contents())
			bad, err := cvmfstest.NewServer()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { bad.Close() })
			bad.Add(fqrn, w.repo.Store)
			bad.Inject(cvmfstest.Path(file), 0, effect)
			net, err := fetch.New(fetch.Config{Servers: []string{bad.RepositoryURL(fqrn), w.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			o := w.opts
			o.Net = net
			r, err := cvmfs.Open(t.Context(), o)
			if err != nil {
				t.Errorf("%s, %s: %v", file, name, err)
				continue
			}
			w.shows(r, 1)
			r.Close()
			w.server.Add(fqrn, os.DirFS(t.TempDir())) // now no host has a good one
			o.Memo, o.Store = &memo{}, cache.NewMemory(1<<20)
			if o.Net, err = fetch.New(fetch.Config{Servers: []string{bad.RepositoryURL(fqrn), w.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			if r, err := cvmfs.Open(t.Context(), o); err == nil {
				t.Errorf("%s, %s: it was taken", file, name)
				r.Close()
			} else {
				o.Net.Close()
			}
		}
	}
}
