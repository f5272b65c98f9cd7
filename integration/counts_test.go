package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

const countedFQRN = "counts.example.org"

// pattern is content that differs from block to block and from seed to seed.
func pattern(seed, size int) []byte {
	b := make([]byte, 0, size+32)
	for i := 0; len(b) < size; i++ {
		b = fmt.Appendf(b, "%d:%d\n", seed, i)
	}
	return b[:size]
}

// awaited counts the requests that somebody waits for. The kernel forgets when it
// likes, such as the status files that were read before.
func awaited(s status) (n uint64) {
	for op, count := range s.Fuse.Requests {
		if !strings.HasSuffix(op, "FORGET") {
			n += count
		}
	}
	return n
}

func reads(s status) uint64 { return s.Fuse.Requests["READ"] }

// hot checks that a pass over what the kernel knows makes at most so many of the
// requests that count counts. A kernel that reclaims idle pages on its own (DAMON)
// takes one of ours now and then, and asks for it again; it does not do so in each
// of five passes.
func (m *mounted) hot(most uint64, count func(status) uint64, pass func()) {
	m.t.Helper()
	m.Status() // the first look asks more than those after it
	for try := 1; ; try++ {
		first, before := count(m.Status()), count(m.Status()) // a look costs requests, too
		pass()
		after := m.Status()
		n := count(after) - before
		if n <= before-first+most {
			return
		}
		m.t.Logf("hot pass %d made %d requests, %d of them to look; all so far: %v", try, n, before-first, after.Fuse.Requests)
		if try == 5 {
			m.t.Fatalf("each hot pass makes more than %d requests", most)
		}
	}
}

// TestMountHotTreeSendsNothing reads 1,000 files twice. The second time the
// kernel has all.
func TestMountHotTreeSendsNothing(t *testing.T) {
	tree := cvmfstest.NewTree()
	const dirs, files = 20, 50
	size := 0
	for d := range dirs {
		if d%5 == 0 {
			tree.Nested(fmt.Sprintf("d%02d", d))
		}
		for f := range files {
			content := pattern(d*files+f, 10+f*97)
			size += len(content)
			tree.File(fmt.Sprintf("d%02d/f%02d", d, f), content, 0o644)
		}
	}
	s := newStratum(t)
	_, _, src := s.publish(cvmfstest.Options{FQRN: countedFQRN}, tree)
	m := mount(t, setup{Sources: []source{src}})
	readAll := func() string {
		t.Helper()
		r := run(t, exec.Command("find", m.Raw(countedFQRN), "-type", "f", "-exec", "cat", "{}", "+"))
		if r.Status != 0 || r.Stderr != "" || len(r.Stdout) < size {
			t.Fatalf("find: exit status %d, %d bytes, want at least %d; %s", r.Status, len(r.Stdout), size, r.Stderr)
		}
		return r.Stdout
	}
	first := readAll()
	m.hot(0, awaited, func() {
		if second := readAll(); first != second {
			t.Fatal("the second time other bytes are read")
		}
	})
}

