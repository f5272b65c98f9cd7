package tree

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// hanging has one image, slow/1_20240101, whose catalog does not come before
// release is closed.
func hanging(t *testing.T) (s *site, release chan struct{}) {
	t.Helper()
	s = newSite(t, func(tree *cvmfstest.Tree) {
		addContainer(tree, "fsl_6_20240101", "bet\nfsl\n")
		addContainer(tree, "slow_1_20240101", "bet\nslow\nonlyslow\nfsl\n")
		addContainer(tree, "slow_2_20240101", "slow\n")
	})
	release = make(chan struct{})
	object := s.rev.Objects("containers/slow_1_20240101")[0]
	s.server.Inject(cvmfstest.Path(object), 0, cvmfstest.Hang(release))
	return s, release
}

// known waits until n images were read.
func known(t *testing.T, tree *Tree, left int) {
	t.Helper()
	for {
		_, _, step := tree.index.Load().snapshot()
		if tree.Progress().Pending == left {
			return
		}
		select {
		case <-step:
		case <-t.Context().Done():
			t.Fatal("the index does not move")
		}
	}
}

func TestLookupsDoNotWaitForWhatCannotMatter(t *testing.T) {
	s, release := hanging(t)
	defer close(release)
	tree := s.open()
	tree.index.Load().patience = patience{time.Hour, time.Hour} // whoever waits does not return
	known(t, tree, 1)
	if c := find(t, tree, "bin/fsl"); c.Valid == 0 {
		t.Error("the app that has the command's own name owns it, whatever the others have; it may be believed")
	}
	for _, path := range []string{
		"apps/fsl/default", "apps/fsl/6", "apps/fsl/6_20240101/bin/bet", "apps/slow/2_20240101/bin/slow", "apps/slow/2_20240101/rootfs", "apps/slow/2_20240101/README.md",
		".neurodeskfs/status.json", ".neurodeskfs/index.json", "cvmfs/" + fqrn + "/containers/fsl_6_20240101/commands.txt",
	} {
		find(t, tree, path)
	}
	mustBeAbsent(t, tree, "bin/python")
	mustBeAbsent(t, tree, "bin/.DS_Store")
	mustBeAbsent(t, tree, "apps/none")
	if got := list(t, tree, "apps"); !slices.Equal(got, []string{"fsl", "slow"}) {
		t.Errorf("apps: %q", got)
	}
}

func TestLookupsWaitBounded(t *testing.T) {
	s, release := hanging(t)
	tree := s.open()
	known(t, tree, 1)
	tree.index.Load().patience = patience{time.Millisecond, 20 * time.Millisecond}
	c := find(t, tree, "bin/bet") // slow might own it
	if cmd, err := launch.ParseCommand([]byte(read(t, tree, "bin/bet"))); err != nil || cmd.App != "fsl" || c.Valid != 0 {
		t.Errorf("bet is %s's, may be believed for %s, %v", cmd.App, c.Valid, err)
	}
	if c := find(t, tree, "bin/slow"); c.Valid != 0 { // the other version may be newer
		t.Errorf("slow may be believed for %s", c.Valid)
	}
	if c := mustBeAbsent(t, tree, "bin/onlyslow"); c.Valid != 0 {
		t.Errorf("an absence that may end is believed for %s", c.Valid)
	}
	tree.index.Load().patience = patience{time.Hour, 20 * time.Millisecond} // the listing waits once, its entries do not
	if got := list(t, tree, "bin"); !slices.Equal(got, []string{"bet", "fsl", "slow"}) {
		t.Errorf("bin: %q", got)
	}
	tree.index.Load().patience = usualPatience
	close(release)
	complete(t, tree)
	if c := find(t, tree, "bin/onlyslow"); c.Valid == 0 {
		t.Error("with a complete index, onlyslow may not be believed")
	}
	if told := <-s.changes; told[0].Entry != find(t, tree, "bin").Entry {
		t.Errorf("bin's listing was not renewed: %+v", told)
	}
}

