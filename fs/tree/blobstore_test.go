package tree

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

func TestListedImages(t *testing.T) {
	for line, want := range map[string]string{ // app, version and, of NAME_VERSION_DATE, its name
		"fsl_6.0.7.22_20260416 categories:functional imaging,": "fsl_6.0.7.22_20260416:  fsl_6.0.7.22_20260416",
		"fsl_6.0.7.22_20260416.simg":                           "fsl_6.0.7.22_20260416.simg:  fsl_6.0.7.22_20260416",
		"mrtrix3:3.0.3--h4bd325d_0":                            "mrtrix3:3.0.3--h4bd325d_0: mrtrix3 3.0.3--h4bd325d_0",
		"./tool_1.0.sif":                                       "tool_1.0.sif: tool 1.0",
		"tool.sif\t500":                                        "tool.sif: tool latest",
		"  tool_1.0.sif  \r\n":                                 "tool_1.0.sif: tool 1.0",
		"tool":                                                 "",
		"README.md":                                            "",
		"":                                                     "", "#tool_1.0.sif": "", ".hidden_1.0.sif": "", "-x_1.0.sif": "", "a/b_1.0.sif": "", ":1": "", strings.Repeat("x", 300) + ".sif": "", "a\x01_1.sif": "",
	} {
		got := ""
		if c, ok := listedImage(line, true); ok {
			a := (&c).called()
			got = c.file + ": " + a
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if c, ok := listedImage("tool", false); !ok || c.app != "tool" || c.version != "latest" {
		t.Errorf("a name of the configuration: %+v, %v", c, ok)
	}
}

// called is what a listed image is called.
func (c *blobContainer) called() string {
	if c.app == "" {
		return " " + c.name
	}
	return c.app + " " + c.version
}

func FuzzListedImage(f *testing.F) {
	f.Add("fsl_6.0.7.22_20260416 categories:functional imaging,")
	f.Add("mrtrix3:3.0.3--h4bd325d_0")
	f.Add("./tool_1.0.sif")
	f.Fuzz(func(t *testing.T, line string) {
		c, ok := listedImage(line, true)
		if !ok {
			return
		}
		app, version := c.app, c.version
		if app == "" {
			if app, version, _, ok = splitImageName(c.name); !ok {
				t.Fatalf("%q: no name", line)
			}
		}
		for _, s := range []string{app, version, c.file} {
			if s == "" || s == "." || s == ".." || len(s) > 255 || strings.ContainsAny(s, "/\x00\n") {
				t.Errorf("%q: the name %q", line, s)
			}
		}
	})
}

// bucketSite is object storage and the tree over it.
type bucketSite struct {
	server *httptest.Server
	bucket *blob.Bucket
	mu     sync.Mutex // guards all below
	files  map[string][]byte
	list   string
	asked  []string
}

func (s *bucketSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.TrimPrefix(r.URL.Path, "/"))
	b, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	switch {
	case r.URL.Path == "/list":
		fmt.Fprint(w, s.list)
	case !ok:
		http.NotFound(w, r)
	default:
		w.Header().Set("ETag", fmt.Sprintf("%q", b[:min(8, len(b))]))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// requests are the paths asked for since the last call.
func (s *bucketSite) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, " ")
	s.asked = nil
	return asked
}

func newBucketSite(t *testing.T, list string, files map[string][]byte) (*bucketSite, *Tree) {
	t.Helper()
	s := &bucketSite{files: files, list: list}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	log := slog.New(slog.DiscardHandler)
	memo := &memMemo{}
	var err error
	s.bucket, err = blob.New(blob.Options{Name: "shelf", URLs: []string{s.server.URL + "/@image@"}, Index: []string{s.server.URL + "/list"}, Net: fetch.Config{BackoffInit: time.Nanosecond, BackoffMax: time.Nanosecond}, Store: cache.NewMemory(16 << 20), Memo: memo, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.bucket.Close)
	table := openTable(t, filepath.Join(t.TempDir(), "nodes"))
	images := image.New(nil, table, func() []string { return nil })
	images.AddBucket(s.bucket)
	t.Cleanup(images.Close)
	tree, err := New(Options{
		Sources: []*Source{{Bucket: s.bucket}}, Images: images, Table: table, Memo: memo, Mountpoint: "/m", Launcher: NewLauncher([]byte("\x7fELF launcher")), Policy: []byte("{}\n"),
		Status: func() []byte { return nil }, Version: "v1", Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	complete(t, tree)
	return s, tree
}

// TestBucketListingsAskForTheListOnly: names cost no request for any image, and a
// refresh asks about those alone that somebody used.
func TestBucketListingsAskForTheListOnly(t *testing.T) {
	files := map[string][]byte{}
	var lines []string
	for i := range 300 {
		name := fmt.Sprintf("tool%03d_%d.0_20240101.sif", i/2, i%2)
		files[name] = fmt.Appendf(nil, "%08d is no image", i)
		lines = append(lines, name)
	}
	s, tree := newBucketSite(t, strings.Join(append(lines, "gone_1.0_20240101.sif"), "\n"), files)
	for dir, want := range map[string]int{"apps": 151, "bin": 151, "modules": 151, "apps/tool007": 5, "apps/gone": 3, "cvmfs": 0} {
		if got := list(t, tree, dir); len(got) != want {
			t.Errorf("ls %s: %d names: %q", dir, len(got), got)
		}
	}
	c := find(t, tree, "bin")
	err := c.Volume.ReadDir(context.Background(), c.Entry, 0, func(c volume.Child) bool {
		if c.Valid != volume.Forever || c.Attr.Size == 0 {
			t.Errorf("the kernel asks again about %s, of %d bytes", c.Name, c.Attr.Size)
		}
		return true
	})
	text := read(t, tree, "bin/tool007")
	if !strings.Contains(text, "\nhash: unseen\n") || !strings.Contains(text, "/tool007_1.0_20240101.sif\n") {
		t.Errorf("the command of an image that nobody looked at: %s", text)
	}
	if asked := s.requests(); err != nil || asked != "list" {
		t.Errorf("%v; asked for %s", err, asked)
	}
	mustBeAbsent(t, tree, "apps/gone/1.0_20240101")
	if got := read(t, tree, "apps/tool007/1.0_20240101/image.sif"); !strings.HasPrefix(got, "../../../.neurodeskfs/images/") {
		t.Errorf("image.sif leads to %s", got)
	}
	if asked := s.requests(); asked != "gone_1.0_20240101.sif tool007_1.0_20240101.sif" {
		t.Errorf("asked for %s", asked)
	}
	sif := find(t, tree, "apps/tool007/1.0_20240101/image.sif")
	id, _ := tree.Readlink(t.Context(), sif.Entry)
	if got := read(t, tree, strings.TrimPrefix(id, "../../../")); got != "00000015 is no image" {
		t.Errorf("image.sif: %q", got)
	}
	s.requests()

	s.mu.Lock()
	s.files["tool007_1.0_20240101.sif"] = []byte("another file, which is no image either")
	s.list = strings.Replace(s.list, "tool000_", "new_", 1)
	s.mu.Unlock()
	if changed, err := s.bucket.Refresh(t.Context()); err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	changes, err := tree.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if asked := s.requests(); asked != "list tool007_1.0_20240101.sif" {
		t.Errorf("the refresh asked for %s", asked)
	}
	var names []string
	for _, c := range changes {
		names = append(names, c.Names...)
	}
	for _, want := range []string{"new", "image.sif"} {
		if !slices.Contains(names, want) {
			t.Errorf("%q changed, not %s", names, want)
		}
	}
	if other, _ := tree.Readlink(t.Context(), find(t, tree, "apps/tool007/1.0_20240101/image.sif").Entry); other == id {
		t.Error("a replaced image has the old one's name")
	}
}
