package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

const (
	sharedFQRN  = "shared.example.org"
	sharedImage = "containers/tool_1.0_20240101/tool_1.0_20240101.simg"
)

// sharedSite is a repository with two images, one of which is prefetched.
type sharedSite struct {
	*stratum
	t     *testing.T
	repo  *cvmfstest.Repository
	src   source
	files map[string][]byte // of the image, by path in the repository
	tier  string
}

// sharedRepository is what all tests here read; its keys are slow to make.
var sharedRepository = sync.OnceValues(func() (*sharedSite, error) {
	w := &sharedSite{files: map[string][]byte{}}
	tree := cvmfstest.NewTree()
	for _, name := range []string{"tool_1.0_20240101", "other_2_20240101"} {
		dir := "containers/" + name
		tree.File(dir+"/commands.txt", []byte(strings.Split(name, "_")[0]+"\n"), 0o644)
		tree.File(dir+"/README.md", []byte("About "+name+".\n"), 0o644)
		tree.Nested(dir)
		tree.Nested(dir + "/" + name + ".simg")
	}
	for i := range 40 {
		w.files[fmt.Sprintf("%s/lib/f%d", sharedImage, i)] = pattern(i, 1000+700*i)
	}
	w.files[sharedImage+"/usr/bin/tool"] = pattern(99, 900_000) // several chunks
	tree.Nested(sharedImage + "/usr")
	for name, content := range w.files {
		tree.File(name, content, 0o755)
	}
	var err error
	if w.repo, err = cvmfstest.New(cvmfstest.Options{FQRN: sharedFQRN, ChunkSize: 200_000}); err != nil {
		return nil, err
	}
	_, err = w.repo.Publish(context.Background(), tree)
	return w, err
})

func newSharedSite(t *testing.T) *sharedSite {
	t.Helper()
	made, err := sharedRepository()
	if err != nil {
		t.Fatal(err)
	}
	w := &sharedSite{stratum: newStratum(t), t: t, repo: made.repo, files: made.files, tier: filepath.Join(shortDir(t), "tier")}
	w.src = w.serve(w.repo, sharedFQRN)
	w.src.Layout = "neurodesk"
	return w
}

// prefetch runs the command for the image and returns what it says.
func (w *sharedSite) prefetch(config string, args ...string) (r prefetched) {
	w.t.Helper()
	out := neurodeskfs(w.t, append([]string{"prefetch", "tool/1.0", "--json", "--config", config}, args...)...)
	if out.Status != 0 || out.Stderr != "" {
		w.t.Fatalf("prefetch: exit status %d: %s", out.Status, out.Stderr)
	}
	if err := json.Unmarshal([]byte(out.Stdout), &r); err != nil || len(r.Images) != 1 {
		w.t.Fatalf("prefetch says %s, %v", out.Stdout, err)
	}
	return r
}

type prefetched struct {
	To     string `json:"to"`
	Images []struct {
		Image   string `json:"image"`
		Objects int    `json:"objects"`
		Fetched int    `json:"fetched_objects"`
		Bytes   int64  `json:"bytes"`
	} `json:"images"`
}