// TestMountSequentialReads reads a file in order, twice. The first time takes
// READs as large as the read-ahead: what session says for root, the kernel's 128
// KiB for a user; the second takes none.
func TestMountSequentialReads(t *testing.T) {
	const size = 8 << 20
	tree := cvmfstest.NewTree()
	tree.File("big", pattern(3, size), 0o644)
	s := newStratum(t)
	_, _, src := s.publish(cvmfstest.Options{FQRN: countedFQRN}, tree)
	m := mount(t, setup{Sources: []source{src}})
	most := uint64(size / (128 << 10))
	if os.Geteuid() == 0 {
		most = size / session.MaxRead
	}
	most += 4 // the window grows first
	readAll := func() {
		t.Helper()
		b, err := os.ReadFile(m.Raw(countedFQRN, "big"))
		if len(b) != size || err != nil {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	first, before := reads(m.Status()), reads(m.Status())
	readAll()
	if n := reads(m.Status()) - before - (before - first); n > most {
		t.Errorf("%d READs, want at most %d", n, most)
	}
	m.hot(0, reads, readAll)
}

// TestMountColdObjectIsFetchedOnce lets many read one cold object at once.
func TestMountColdObjectIsFetchedOnce(t *testing.T) {
	content := pattern(1, 3<<20)
	tree := cvmfstest.NewTree()
	tree.File("big", content, 0o644)
	s := newStratum(t)
	_, rev, src := s.publish(cvmfstest.Options{FQRN: countedFQRN}, tree)
	m := mount(t, setup{Sources: []source{src}})
	object := cvmfstest.Path(rev.Objects("big")[0])
	release := make(chan struct{})
	s.Inject(object, 1, cvmfstest.Hang(release)) // all are there before it comes
	const readers = 64
	var started, ended sync.WaitGroup
	started.Add(readers)
	for range readers {
		ended.Go(func() {
			started.Done()
			if b, err := os.ReadFile(m.Raw(countedFQRN, "big")); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	started.Wait()
	s.inFlight(1)
	close(release)
	ended.Wait()
	if n := s.Count(object); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

// inFlight waits until the server holds n requests.
func (s *stratum) inFlight(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Wait(ctx, func(st cvmfstest.Stats) bool { return st.InFlight == n }); err != nil {
		s.t.Fatalf("%d requests under way, want %d", s.Stats().InFlight, n)
	}
}

// TestMountColdReadFetchesOneChunk reads 4 KiB amid a file of 40 chunks.
func TestMountColdReadFetchesOneChunk(t *testing.T) {
	const chunk, size = 1 << 20, 40 << 20
	content := pattern(2, size)
	tree := cvmfstest.NewTree()
	tree.File("dir/big", content, 0o644)
	s := newStratum(t)
	_, rev, src := s.publish(cvmfstest.Options{FQRN: countedFQRN, ChunkSize: chunk}, tree)
	m := mount(t, setup{Sources: []source{src}})
	objects := rev.Objects("dir/big")
	if len(objects) != size/chunk {
		t.Fatalf("%d chunks", len(objects))
	}
	if _, err := os.Stat(m.Raw(countedFQRN, "dir/big")); err != nil {
		t.Fatal(err)
	}
	s.Reset()
	f, err := os.Open(m.Raw(countedFQRN, "dir/big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const which = 23
	b := make([]byte, 4<<10)
	off := int64(which*chunk + chunk/2)
	if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b, content[off:off+int64(len(b))]) {
		t.Errorf("read: %v, or other bytes", err)
	}
	if st := s.Stats(); st.Requests != 1 || s.Count(cvmfstest.Path(objects[which])) != 1 {
		t.Errorf("%d requests: %+v", st.Requests, s.Requests())
	}
}

// TestMountHangingDownloadStopsNobody keeps downloads from ending and uses the
// rest of the mount meanwhile.
func TestMountHangingDownloadStopsNobody(t *testing.T) {
	const hanging = 12 // more than the daemon has readers to begin with
	tree := cvmfstest.NewTree()
	for i := range hanging {
		tree.File(fmt.Sprintf("slow%02d", i), pattern(i, 200<<10), 0o644)
	}
	tree.File("other/quick", pattern(99, 100<<10), 0o644)
	tree.Nested("other")
	s := newStratum(t)
	_, rev, src := s.publish(cvmfstest.Options{FQRN: countedFQRN}, tree)
	m := mount(t, setup{Sources: []source{src}})
	release := make(chan struct{})
	var ended sync.WaitGroup
	for i := range hanging {
		name := fmt.Sprintf("slow%02d", i)
		s.Inject(cvmfstest.Path(rev.Objects(name)[0]), 0, cvmfstest.Hang(release))
		ended.Go(func() {
			if b, err := os.ReadFile(m.Raw(countedFQRN, name)); err != nil || !bytes.Equal(b, pattern(i, 200<<10)) {
				t.Errorf("%s: %d bytes, %v", name, len(b), err)
			}
		})
	}
	defer ended.Wait()
	defer close(release)
	s.inFlight(hanging)
	answered := make(chan error, 1)
	go func() {
		entries, err := os.ReadDir(m.Raw(countedFQRN, "other"))
		if err == nil && len(entries) == 0 {
			err = fmt.Errorf("an empty listing")
		}
		if b, rerr := os.ReadFile(m.Raw(countedFQRN, "other/quick")); rerr != nil || !bytes.Equal(b, pattern(99, 100<<10)) {
			err = fmt.Errorf("quick: %d bytes, %v, %v", len(b), rerr, err)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("other reads wait for a download that hangs")
	}
	if n := s.Stats().InFlight; n != hanging {
		t.Errorf("%d downloads hang, want %d", n, hanging)
	}
}

// TestMountNeedsFewRequests counts what is fetched before mount returns.
func TestMountNeedsFewRequests(t *testing.T) {
	for _, g := range goldenRevisions {
		s := newStratum(t)
		src := s.Golden(g.fqrn)
		s.Reset()
		mount(t, setup{Sources: []source{src}})
		if n := s.Stats().Requests; n < 1 || n > 4 {
			t.Errorf("%s: %d requests: %+v", g.fqrn, n, s.Requests())
		}
	}
}

// TestLaunchAgainFetchesNothing runs tools twice.
func TestLaunchAgainFetchesNothing(t *testing.T) {
	needApptainer(t)
	s := newStratum(t)
	src := s.Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	for _, args := range [][]string{{"dcm2niix", "-v"}, {"pytool"}} {
		first := m.Run(args[0], args[1:]...)
		if first.Stdout == "" {
			t.Errorf("%v: exit status %d, %s", args, first.Status, first.Stderr)
		}
		before := s.Stats().Requests
		second := m.Run(args[0], args[1:]...)
		if second.Stdout != first.Stdout || second.Status != first.Status {
			t.Errorf("%v: the second time exit status %d, %q", args, second.Status, second.Stdout)
		}
		if n := s.Stats().Requests - before; n != 0 {
			t.Errorf("%v: the second start sent %d requests", args, n)
		}
	}
}
