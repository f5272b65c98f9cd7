package image

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// openBelow counts this process's descriptors of files below dir.
func openBelow(t *testing.T, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

// TestHostFilesAreFewAtOnce reads more images of the host than may be open, from
// many sides at once.
func TestHostFilesAreFewAtOnce(t *testing.T) {
	images, dir := New(nil, nil, nil), t.TempDir()
	specs := make([]Spec, 2*maxHostFiles+40)
	for i := range specs {
		name := filepath.Join(dir, fmt.Sprint("image", i))
		err := os.WriteFile(name, fmt.Appendf(nil, "%06d", i), 0o644)
		if err == nil {
			_, specs[i], err = IdentifyHost(name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var readers sync.WaitGroup
	for side := range 8 {
		readers.Go(func() {
			for n := range 2 * len(specs) {
				i := (n*(2*side+1) + side) % len(specs)
				src, _, _, err := images.hostFile(specs[i])
				b := make([]byte, 6)
				if err == nil {
					_, err = src.ReadAt(t.Context(), b, 0)
				}
				if err != nil || string(b) != fmt.Sprintf("%06d", i) {
					t.Errorf("image %d: %q, %v", i, b, err)
					return
				}
			}
		})
	}
	readers.Wait()
	if n := openBelow(t, dir); n > maxHostFiles || n == 0 {
		t.Errorf("%d files are open", n)
	}
	images.Close()
	if n := openBelow(t, dir); n != 0 {
		t.Errorf("%d files are open after Close", n)
	}
}

// TestHostFileStaysItself: an open image is read on whatever takes its name; one
// that was closed for others is not mixed with what took it.
func TestHostFileStaysItself(t *testing.T) {
	images, name := New(nil, nil, nil), filepath.Join(t.TempDir(), "image")
	defer images.Close()
	write := func(text string) {
		err := os.WriteFile(name+".part", []byte(text), 0o644)
		if err == nil {
			err = os.Rename(name+".part", name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	_, spec, err := IdentifyHost(name)
	if err != nil {
		t.Fatal(err)
	}
	src, _, _, err := images.hostFile(spec)
	if err != nil {
		t.Fatal(err)
	}
	keep, err := os.Open(name) // its inode number is not given away
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	write("new")
	b := make([]byte, 3)
	if _, err := src.ReadAt(t.Context(), b, 0); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
	images.hostFiles.Purge()
	if n, err := src.ReadAt(t.Context(), b, 0); n != 0 || !errors.Is(err, volume.ErrStale) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestHostFileThatIsAway: names in an image are not said to be absent, which would be
// believed for long, because the image's own file is away for a while.
func TestHostFileThatIsAway(t *testing.T) {
	images, name := New(nil, nil, nil), filepath.Join(t.TempDir(), "image")
	defer images.Close()
	if err := os.WriteFile(name, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, spec, err := IdentifyHost(name)
	if err != nil {
		t.Fatal(err)
	}
	src, _, _, err := images.hostFile(spec)
	if err != nil {
		t.Fatal(err)
	}
	images.hostFiles.Purge() // for others
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(t.Context(), make([]byte, 4), 0); !errors.Is(err, volume.ErrStale) || errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := src.ReadAt(t.Context(), b, 0); err != nil || string(b) != "text" {
		t.Errorf("back again: %q, %v", b, err)
	}
}

// placesMemo is a memo in memory.
type placesMemo map[string][]byte

func (m placesMemo) Get(bucket, key string) ([]byte, bool) { b, ok := m[bucket+key]; return b, ok }
func (m placesMemo) Put(bucket, key string, value []byte)  { m[bucket+key] = value }

// TestHostFileThatWasRenamed is read by all that know it by its first path, once it
// was seen at the other, by the next daemon too; another file that took the path is
// not.
func TestHostFileThatWasRenamed(t *testing.T) {
	dir, memo := t.TempDir(), placesMemo{}
	images := New(nil, nil, nil)
	images.Remember(memo)
	defer images.Close()
	first, second := filepath.Join(dir, "tool_1.0.sif"), filepath.Join(dir, "tool_1.1.sif")
	if err := os.WriteFile(first, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	id, spec, err := IdentifyHost(first)
	if err != nil {
		t.Fatal(err)
	}
	images.SeenAt(spec)
	if err := os.Rename(first, second); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, []byte("else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := images.hostFile(spec); err == nil {
		t.Error("another file is taken for the image")
	}
	again, moved, err := IdentifyHost(second)
	if err != nil || again != id {
		t.Fatalf("%s, %s, %v", id, again, err)
	}
	images.SeenAt(moved)
	next := New(nil, nil, nil)
	next.Remember(memo)
	defer next.Close()
	for _, images := range []*Images{images, next} {
		src, _, _, err := images.hostFile(spec)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if _, err := src.ReadAt(t.Context(), b, 0); err != nil || string(b) != "text" {
			t.Errorf("%q, %v", b, err)
		}
	}
}
