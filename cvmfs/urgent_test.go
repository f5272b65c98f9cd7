package cvmfs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// isData tells the requests for what files hold.
func isData(name string) bool {
	return strings.Contains(name, "/data/") && !strings.HasSuffix(name, "C") && !strings.HasSuffix(name, "X")
}

// TestTheNewRevisionDoesNotWaitBehindData: manifest, whitelist and catalogs of a new
// revision come while readers wait for more data than may be fetched at a time, and
// the server sends none of it.
func TestTheNewRevisionDoesNotWaitBehindData(t *testing.T) {
	const files, atOnce = 40, 2
	w := newWorld(t, cvmfstest.Options{})
	tree := cvmfstest.NewTree()
	for i := range files {
		tree.File(fmt.Sprintf("data/f%d", i), fmt.Appendf(nil, "file %d", i), 0o644)
	}
	tree.Nested("sw")
	w.fill(tree)
	net, err := fetch.New(fetch.Config{Servers: []string{w.server.RepositoryURL(fqrn)}, MaxInFlight: atOnce})
	if err != nil {
		t.Fatal(err)
	}
	w.opts.Net = net
	r, err := cvmfs.Open(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	release := make(chan struct{})
	w.server.Inject(isData, 0, cvmfstest.Hang(release))
	done := make(chan error, files)
	for i := range files {
		e := at(t, r, fmt.Sprintf("data/f%d", i))
		go func() {
			_, err := r.ReadFile(t.Context(), e, 100)
			done <- err
		}()
	}
	const most = 4 * atOnce // small ones
	if err := w.server.Wait(t.Context(), func(s cvmfstest.Stats) bool { return s.InFlight == most }); err != nil {
		t.Fatal(err)
	}

	tree.File("sw/v1/tool", []byte("new"), 0o755)
	tree.Nested("sw/v1")
	if _, err := w.repo.Publish(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	head, moved, err := r.Candidate(ctx)
	if err != nil || !moved {
		t.Fatalf("%v, moved %v", err, moved)
	}
	r.Show(head)
	if _, err := r.Resolve(ctx, head.Root, "/sw/v1/tool"); err != nil {
		t.Error(err)
	}
	if n := w.server.Count(isData); n != most {
		t.Errorf("%d requests for data, want %d", n, most)
	}
	close(release)
	for range files {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