func TestAWaitingLookupGoesOn(t *testing.T) {
	s, release := hanging(t)
	tree := s.open()
	tree.index.Load().patience = patience{time.Hour, time.Hour}
	done := make(chan error)
	for _, path := range []string{"bin/onlyslow", "bin/bet", "apps/slow/1_20240101/README.md"} {
		go func() {
			_, err := walk(t.Context(), tree, path)
			done <- err
		}()
	}
	known(t, tree, 1)
	select {
	case err := <-done:
		t.Errorf("a look-up that must wait did not: %v", err)
	default:
	}
	close(release)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAnInterruptedLookupEnds(t *testing.T) {
	s, release := hanging(t)
	defer close(release)
	tree := s.open()
	tree.index.Load().patience = patience{time.Hour, time.Hour}
	known(t, tree, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, path := range []string{"bin/onlyslow", "bin/bet", "apps/slow/1_20240101", "apps/slow/default", ".neurodeskfs/images/" + strings.Repeat("0", 40)} {
		if _, err := walk(ctx, tree, path); !errors.Is(err, context.Canceled) && !strings.Contains(path, "images") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestADamagedImageHidesNoOther: one image's commands.txt is garbled on every
// server. Nothing waits for it once it has failed, and the app's other versions
// are there.
func TestADamagedImageHidesNoOther(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		addContainer(tree, "fsl_6_20240101", "bet\n")
		addContainer(tree, "fsl_7_20240101", "bet\nnewbet\n")
		addContainer(tree, "file_1_20240101", "filecmd\n")
		tree.Remove("containers/file_1_20240101/file_1_20240101.simg")
		tree.File("containers/file_1_20240101/file_1_20240101.simg", []byte("SIF"), 0o755)
	})
	rule := s.server.Inject(cvmfstest.Path(s.rev.Objects("containers/fsl_7_20240101/commands.txt")[0]), 0, cvmfstest.FlipBit(3))
	tree := s.open()
	<-tree.index.Load().tried
	tree.index.Load().patience = patience{time.Hour, time.Hour}
	if c := find(t, tree, "bin/bet"); c.Valid != 0 {
		t.Errorf("the version that could not be read may be newer, yet bet is believed for %s", c.Valid)
	}
	mustBeAbsent(t, tree, "bin/newbet")
	if got := strings.Join(list(t, tree, "bin"), " "); got != "bet" {
		t.Errorf("bin: %s", got)
	}
	if got := strings.Join(list(t, tree, "apps/fsl"), " "); got != "6 6_20240101 default" {
		t.Errorf("apps/fsl: %s", got)
	}
	if c := find(t, tree, "apps/fsl/default"); read(t, tree, "apps/fsl/default") != "6" || c.Valid != 0 {
		t.Errorf("default may be believed for %s", c.Valid)
	}
	if _, err := walk(t.Context(), tree, "apps/fsl/7_20240101"); err == nil || errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("the damaged version: %v", err)
	}
	rule.Remove()
	find(t, tree, "apps/fsl/7_20240101/bin/newbet") // asked for, it is tried again
	if got := strings.Join(list(t, tree, "apps/fsl"), " "); got != "6 6_20240101 7 7_20240101 default" {
		t.Errorf("apps/fsl: %s", got)
	}
	if got := tree.index.Load().takePartial(); !slices.Equal(got, []string{"fsl"}) {
		t.Errorf("listings to renew: %q", got)
	}
}

// The files of a busySite, and how many of them are fetched at a time: the fixture
// lets 64 large ones come.
const busyFiles, busyAtOnce = 400, 256

// busySite has one image, and more files than may be fetched at a time.
func busySite(t *testing.T) *site {
	return newSite(t, func(tree *cvmfstest.Tree) {
		addContainer(tree, "fsl_6_20240101", "bet\n")
		for i := range busyFiles {
			tree.File(fmt.Sprintf("busy/%d", i), fmt.Appendf(nil, "busy %d", i), 0o644)
		}
	})
}

// beBusy has readers wait for all the files, of which the server sends none before
// end is called, which expects that no more were asked for than fit.
func (s *site) beBusy() (end func()) {
	s.t.Helper()
	busy := map[string]bool{}
	for i := range busyFiles {
		busy[s.rev.Objects(fmt.Sprintf("busy/%d", i))[0]] = true
	}
	isBusy := func(path string) bool {
		_, object, ok := strings.Cut(path, "/data/")
		return ok && busy["data/"+object]
	}
	release := make(chan struct{})
	s.server.Inject(isBusy, 0, cvmfstest.Hang(release))
	var reading sync.WaitGroup
	for i := range busyFiles {
		e, err := s.client.Resolve(s.t.Context(), s.client.Head().Root, fmt.Sprintf("/busy/%d", i))
		if err != nil {
			s.t.Fatal(err)
		}
		reading.Go(func() {
			if _, err := s.client.ReadFile(s.t.Context(), e, 100); err != nil {
				s.t.Error(err)
			}
		})
	}
	if err := s.server.Wait(s.t.Context(), func(s cvmfstest.Stats) bool { return s.InFlight == busyAtOnce }); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if n := s.server.Count(isBusy); n != busyAtOnce {
			s.t.Errorf("%d requests of the readers, want %d", n, busyAtOnce)
		}
		close(release)
		reading.Wait()
	}
}

// TestARefreshIsNotBehindReaders: a new image is shown though readers wait for more
// data than may be fetched at a time.
func TestARefreshIsNotBehindReaders(t *testing.T) {
	s := busySite(t)
	tree := s.open()
	complete(t, tree)
	defer s.beBusy()()
	addContainer(s.content, "fsl_7_20240101", "bet\nnewbet\n")
	s.publish()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := tree.Refresh(ctx); err != nil {
		t.Error(err)
		return
	}
	find(t, tree, "bin/newbet")
}

// TestATakeOverIsNotBehindReaders: nothing moves before its index is complete.
func TestATakeOverIsNotBehindReaders(t *testing.T) {
	s := busySite(t)
	s.begin = make(chan struct{})
	tree := s.open()
	defer s.beBusy()()
	close(s.begin)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := tree.Reconcile(ctx); err != nil {
		t.Error(err)
	}
}
