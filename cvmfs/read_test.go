package cvmfs_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// bytesOf is content in which each byte tells where it stands.
func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

const chunk = 4096

// contents is a tree in four catalogs.
func contents() *cvmfstest.Tree {
	t := cvmfstest.NewTree()
	t.File("empty", nil, 0o600)
	t.File("small", []byte("small\n"), 0o644)
	t.File("exact", bytesOf(chunk), 0o644)
	t.File("big", bytesOf(3*chunk+7), 0o755).Xattrs = map[string]string{"user.x": "y"}
	t.Symlink("link", "$(WHERE:-small)/x")
	t.Special("fifo", unix.S_IFIFO|0o644, 0)
	t.File("secret", []byte("hidden"), 0o644).Hidden = true
	t.Nested("sw")
	t.File("sw/one", bytesOf(9), 0o644)
	t.HardLink("sw/two", "sw/one")
	t.Nested("sw/v1")
	t.File("sw/v1/dir/tool", bytesOf(2*chunk), 0o755)
	t.Nested("sw/v1/dir/deep")
	t.File("sw/v1/dir/deep/a/b/c", []byte("bottom"), 0o644)
	for i := range 300 {
		t.File(fmt.Sprintf("many/%03d", i), nil, 0o644)
	}
	return t
}

// fill publishes a tree; the store is new.
func (w *world) fill(tree *cvmfstest.Tree) *cvmfstest.Revision {
	w.t.Helper()
	r, err := w.repo.Publish(w.t.Context(), tree)
	if err != nil {
		w.t.Fatal(err)
	}
	w.opts.Store = cache.NewMemory(64 << 20)
	return r
}

// at finds a path by name after name, and by Resolve, which must agree.
func at(t *testing.T, r *cvmfs.Repository, path string) cvmfs.Entry {
	t.Helper()
	root, err := r.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	full := ""
	if path != "" {
		names, full = strings.Split(path, "/"), "/"+path
	}
	walked, err := r.Walk(t.Context(), root.Ref, names...)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	resolved, err := r.Resolve(t.Context(), r.Head().Root, full)
	if err != nil || resolved.Ref != walked.Ref {
		t.Errorf("%s: walked to %+v, resolved to %+v, %v", path, walked.Ref, resolved.Ref, err)
	}
	if back, err := r.Path(t.Context(), walked.Ref); back != full || err != nil {
		t.Errorf("%s: its path is %q, %v", path, back, err)
	}
	if again, err := r.Stat(t.Context(), walked.Ref); err != nil || again.Name != walked.Name || again.Size != walked.Size {
		t.Errorf("%s: stat by number: %+v, %v", path, again, err)
	}
	return walked
}

func TestEveryStorageReadsTheSame(t *testing.T) {
	for _, algorithm := range []hash.Algorithm{hash.SHA1, hash.RMD160, hash.SHAKE128} {
		for _, o := range []cvmfstest.Options{{}, {Plain: true}, {ChunkSize: chunk}, {ChunkSize: chunk, Plain: true}, {ChunkSize: chunk, Bulk: true}, {AltPath: true, Level: 9}} {
			t.Run(fmt.Sprintf("%v plain=%v chunk=%d bulk=%v alt=%v", algorithm, o.Plain, o.ChunkSize, o.Bulk, o.AltPath), func(t *testing.T) {
				o.Algorithm = algorithm
				w := newWorld(t, o)
				w.fill(contents())
				checkContents(t, w, w.mustOpen(1))
				alt := w.server.Count(cvmfstest.Path(".cvmfsalt-"))
				if (alt == 1) != o.AltPath {
					t.Errorf("%d requests outside data/", alt)
				}
			})
		}
	}
}