// read compares all of the image with what was published.
func (w *sharedSite) read(m *mounted) {
	w.t.Helper()
	for name, want := range w.files {
		if got, err := os.ReadFile(m.Raw(sharedFQRN, name)); err != nil || !bytes.Equal(got, want) {
			w.t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if b, err := os.ReadFile(m.Path("apps/tool/1.0/README.md")); err != nil || !strings.HasPrefix(string(b), "About tool") {
		w.t.Errorf("README: %q, %v", b, err)
	}
	if _, err := os.Stat(m.Path("bin/tool")); err != nil {
		w.t.Error(err)
	}
}

// objects lists the tier's objects.
func (w *sharedSite) objects() (list []string) {
	w.t.Helper()
	defer func() {
		if len(list) < 5 {
			w.t.Fatalf("%d objects in the tier", len(list))
		}
	}()
	err := filepath.WalkDir(filepath.Join(w.tier, "objects"), func(p string, d iofs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, p)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// fill fills the tier.
func (w *sharedSite) fill() prefetched {
	w.t.Helper()
	_, config := setup{Sources: []source{w.src}}.prepare(w.t)
	return w.prefetch(config, "--to", w.tier)
}

// TestMountSharedTier: eight nodes with caches of their own read the image out of
// one tier, which none of them can write, and ask no server for an object.
func TestMountSharedTier(t *testing.T) {
	w := newSharedSite(t)
	if r := w.fill(); r.To != w.tier {
		t.Errorf("%+v", r)
	}
	before := w.objects()
	for _, p := range before {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", p, fi.Mode(), err)
		}
	}
	w.readOnly(true)
	defer w.readOnly(false)
	w.Reset()
	nodes := make([]*mounted, 8)
	for i := range nodes {
		nodes[i] = mount(t, setup{Sources: []source{w.src}, Shared: []string{w.tier}})
	}
	var all sync.WaitGroup
	for _, m := range nodes {
		all.Go(func() { w.read(m) })
	}
	all.Wait()
	if n := w.Count(cvmfstest.Path("/data/")); n > 0 {
		t.Errorf("%d requests for objects", n)
	}
	for _, m := range nodes {
		m.Indexed()
		st := m.Status()
		if s := st.Shared; len(s) != 1 || s[0].Dir != w.tier || s[0].Hits < 45 || s[0].Refused != 0 || s[0].Error != "" {
			t.Errorf("shared %+v", s)
		}
		if r := neurodeskfs(t, "status", m.Dir); !strings.Contains(r.Stdout, "shared       "+w.tier) {
			t.Errorf("status: %s", r.Stdout)
		}
	}
	if after := w.objects(); len(after) != len(before) {
		t.Errorf("%d objects, were %d", len(after), len(before))
	}
}

// readOnly takes the right to write from every directory of the tier, and gives it back.
func (w *sharedSite) readOnly(on bool) {
	mode := os.FileMode(0o755)
	if on {
		mode = 0o555
	}
	filepath.WalkDir(w.tier, func(p string, d iofs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(p, mode)
		}
		return err
	})
}

// TestMountSharedTierAlone: a node that has never seen a server works from the
// tier alone, also with the manifest, whose signatures it verifies.
func TestMountSharedTierAlone(t *testing.T) {
	w := newSharedSite(t)
	w.fill()
	w.stratum.Close()
	m := mount(t, setup{Sources: []source{w.src}, Shared: []string{"/nonexistent/tier", w.tier}})
	w.read(m)
	if st := m.Status(); !st.Sources[0].Offline || st.Shared[0].Error == "" || st.Shared[1].Error != "" || st.IOErrors != 0 {
		t.Errorf("%+v", st)
	}
}

// TestMountSharedTierHostile: whatever somebody does to the objects of a tier, no
// wrong byte is served; they are fetched from the server instead, and prefetch
// mends the tier.
func TestMountSharedTierHostile(t *testing.T) {
	w := newSharedSite(t)
	w.fill()
	objects := w.objects()
	harm := []func(p string, b []byte) error{
		func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)/2], 0o644) },
		func(p string, b []byte) error { return os.WriteFile(p, nil, 0o644) },
		func(p string, b []byte) error { b[len(b)/2] ^= 1; return os.WriteFile(p, b, 0o644) },
		func(p string, b []byte) error { return os.WriteFile(p, append(b, "more"...), 0o644) },
		func(p string, b []byte) error { // another object, sound in itself
			other, err := os.ReadFile(objects[0])
			if p == objects[0] {
				other = b[1:]
			}
			if err == nil {
				err = os.WriteFile(p, other, 0o644)
			}
			return err
		},
		func(p string, _ []byte) error { return instead(p, func() error { return os.Mkdir(p, 0o755) }) },
		func(p string, _ []byte) error { return instead(p, func() error { return syscall.Mkfifo(p, 0o644) }) },
		func(p string, _ []byte) error { return instead(p, func() error { return os.Symlink("/dev/zero", p) }) },
		func(p string, _ []byte) error { return os.Truncate(p, 1<<40) }, // a huge hole
	}
	for i, p := range objects {
		b, err := os.ReadFile(p)
		if err == nil {
			err = harm[i%len(harm)](p, b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m := mount(t, setup{Sources: []source{w.src}, Shared: []string{w.tier}})
	w.read(m)
	m.Indexed()
	st := m.Status()
	if s := st.Shared[0]; s.Hits != 0 || s.Refused < 20 || st.IOErrors != 0 {
		t.Errorf("%+v, %d I/O errors", s, st.IOErrors)
	}
	if n := strings.Count(m.Log(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	m.Unmount()
	for _, p := range objects { // what is no file is the owner's to take away
		if fi, err := os.Lstat(p); err == nil && !fi.Mode().IsRegular() {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.fill()
	w.Reset()
	again := mount(t, setup{Sources: []source{w.src}, Shared: []string{w.tier}})
	w.read(again)
	if n := w.Count(cvmfstest.Path("/data/")); n > 0 || again.Status().Shared[0].Refused > 0 {
		t.Errorf("not mended: %d requests, %+v", n, again.Status().Shared)
	}
}

func instead(p string, f func() error) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return f()
}

// TestMountSharedTierNamesWhatItHas: filling a tier from one repository does not
// name a new revision of another, of which nothing was fetched.
func TestMountSharedTierNamesWhatItHas(t *testing.T) {
	w := newSharedSite(t)
	const other = "other.example.org"
	tree := func(n string) *cvmfstest.Tree {
		tree := cvmfstest.NewTree()
		tree.File("containers/o_1_20240101/commands.txt", []byte("o\n"), 0o644)
		tree.File("containers/o_1_20240101/o_1_20240101.simg/n", []byte(n), 0o644)
		return tree
	}
	repo, _, src := w.publish(cvmfstest.Options{FQRN: other}, tree("1"))
	src.Layout = "neurodesk"
	_, config := setup{Sources: []source{w.src, src}}.prepare(t)
	head := func(fqrn string) string {
		b, err := os.ReadFile(filepath.Join(w.tier, "heads", fqrn))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	w.prefetch(config, "--to", w.tier)
	before := head(other)
	if _, err := repo.Publish(t.Context(), tree("2")); err != nil {
		t.Fatal(err)
	}
	w.prefetch(config, "--to", w.tier)
	if head(other) != before {
		t.Error("nodes without a network start from a revision of which nothing was fetched")
	}
	if r := neurodeskfs(t, "prefetch", "o", "--config", config, "--to", w.tier); r.Status != 0 {
		t.Fatalf("exit status %d: %s", r.Status, r.Stderr)
	}
	if head(other) == before || head(sharedFQRN) == "" {
		t.Error("the new revision is not named when it is there")
	}
}
