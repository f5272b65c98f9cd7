package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// TestSquashfsThatCannotBeOpened: a squashfs on the host that ends early, or needs
// what the reader lacks, is refused with what to do.
func TestSquashfsThatCannotBeOpened(t *testing.T) {
	image := smallSquashfs(t)
	for advice, damaged := range map[string][]byte{
		"3.0, only 4.0 can be read. Build it again": withByte(image, 28, 3),
		"compressor 9. Build it again":              withByte(image, 20, 9),
		"bytes used of 100. Fetch or build":         image[:100],
	} {
		name := filepath.Join(t.TempDir(), "image.squashfs")
		if err := os.WriteFile(name, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := OpenHost(t.Context(), name); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), advice) {
			t.Errorf("%q is not in %v", advice, err)
		}
	}
}

// TestOverlayPartition: of a SIF with an overlay of its own group, which apptainer
// would show and the mount does not, people are told.
func TestOverlayPartition(t *testing.T) {
	plain := makeSIF(t, sif.FsSquash, string(smallSquashfs(t)))
	for name, c := range map[string]struct {
		file memory
		told bool
	}{"none": {plain, false}, "of its group": {addOverlay(t, plain, 1), true}, "of another group": {addOverlay(t, plain, 2), false}} {
		at := filepath.Join(t.TempDir(), "image.sif")
		if err := os.WriteFile(at, c.file, 0o644); err != nil {
			t.Fatal(err)
		}
		id, spec, err := IdentifyHost(at)
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s := New(nil, nil, func() []string { return nil })
		s.Tell(slog.New(slog.NewTextHandler(&log, nil)))
		_, err = s.Root(t.Context(), id, spec)
		if s.Close(); err != nil || strings.Contains(log.String(), at) != c.told {
			t.Errorf("%s: %v, %s", name, err, log.String())
		}
	}
}

// addOverlay is the SIF with an overlay partition in a group.
func addOverlay(t *testing.T, file memory, group uint32) memory {
	t.Helper()
	return addObject(t, file, sif.DataPartition, "ext3", sif.OptGroupID(group), sif.OptPartitionMetadata(sif.FsExt3, sif.PartOverlay, "amd64"))
}

// TestOneDamagedInode: a directory is listed whole, whatever became of one of the
// files in it.
func TestOneDamagedInode(t *testing.T) {
	image := smallSquashfs(t)
	const head, inode = 2, 32 // bytes of a metadata block's header, of an empty file's inode
	b := image[binary.LittleEndian.Uint64(image[64:])+head+inode:]
	if binary.LittleEndian.Uint16(b) != 2 {
		t.Fatal("the second inode is no file")
	}
	b[0] = 0
	name := filepath.Join(t.TempDir(), "image.squashfs")
	if err := os.WriteFile(name, image, 0o644); err != nil {
		t.Fatal(err)
	}
	files, done, err := OpenHost(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if names, err := files.ReadDir(t.Context(), "/", 10); err != nil || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("%q, %v", names, err)
	}
	if _, err := files.Resolve(t.Context(), "/b"); err == nil {
		t.Error("the damaged file is shown")
	}
	if _, err := files.Resolve(t.Context(), "/c"); err != nil {
		t.Error(err)
	}
}

// smallSquashfs has the empty files a, b and c, and inodes as they are.
func smallSquashfs(t *testing.T) memory {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "image.squashfs")
	if out, err := exec.Command("mksquashfs", dir, name, "-noI", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return image
}
