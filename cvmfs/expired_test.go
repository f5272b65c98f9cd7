package cvmfs_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

// TestAnExpiredWhitelistCanBeAllowed: nothing but the date is waived, it is told,
// and a whitelist in date takes it back. The same without any server.
func TestAnExpiredWhitelistCanBeAllowed(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.fill(contents())
	w.opts.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	if _, err := w.open(); !errors.Is(err, trust.ErrExpired) {
		t.Fatalf("taken: %v", err)
	}
	w.opts.AllowExpired = true
	w.opts.Store, w.opts.Memo = cache.NewMemory(1<<20), &memo{}
	r := w.mustOpen(1)
	if h := r.Head(); h.Expired.IsZero() || h.Expired.After(w.opts.Now()) {
		t.Errorf("%+v", h)
	}
	if !strings.Contains(w.log.String(), "--allow-expired-whitelist lets pass") {
		t.Error(w.log.String())
	}
	for name, effect := range map[string]cvmfstest.Effect{"its signature": cvmfstest.FlipBit(-3), "its text": cvmfstest.FlipBit(3)} {
		bad := *w
		bad.opts.Store, bad.opts.Memo = cache.NewMemory(1<<20), &memo{}
		rule := w.server.Inject(cvmfstest.Path(".cvmfswhitelist"), 0, effect)
		if _, err := bad.open(); err == nil {
			t.Errorf("%s was altered, and it was taken", name)
		}
		rule.Remove()
	}
	down := w.server.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
	if h := w.mustOpen(1).Head(); h.Expired.IsZero() || !h.Offline {
		t.Errorf("offline: %+v", h)
	}
	strict := *w
	strict.opts.AllowExpired = false
	if _, err := strict.open(); !errors.Is(err, trust.ErrExpired) || !errors.Is(err, fetch.ErrOffline) {
		t.Errorf("offline, not allowed: %v", err)
	}
	down.Remove()
	if err := w.repo.SignWhitelist(time.Now().AddDate(2, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if h := w.mustOpen(1).Head(); !h.Expired.IsZero() || h.Offline {
		t.Errorf("in date again: %+v", h)
	}
}
