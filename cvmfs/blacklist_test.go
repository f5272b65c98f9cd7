package cvmfs_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

const fqrn = "head.example.org"

// memo is a cvmfs.Memo in memory.
type memo struct{ sync.Map }

func (m *memo) Get(bucket, key string) ([]byte, bool) {
	v, ok := m.Load(bucket + "/" + key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (m *memo) Put(bucket, key string, value []byte) {
	m.Store(bucket+"/"+key, bytes.Clone(value))
}

// world is a repository, its server, and what a client keeps.
type world struct {
	t      *testing.T
	repo   *cvmfstest.Repository
	server *cvmfstest.Server
	opts   cvmfs.Options
	log    bytes.Buffer
}

var sharedKeys = sync.OnceValues(cvmfstest.NewKeys)

func newWorld(t *testing.T, opt cvmfstest.Options) *world {
	t.Helper()
	w := &world{t: t}
	keys, err := sharedKeys()
	if err != nil {
		t.Fatal(err)
	}
	opt.FQRN, opt.Keys = fqrn, keys
	if w.repo, err = cvmfstest.New(opt); err != nil {
		t.Fatal(err)
	}
	if w.server, err = cvmfstest.NewServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.server.Close() })
	w.server.Add(fqrn, w.repo.Store)
	master, err := keys.MasterPEM()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := trust.ParseKeys(master)
	if err != nil {
		t.Fatal(err)
	}
	w.opts = cvmfs.Options{
		FQRN: fqrn, Keys: parsed, Store: cache.NewMemory(1 << 20), Memo: &memo{},
		BlacklistFile: filepath.Join(t.TempDir(), "blacklist"), Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	return w
}

// publish makes the next revision, whose file "number" says which it is.
func (w *world) publish(tags ...string) *cvmfstest.Revision {
	w.t.Helper()
	tree := cvmfstest.NewTree()
	tree.File("time", []byte(time.Now().String()), 0o644)
	r, err := w.repo.Publish(w.t.Context(), tree, tags...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) serve(revision uint64) {
	w.t.Helper()
	if err := w.repo.Serve(revision); err != nil {
		w.t.Fatal(err)
	}
}

// forbid writes the blacklist.
func (w *world) forbid(lines ...string) {
	w.t.Helper()
	if err := os.WriteFile(w.opts.BlacklistFile, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() (*cvmfs.Repository, error) {
	w.t.Helper()
	net, err := fetch.New(fetch.Config{Servers: []string{w.server.RepositoryURL(fqrn)}, BackoffInit: time.Millisecond, BackoffMax: time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	w.opts.Net = net
	r, err := cvmfs.Open(w.t.Context(), w.opts)
	if err != nil {
		net.Close()
		return nil, err
	}
	w.t.Cleanup(r.Close)
	return r, nil
}

func (w *world) mustOpen(revision uint64) *cvmfs.Repository {
	w.t.Helper()
	r, err := w.open()
	if err != nil {
		w.t.Fatal(err)
	}
	w.shows(r, revision)
	return r
}

func (w *world) shows(r *cvmfs.Repository, revision uint64) {
	w.t.Helper()
	if got := r.Head().Revision; got != revision {
		w.t.Errorf("shows revision %d, want %d", got, revision)
	}
}

// look looks at the manifest and moves.
func (w *world) look(r *cvmfs.Repository) error {
	head, moved, err := r.Candidate(w.t.Context())
	if moved {
		r.Show(head)
	}
	return err
}

// fingerprint is a blacklist's line for the repository's certificate.
func (w *world) fingerprint() string {
	block, _ := pem.Decode(w.repo.Certificate)
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		w.t.Fatal(err)
	}
	return trust.FormatFingerprint(hash.Sum(hash.SHA1, block.Bytes))
}

func TestBlacklistRefusesToOpen(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish("one")
	w.mustOpen(1) // the file does not exist
	if !strings.Contains(w.log.String(), "nothing is forbidden") {
		t.Errorf("no word of the missing blacklist: %s", w.log.String())
	}
	w.log.Reset()
	w.opts.BlacklistMayLack = true
	w.mustOpen(1)
	if strings.Contains(w.log.String(), "blacklist") {
		t.Errorf("a word of the blacklist that may be missing: %s", w.log.String())
	}
	for name, line := range map[string]string{"revision": "<" + fqrn + " 2", "certificate": w.fingerprint()} {
		w.forbid(line)
		for _, pin := range []string{"", "one"} {
			w.opts.Tag = pin
			if _, err := w.open(); !errors.Is(err, cvmfs.ErrBlacklisted) || !strings.Contains(err.Error(), "this site's blacklist") {
				t.Errorf("%s, tag %q: %v", name, pin, err)
			}
		}
		w.opts.Tag = ""
	}
	w.forbid("<" + fqrn + " 1")
	w.mustOpen(1)
	w.forbid("what is this?")
	before := w.server.Stats().Requests
	if _, err := w.open(); !errors.Is(err, trust.ErrBlacklist) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a list that cannot be read: %v", err)
	}
	if n := w.server.Stats().Requests; n != before {
		t.Errorf("%d requests were made all the same", n-before)
	}
}

func TestBlacklistForbidsPinByHash(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.opts.RootHash = w.publish().Root.String()
	r := w.mustOpen(1)
	w.forbid("<" + fqrn + " 2")
	if err := w.look(r); !errors.Is(err, cvmfs.ErrBlacklisted) || r.Head().Forbidden == "" {
		t.Errorf("pinned and forbidden: %v, %+v", err, r.Head())
	}
	if _, err := w.open(); !errors.Is(err, cvmfs.ErrBlacklisted) {
		t.Errorf("opened: %v", err)
	}
	w.forbid()
	if err := w.look(r); err != nil || r.Head().Forbidden != "" {
		t.Errorf("allowed again: %v, %+v", err, r.Head())
	}
}

func TestBlacklistWhileOpen(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	r := w.mustOpen(1)
	for _, line := range []string{"<" + fqrn + " 2", w.fingerprint()} {
		w.forbid(line)
		if err := w.look(r); !errors.Is(err, cvmfs.ErrBlacklisted) {
			t.Errorf("%s: %v", line, err)
		}
		w.shows(r, 1) // and serves on
		if h := r.Head(); h.Forbidden == "" || h.Offline {
			t.Errorf("%s: head %+v", line, h)
		}
		if !strings.Contains(w.log.String(), "level=ERROR") {
			t.Errorf("%s: logged %s", line, w.log.String())
		}
		w.log.Reset()
	}
	w.forbid("<" + fqrn + " 2")
	w.publish()
	if err := w.look(r); err != nil {
		t.Error(err)
	}
	w.shows(r, 2)
	if h := r.Head(); h.Forbidden != "" {
		t.Errorf("head %+v", h)
	}
	// A server that lags behind, and has only what is forbidden, moves nobody.
	w.serve(1)
	if err := w.look(r); err != nil {
		t.Error(err)
	}
	w.shows(r, 2)
	w.mustOpen(2)
}

func TestOlderRevisionIsNotTaken(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{Expires: time.Now().Add(time.Hour)})
	for range 3 {
		w.publish()
	}
	r := w.mustOpen(3)
	w.serve(1)
	if err := w.look(r); err != nil {
		t.Error(err)
	}
	w.shows(r, 3)
	w.mustOpen(3)
	// Later the whitelist that was kept has expired. That must not open the
	// way back.
	later := time.Now().Add(2 * time.Hour)
	if err := w.repo.SignWhitelist(later.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.opts.Now = func() time.Time { return later }
	w.mustOpen(3)
}

// TestUnloadableRevisionIsNotKept: what cannot be loaded is not what a start
// without network goes on with.
func TestUnloadableRevisionIsNotKept(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	r := w.mustOpen(1)
	second := w.publish()
	lost := w.server.Inject(cvmfstest.Path(second.Objects("")[0]), 0, cvmfstest.Status(404))
	if err := w.look(r); err == nil {
		t.Error("no error for a revision without its root catalog")
	}
	w.shows(r, 1)
	lost.Remove()
	w.server.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
	offline := w.mustOpen(1)
	if !offline.Head().Offline {
		t.Error("not offline")
	}
}

func TestPinByDate(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := newWorld(t, cvmfstest.Options{Now: func() time.Time { return now }, Expires: time.Now().AddDate(5, 0, 0)})
	for i := range 3 {
		w.publish(fmt.Sprintf("tag%d", i+1))
		now = now.AddDate(0, 1, 0)
	}
	for date, want := range map[string]uint64{"2026-01-01T00:00:00Z": 1, "2026-01-31T23:59:59Z": 1, "2026-02-01T01:00:00+01:00": 2, "2030-01-01T00:00:00Z": 3} {
		at, err := time.Parse(time.RFC3339, date)
		if err != nil {
			t.Fatal(err)
		}
		w.opts.Date = at
		r := w.mustOpen(want)
		if h := r.Head(); !h.Pinned || h.Tag != fmt.Sprintf("tag%d", want) {
			t.Errorf("%s: head %+v", date, h)
		}
	}
	w.opts.Date = time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC)
	if _, err := w.open(); err == nil || !strings.Contains(err.Error(), "not after 2025-12-31T23:59:59Z") {
		t.Errorf("a date before the first tag: %v", err)
	}
}