func checkContents(t *testing.T, w *world, r *cvmfs.Repository) {
	t.Helper()
	for path, want := range map[string][]byte{
		"empty": nil, "small": []byte("small\n"), "exact": bytesOf(chunk), "big": bytesOf(3*chunk + 7), "secret": []byte("hidden"),
		"sw/one": bytesOf(9), "sw/two": bytesOf(9), "sw/v1/dir/tool": bytesOf(2 * chunk), "sw/v1/dir/deep/a/b/c": []byte("bottom"), "many/299": nil,
	} {
		e := at(t, r, path)
		if got, err := r.ReadFile(t.Context(), e, 1<<20); err != nil || !bytes.Equal(got, want) || e.Size != int64(len(want)) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	big := at(t, r, "big")
	content := bytesOf(3*chunk + 7)
	for _, off := range []int64{0, 1, chunk - 1, chunk, chunk + 1, 2*chunk - 3, 3 * chunk, 3*chunk + 6, 3*chunk + 7, 3*chunk + 8, 1 << 62} {
		for _, n := range []int{0, 1, 2, chunk, chunk + 1, 4 * chunk} {
			p := make([]byte, n)
			want := content[min(off, int64(len(content))):min(off+int64(n), int64(len(content)), max(off, 0)+int64(n))]
			if got, err := r.ReadAt(t.Context(), big.Ref, p, off); err != nil || !bytes.Equal(p[:got], want) {
				t.Errorf("%d bytes at %d: %d, %v; want %d", n, off, got, err, len(want))
			}
		}
	}
	if x, err := r.Xattrs(t.Context(), big.Ref); err != nil || len(x) != 1 || x[0].Name != "user.x" || string(x[0].Value) != "y" {
		t.Errorf("xattrs %+v, %v", x, err)
	}
	if n := w.server.Count(cvmfstest.Path("/data/")); n > 40 {
		t.Errorf("%d requests for some 15 objects", n)
	}
}

func TestWrongPathsAndKinds(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.opts.Getenv = func(name string) (string, bool) { return "value of " + name, name == "WHERE" }
	w.fill(contents())
	r := w.mustOpen(1)
	ctx := t.Context()
	root, small, link := at(t, r, ""), at(t, r, "small"), at(t, r, "link")
	for _, path := range []string{"/none", "/small/x", "/sw/none", "/sw/v1/dir/deep/a/none", "/sw/v1x", "/swx/v1"} {
		if _, err := r.Resolve(ctx, r.Head().Root, path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, name := range []string{"none", "", ".", "..", "sw/one", "sw/v1", "\x00", strings.Repeat("n", 5000)} {
		if _, err := r.Lookup(ctx, root.Ref, name); !errors.Is(err, iofs.ErrNotExist) && !strings.Contains(name, "/") || err == nil {
			t.Errorf("look-up of %.20q: %v", name, err)
		}
	}
	if _, err := r.Lookup(ctx, small.Ref, "x"); !errors.Is(err, cvmfs.ErrNotDir) {
		t.Errorf("look-up below a file: %v", err)
	}
	if err := r.ReadDir(ctx, small.Ref, 0, func(cvmfs.Entry) bool { return true }); !errors.Is(err, cvmfs.ErrNotDir) {
		t.Errorf("listing of a file: %v", err)
	}
	if target, err := r.Readlink(ctx, link.Ref); target != "value of WHERE/x" || err != nil {
		t.Errorf("link to %q, %v", target, err)
	}
	if _, err := r.Readlink(ctx, small.Ref); !errors.Is(err, cvmfs.ErrNotLink) {
		t.Errorf("readlink of a file: %v", err)
	}
	for _, path := range []string{"", "link", "fifo"} {
		if _, err := r.ReadAt(ctx, at(t, r, path).Ref, make([]byte, 9), 0); err == nil {
			t.Errorf("%q is read as a file", path)
		}
	}
	if _, err := r.Stat(ctx, cvmfs.Ref{CatalogRef: root.Ref.CatalogRef, Row: 1 << 39}); err == nil {
		t.Error("a row that is not there has an entry")
	}
	if _, err := r.ReadFile(ctx, at(t, r, "big"), 10); err == nil {
		t.Error("a file above the limit is read")
	}
	if n, err := r.ReadAt(ctx, small.Ref, make([]byte, 9), -1); n != 0 || err != nil {
		t.Errorf("read before the start: %d, %v", n, err)
	}
}

func TestListings(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{})
	w.fill(contents())
	r := w.mustOpen(1)
	list := func(dir string, after int64, limit int) (names []string, last int64) {
		err := r.ReadDir(t.Context(), at(t, r, dir).Ref, after, func(e cvmfs.Entry) bool {
			if e.Ref.Row <= after {
				t.Errorf("%s: row %d after %d", dir, e.Ref.Row, after)
			}
			names, last = append(names, e.Name), e.Ref.Row
			return len(names) < limit
		})
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		return names, last
	}
	for dir, want := range map[string]string{
		"": "big empty exact fifo link many small sw", "sw": ".cvmfscatalog one two v1", "sw/v1": ".cvmfscatalog dir", "sw/v1/dir/deep": ".cvmfscatalog a",
	} {
		got, _ := list(dir, 0, 1000)
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %s", dir, got, want)
		}
	}
	var all []string
	for after := int64(0); ; {
		names, last := list("many", after, 7)
		if len(names) == 0 {
			break
		}
		all, after = append(all, names...), last
	}
	slices.Sort(all)
	if len(all) != 300 || len(slices.Compact(all)) != 300 {
		t.Errorf("%d entries by pages", len(all))
	}
	one, two, small := at(t, r, "sw/one"), at(t, r, "sw/two"), at(t, r, "small")
	a, err1 := r.LinkLeader(t.Context(), one)
	b, err2 := r.LinkLeader(t.Context(), two)
	c, err3 := r.LinkLeader(t.Context(), small)
	if errors.Join(err1, err2, err3) != nil || a != b || c != small.Ref.Row || one.Nlink() != 2 {
		t.Errorf("rows %d and %d of hard links, %d: %v", a, b, c, errors.Join(err1, err2, err3))
	}
	if n, err := r.Entries(t.Context()); err != nil || n < 300 {
		t.Errorf("%d entries, %v", n, err)
	}
}

// TestBadObjectsAreNeitherServedNorKept gives every object fault on every host.
func TestBadObjectsAreNeitherServedNorKept(t *testing.T) {
	bomb := func() []byte { // inflates to 64 MiB of zeros
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		zeros := make([]byte, 1<<20)
		for range 64 {
			if _, err := z.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	w := newWorld(t, cvmfstest.Options{})
	tree := contents()
	noise := bytesOf(50_000)
	tree.File("victim", noise, 0o644)
	rev := w.fill(tree)
	r := w.mustOpen(1)
	victim := at(t, r, "victim")
	before := r.Stats().VerifyFailures
	used := w.opts.Store.(*cache.Memory).Stats().UsedBytes
	for name, effect := range map[string]cvmfstest.Effect{
		"truncated": cvmfstest.Truncate(100), "empty": cvmfstest.Truncate(0), "a bit": cvmfstest.FlipBit(-20), "the first bit": cvmfstest.FlipBit(0),
		"longer": cvmfstest.Append([]byte("more")), "much longer": cvmfstest.Append(make([]byte, 1<<20)), "a portal": cvmfstest.Portal(),
		"a bomb": cvmfstest.Replace(bomb), "another object": cvmfstest.Replace(noise), "broken off": cvmfstest.Drop(1000), "404": cvmfstest.Status(404), "500": cvmfstest.Status(500),
	} {
		rule := w.server.Inject(cvmfstest.Path(rev.Objects("victim")[0]), 0, effect)
		p := make([]byte, 60_000)
		if n, err := r.ReadAt(t.Context(), victim.Ref, p, 0); err == nil || n != 0 {
			t.Errorf("%s: %d bytes are served, %v", name, n, err)
		}
		if rule.Hits() == 0 {
			t.Errorf("%s: the server was not asked", name)
		}
		rule.Remove()
	}
	if got := w.opts.Store.(*cache.Memory).Stats().UsedBytes; got != used {
		t.Errorf("the cache grew by %d bytes", got-used)
	}
	if r.Stats().VerifyFailures == before {
		t.Error("no failure was counted")
	}
	if got, err := r.ReadFile(t.Context(), victim, 1<<20); err != nil || !bytes.Equal(got, noise) {
		t.Errorf("when the servers are well again: %d bytes, %v", len(got), err)
	}
}

func TestOneDownloadForManyReaders(t *testing.T) {
	w := newWorld(t, cvmfstest.Options{ChunkSize: chunk})
	rev := w.fill(contents())
	r := w.mustOpen(1)
	big := at(t, r, "big")
	release := make(chan struct{})
	first := rev.Objects("big")[0]
	w.server.Inject(cvmfstest.Path(first), 0, cvmfstest.Hang(release))
	var readers sync.WaitGroup
	for range 64 {
		readers.Go(func() {
			p := make([]byte, 100)
			if n, err := r.ReadAt(t.Context(), big.Ref, p, 50); n != 100 || err != nil || !bytes.Equal(p, bytesOf(150)[50:]) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	if err := w.server.Wait(t.Context(), func(cvmfstest.Stats) bool { return w.server.Count(cvmfstest.Path(first)) > 0 }); err != nil {
		t.Fatal(err)
	}
	// While it hangs, other chunks and files are read, and who gives up leaves.
	if _, err := r.ReadAt(t.Context(), big.Ref, make([]byte, 10), 2*chunk); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.ReadAt(ctx, big.Ref, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read: %v", err)
	}
	close(release)
	readers.Wait()
	if n := w.server.Count(cvmfstest.Path(first)); n != 1 {
		t.Errorf("%d downloads", n)
	}
	for i, o := range rev.Objects("big") {
		if n, want := w.server.Count(cvmfstest.Path(o)), []int{1, 0, 1, 0}[i]; n != want {
			t.Errorf("chunk %d was fetched %d times, want %d", i, n, want)
		}
	}
}
