package cvmfs_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
)

// TestStartWithoutASoundManifest: what is wrong with the servers does not keep a
// node from starting with what it has verified before, be it a hotel's network or
// an outage, and is told; whoever never saw anything starts with nothing.
func TestStartWithoutASoundManifest(t *testing.T) {
	for name, effect := range map[string]cvmfstest.Effect{
		"a portal": cvmfstest.Portal(), "an outage": cvmfstest.Status(503), "nothing there": cvmfstest.Status(404),
		"no connection": cvmfstest.Drop(0), "cut short": cvmfstest.Truncate(30), "a flipped bit": cvmfstest.FlipBit(-3),
	} {
		w := newWorld(t, cvmfstest.Options{})
		w.publish()
		w.mustOpen(1).Close()
		rule := w.server.Inject(cvmfstest.All, 0, effect)
		w.log.Reset()
		r, err := w.open()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		w.shows(r, 1)
		if !r.Head().Offline || !strings.Contains(w.log.String(), "last verified revision") {
			t.Errorf("%s: %+v, %s", name, r.Head(), w.log.String())
		}
		if err := w.look(r); err == nil || name == "a portal" && !strings.Contains(err.Error(), "captive portal") {
			t.Errorf("%s: a look at the manifest: %v", name, err)
		}
		stranger := *w
		stranger.opts.Memo, stranger.opts.Store = &memo{}, cache.NewMemory(1<<20)
		if _, err := stranger.open(); err == nil {
			t.Errorf("%s: started without anything", name)
		}
		rule.Remove()
		w.publish()
		if err := w.look(r); err != nil {
			t.Errorf("%s: when it is over: %v", name, err)
		}
		w.shows(r, 2)
	}
}

// TestStartWhileServersAreSilent: servers whose packets a firewall drops leave
// enough of the time that a start has.
func TestStartWhileServersAreSilent(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	w.mustOpen(1).Close()
	w.server.Inject(cvmfstest.All, 0, cvmfstest.Hang(nil))
	net, err := fetch.New(fetch.Config{Servers: []string{w.server.RepositoryURL(fqrn)}})
	if err != nil {
		t.Fatal(err)
	}
	w.opts.Net = net
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r, err := cvmfs.Open(ctx, w.opts)
	if err != nil {
		net.Close()
		t.Fatal(err)
	}
	defer r.Close()
	w.shows(r, 1)
	if !r.Head().Offline {
		t.Error("not offline")
	}
}

// TestTheRevisionOfATierIsRemembered: a revision that was seen in a shared tier
// is not given up when the tier is gone, or has an older one.
func TestTheRevisionOfATierIsRemembered(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	w.publish()
	shared, err := tier.Make(filepath.Join(t.TempDir(), "tier"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	filler := func(revision uint64) *cvmfs.Repository {
		other := *w
		other.opts.Memo, other.opts.Store = &memo{}, cache.NewMemory(1<<20)
		other.opts.Tiers, other.opts.Fill = []*tier.Tier{shared}, shared
		other.serve(revision)
		return other.mustOpen(revision)
	}
	first, second := filler(1), filler(2)
	w.opts.Tiers = []*tier.Tier{shared}
	down := w.server.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
	w.mustOpen(1).Close() // the second may have the catalog of its root and no more
	down.Remove()
	if err := second.Filled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Filled(t.Context()); err != nil { // it began earlier and ends later
		t.Fatal(err)
	}

	for _, servers := range []string{"behind", "gone"} {
		w.opts.Memo, w.opts.Store = &memo{}, cache.NewMemory(1<<20)
		w.opts.Tiers = nil
		w.serve(1)
		w.mustOpen(1).Close()
		w.opts.Tiers = []*tier.Tier{shared}
		if servers == "gone" {
			w.server.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
		}
		w.mustOpen(2).Close()
		w.opts.Tiers = nil
		w.mustOpen(2).Close()
	}
}

// TestARevisionOfATierIsMovedTo: a node that reaches no server moves to what its
// shared tier has, once that is whole.
func TestARevisionOfATierIsMovedTo(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	shared, err := tier.Make(filepath.Join(t.TempDir(), "tier"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	filler := *w
	filler.opts.Memo, filler.opts.Store = &memo{}, cache.NewMemory(1<<20)
	filler.opts.Tiers, filler.opts.Fill = []*tier.Tier{shared}, shared
	filler.mustOpen(1).Close()
	w.opts.Tiers = []*tier.Tier{shared}
	r := w.mustOpen(1)
	w.publish()
	second := filler.mustOpen(2)
	w.server.Inject(cvmfstest.All, 0, cvmfstest.Drop(0))
	if err := w.look(r); err == nil {
		t.Error("not said that no server can be reached")
	}
	w.shows(r, 1)
	if err := second.Filled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.look(r); err != nil {
		t.Error(err)
	}
	w.shows(r, 2)
	if !r.Head().Offline {
		t.Error("not offline")
	}
	if err := w.look(r); err == nil {
		t.Error("not said that no server can be reached")
	}
	w.shows(r, 2)
}

// TestTheCertificateIsRemembered: what was verified before holds without the object
// that certified it, which a cache may have lost and a server may deny.
func TestTheCertificateIsRemembered(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	w.mustOpen(1).Close()
	denied := 0
	for _, r := range w.server.Requests() {
		if strings.HasSuffix(r.Path, "X") {
			denied++
			w.server.Inject(cvmfstest.Path(r.Path[strings.Index(r.Path, "data/"):]), 0, cvmfstest.Status(404))
		}
	}
	if denied != 1 {
		t.Fatalf("%d certificates were fetched", denied)
	}
	w.opts.Store = cache.NewMemory(1 << 20)
	if h := w.mustOpen(1).Head(); !h.Offline {
		t.Errorf("%+v", h)
	}
}

// TestStartSaysWhatTheServerSaid: of a server that is busy for long at the
// certificate, a start that has no time left says so, and not just that time is over.
func TestStartSaysWhatTheServerSaid(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	w.server.Inject(isCertificate, 0, cvmfstest.Status(503), cvmfstest.Header("Retry-After", "3600"))
	net, err := fetch.New(fetch.Config{Servers: []string{w.server.RepositoryURL(fqrn)}, BackoffMax: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w.opts.Net = net
	ctx, cancel := context.WithTimeout(t.Context(), 1600*time.Millisecond) // it is asked twice within a second, then anew
	defer cancel()
	if _, err = cvmfs.Open(ctx, w.opts); err == nil || !strings.Contains(err.Error(), "status 503 Service Unavailable, Retry-After in 1h0m0s") {
		t.Errorf("it says %v", err)
	}
}

func isCertificate(path string) bool { return strings.HasSuffix(path, "X") }

// TestStartWithOneDownloadAtATime: the manifest is being fetched while its
// certificate is, which therefore must find room beside it.
func TestStartWithOneDownloadAtATime(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.publish()
	net, err := fetch.New(fetch.Config{Servers: []string{w.server.RepositoryURL(fqrn)}, MaxInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.opts.Net = net
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := cvmfs.Open(ctx, w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.shows(r, 1)
}
