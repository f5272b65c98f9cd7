package integration

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountPrefetchThenNoNetwork: what prefetch brought into the node's own
// cache, by the daemon or without one, is used with no server there at all.
func TestMountPrefetchThenNoNetwork(t *testing.T) {
	for _, way := range []string{"by the daemon", "without a daemon"} {
		t.Run(way, func(t *testing.T) {
			w := newSharedSite(t)
			s := setup{Sources: []source{w.src}, Cache: filepath.Join(shortDir(t), "c")}
			var first prefetched
			if way == "by the daemon" {
				m := mount(t, s)
				m.Indexed()
				first = w.prefetch(m.Config)
				m.Unmount()
			} else {
				_, config := s.prepare(t)
				first = w.prefetch(config)
			}
			if i := first.Images[0]; i.Image != "tool/1.0_20240101" || i.Objects < 45 || i.Fetched == 0 || first.To != s.Cache {
				t.Errorf("%+v", first)
			}
			_, config := s.prepare(t)
			w.Reset()
			if again := w.prefetch(config).Images[0]; again.Fetched != 0 || again.Objects != first.Images[0].Objects || w.Count(cvmfstest.Path("/data/")) > 0 {
				t.Errorf("again: %+v, %d requests for objects", again, w.Count(cvmfstest.Path("/data/")))
			}
			// As with no network: nothing listens there.
			w.stratum.Close()
			m := mount(t, s)
			w.read(m)
			if st := m.Status(); !st.Sources[0].Offline || st.IOErrors != 0 || st.Sources[0].HTTPBytes != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestMountPrefetchInterrupted: ^C leaves what is there usable, and the same
// command goes on from it, fetching nothing twice.
func TestMountPrefetchInterrupted(t *testing.T) {
	w := newSharedSite(t)
	release := make(chan struct{})
	defer close(release)
	_, config := setup{Sources: []source{w.src}}.prepare(t)
	rule := w.Inject(func(p string) bool { return strings.HasSuffix(p, "P") }, 0, cvmfstest.Hang(release)) // the chunks
	c := exec.Command(program(t), "prefetch", "tool", "--config", config, "--to", w.tier)
	interrupted := make(chan error, 1)
	go func() {
		err := w.Wait(t.Context(), func(cvmfstest.Stats) bool { return rule.Hits() >= 3 })
		if err == nil {
			err = c.Process.Signal(syscall.SIGINT)
		}
		interrupted <- err
	}()
	r := run(t, c)
	if err := <-interrupted; err != nil || r.Status != 1 || !strings.Contains(r.Stderr, "interrupted; what was fetched stays") {
		t.Fatalf("%v, exit status %d, %q", err, r.Status, r.Stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(w.tier, "tmp/*")); len(left) > 0 {
		t.Errorf("left in the tier: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "neurodeskfs-prefetch-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	rule.Remove()
	sound := len(w.objects())
	w.Reset()
	again := w.prefetch(config, "--to", w.tier)
	i := again.Images[0]
	if i.Fetched == 0 || i.Fetched == i.Objects || w.Count(cvmfstest.Path("/data/")) != len(w.objects())-sound {
		t.Errorf("%+v, %d requests for %d objects", i, w.Count(cvmfstest.Path("/data/")), len(w.objects())-sound)
	}
}

// TestMountPrefetchRefuses what cannot be done, with a reason, and leaves nothing.
func TestMountPrefetchRefuses(t *testing.T) {
	w := newSharedSite(t)
	_, config := setup{Sources: []source{w.src}, Quota: "500KiB"}.prepare(t)
	full := shortDir(t)
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args []string
		says string
	}{
		{[]string{"absent"}, "no such image"},
		{[]string{"tool/9"}, "no such image"},
		{[]string{"tool"}, "raise cache.quota"},
		{[]string{"tool", "--to", full}, "is no shared tier but holds \"mine\""},
	} {
		r := neurodeskfs(t, append([]string{"prefetch", "--config", config}, row.args...)...)
		if r.Status != 1 || !strings.Contains(r.Stderr, row.says) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: exit status %d, %q", row.args, r.Status, r.Stderr)
		}
	}
	if entries, _ := os.ReadDir(full); len(entries) != 1 {
		t.Errorf("left %v", entries)
	}
}

// TestMountPrefetchRetired: what is left of a retired image is not told as the image.
func TestMountPrefetchRetired(t *testing.T) {
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	_, config := setup{Sources: []source{src}}.prepare(t)
	if r := neurodeskfs(t, "prefetch", "retiredtool", "--config", config); r.Status != 1 || !strings.Contains(r.Stderr, "is retired") {
		t.Errorf("exit status %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// TestMountPrefetchLayouts: images that are single files, and links to root trees.
func TestMountPrefetchLayouts(t *testing.T) {
	content := pattern(7, 500_000)
	for layout, c := range map[string]struct{ plant, path string }{
		"flat":     {"all/tool:1.0", "all/tool:1.0"},
		"unpacked": {".flat/ab/abcd/usr/bin/tool", "reg.example.org/org/tool:1.0/usr/bin/tool"},
	} {
		t.Run(layout, func(t *testing.T) {
			tree := cvmfstest.NewTree()
			tree.File(c.plant, content, 0o755)
			tree.File("else/where", content[:1000], 0o644)
			if layout == "unpacked" {
				tree.Nested(".flat/ab/abcd")
				tree.Symlink("reg.example.org/org/tool:1.0", "/cvmfs/"+sharedFQRN+"/.flat/ab/abcd")
				tree.Symlink(".flat/ab/abcd/out", "/etc/passwd")
			}
			s := newStratum(t)
			_, rev, src := s.publish(cvmfstest.Options{FQRN: sharedFQRN, ChunkSize: 100_000}, tree)
			src.Layout = layout
			set := setup{Sources: []source{src}, Cache: filepath.Join(shortDir(t), "c")}
			_, config := set.prepare(t)
			wantRun(t, 0, "prefetch", "tool/1.0", "--config", config)
			if n := s.Count(cvmfstest.Path(rev.Objects("else/where")[0])); n > 0 {
				t.Error("what lies elsewhere was fetched too")
			}
			s.Close()
			m := mount(t, set)
			path := m.Raw(sharedFQRN, c.path)
			if layout == "unpacked" { // its link is meant for /cvmfs
				path = m.Raw(sharedFQRN, c.plant)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	folder := shortDir(t)
	if err := os.MkdirAll(filepath.Join(folder, "mine_1_20240101/mine_1_20240101.simg/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, config := setup{Sources: []source{{Kind: "dir", Path: folder}}}.prepare(t)
	if r := neurodeskfs(t, "prefetch", "mine", "--config", config); r.Status != 0 || !strings.Contains(r.Stdout, "nothing is to be fetched") {
		t.Errorf("exit status %d, %s", r.Status, r.Stderr)
	}
}

// TestMountPrefetchOverHTTP: an image on object storage is fetched as a whole,
// once, and can be read when the server is gone.
func TestMountPrefetchOverHTTP(t *testing.T) {
	folder := shortDir(t)
	content := make([]byte, 3<<20+5)
	rand.NewChaCha8([32]byte{7}).Read(content)
	for name, text := range map[string][]byte{"tool_1.0_20240101.sif": content, "list.txt": []byte("tool_1.0_20240101.sif\n")} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(http.FileServer(http.Dir(folder)))
	defer s.Close()
	set := setup{Sources: []source{shelfSource(strings.TrimPrefix(s.URL, "http://"))}, Cache: filepath.Join(shortDir(t), "c")}
	_, config := set.prepare(t)
	for _, want := range []string{"tool/1.0_20240101: 3.0 MiB in 7 objects, of which 2.5 MiB in 6 were fetched" /* the first came when it was found */, "of which 0 B in 0 were fetched"} {
		if r := neurodeskfs(t, "prefetch", "tool", "--config", config); r.Status != 0 || !strings.Contains(r.Stdout, want) {
			t.Errorf("exit status %d, no %q in %s%s", r.Status, want, r.Stdout, r.Stderr)
		}
	}
	if r := neurodeskfs(t, "prefetch", "tool", "--config", config, "--to", shortDir(t)); r.Status != 1 || !strings.Contains(r.Stderr, "a shared tier holds nothing else") {
		t.Errorf("into a shared tier: exit status %d, %s", r.Status, r.Stderr)
	}
	s.Close()
	m := mount(t, set)
	m.Indexed()
	if b, err := os.ReadFile(m.Path("apps/tool/1.0_20240101/image.sif")); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
