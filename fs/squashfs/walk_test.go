package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// row is all that can be seen of a node.
type row struct {
	mode, nlink, uid, gid, rdev uint32
	size                        uint64
	mtime                       int64
	link                        string
	sum                         [32]byte
	xattrs                      string
}

type tree map[string]row

// limits end the walk of a hostile image.
type limits struct {
	names int
	bytes int64 // of each file
}

var errLimit = errors.New("limit of the walk")

// readTree reads all of an image through our reader.
func readTree(ctx context.Context, f *FS) (tree, error) {
	return readSome(ctx, f, limits{100_000, 64 << 20})
}

func readSome(ctx context.Context, f *FS, most limits) (tree, error) {
	all := tree{}
	type place struct {
		path  string
		entry uint64
	}
	for left := []place{{".", f.Root()}}; len(left) > 0; left = left[1:] {
		at := left[0]
		r, err := readRow(ctx, f, at.entry, most.bytes)
		if err != nil {
			return all, fmt.Errorf("%q: %w", at.path, err)
		}
		all[at.path] = r
		if r.mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		err = f.ReadDir(ctx, at.entry, 0, func(e Entry) bool {
			left = append(left, place{filepath.Join(at.path, e.Name), e.Entry})
			return len(left)+len(all) < most.names
		})
		if err != nil {
			return all, fmt.Errorf("%q: %w", at.path, err)
		}
		if len(left)+len(all) >= most.names {
			return all, errLimit
		}
	}
	return all, nil
}

func readRow(ctx context.Context, f *FS, entry uint64, most int64) (row, error) {
	a, err := f.Stat(ctx, entry)
	if err != nil {
		return row{}, err
	}
	r := row{mode: a.Mode, nlink: a.Nlink, uid: a.UID, gid: a.GID, rdev: a.Rdev, size: a.Size, mtime: a.MTime}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if r.link, err = f.Readlink(ctx, entry); err != nil {
			return r, err
		}
	case unix.S_IFREG:
		if r.sum, err = readSum(ctx, f, entry, min(most, int64(a.Size)+1)); err != nil {
			return r, err
		}
	}
	names, err := f.Xattrs(ctx, entry)
	if err != nil {
		return r, err
	}
	slices.Sort(names)
	for _, name := range names {
		v, err := f.Xattr(ctx, entry, name)
		if err != nil {
			return r, err
		}
		r.xattrs += fmt.Sprintf("%s=%q ", name, v)
	}
	return r, nil
}

// readSum reads a file in pieces that are no blocks, at most about most bytes.
func readSum(ctx context.Context, f *FS, entry uint64, most int64) (sum [32]byte, err error) {
	h := sha256.New()
	p := make([]byte, min(300_001, most))
	for off := int64(0); off < most; {
		n, err := f.ReadAt(ctx, entry, p, off)
		h.Write(p[:n])
		if err != nil {
			return sum, err
		}
		if off += int64(n); n < len(p) {
			break
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// hostTree reads a directory of the machine.
func hostTree(t testing.TB, root string) tree {
	t.Helper()
	all := tree{}
	err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		r := row{mode: st.Mode, nlink: uint32(st.Nlink), uid: st.Uid, gid: st.Gid, rdev: uint32(st.Rdev),
			size: uint64(st.Size), mtime: st.Mtim.Sec, xattrs: hostXattrs(t, path)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			r.link, err = os.Readlink(path)
		case unix.S_IFREG:
			var p []byte
			if st.Size > 0 {
				p, err = os.ReadFile(path)
			}
			r.sum = sha256.Sum256(p)
		case unix.S_IFIFO, unix.S_IFSOCK:
			// Squashfs keeps no size for these.
			r.size = 0
		}
		all[name] = r
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func hostXattrs(t testing.TB, path string) string {
	t.Helper()
	var buffer [1 << 13]byte
	list := buffer[:4<<10]
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) {
		return ""
	}
	if err != nil {
		t.Fatalf("list attributes of %q: %v", path, err)
	}
	names := strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	out := ""
	for _, name := range names {
		if name == "" {
			continue
		}
		v := buffer[4<<10:]
		if n, err = unix.Lgetxattr(path, name, v); err != nil {
			t.Fatalf("attribute %s of %q: %v", name, path, err)
		}
		out += fmt.Sprintf("%s=%q ", name, v[:n])
	}
	return out
}

// compare reports where two trees differ, after change was made to copies of
// both rows.
func compare(t *testing.T, what string, got, want tree, change func(*row)) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d names, want %d", what, len(got), len(want))
	}
	wrong := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[name]
		w := want[name]
		change(&g)
		change(&w)
		if ok && g == w {
			continue
		}
		if wrong++; wrong > 5 {
			t.Fatalf("%s: more differences are not shown", what)
		}
		t.Errorf("%s: %q:\n got %+v (there: %v)\nwant %+v", what, name, g, ok, w)
	}
}

// sameAs is for trees that must be equal in all.
func sameAs(*row) {}

// asSource leaves out what squashfs does not keep of a directory, and what
// other file systems say of a link's size in their own way.
func asSource(r *row) {
	if r.mode&unix.S_IFMT == unix.S_IFDIR {
		r.size, r.nlink = 0, 0
	}
}

// lookAgain looks every name of an image up again, resumes every listing
// behind each of its entries where it is short, and reads random ranges.
func lookAgain(t *testing.T, f *FS, all tree) {
	t.Helper()
	ctx := t.Context()
	for name := range all {
		entry := f.Root()
		if name != "." {
			for _, part := range strings.Split(name, "/") {
				e, err := f.Lookup(ctx, entry, part)
				if err != nil {
					t.Fatalf("%q: %v", name, err)
				}
				entry = e.Entry
			}
		}
		if entry == 0 || entry > volume.MaxEntry {
			t.Fatalf("%q has number %d", name, entry)
		}
		a, err := f.Stat(ctx, entry)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		switch a.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			resume(t, f, name, entry)
		case unix.S_IFREG:
			readRanges(t, f, name, entry, int64(a.Size))
		}
	}
}

func resume(t *testing.T, f *FS, name string, dir uint64) {
	t.Helper()
	var whole []Entry
	if err := f.ReadDir(t.Context(), dir, 0, func(e Entry) bool { whole = append(whole, e); return true }); err != nil {
		t.Fatal(err)
	}
	step := max(1, len(whole)/100)
	for i := 0; i < len(whole); i += step {
		var rest []Entry
		err := f.ReadDir(t.Context(), dir, whole[i].Cookie, func(e Entry) bool { rest = append(rest, e); return len(rest) < 20 })
		if err != nil || !slices.Equal(rest, whole[i+1:min(i+21, len(whole))]) {
			t.Fatalf("%q: listing behind %d of %d: %d entries, %v", name, i, len(whole), len(rest), err)
		}
		if _, err := f.Lookup(t.Context(), dir, whole[i].Name+"-"); !errors.Is(err, iofs.ErrNotExist) {
			t.Fatalf("%q: a name that is not there: %v", name, err)
		}
	}
}

func readRanges(t *testing.T, f *FS, name string, entry uint64, size int64) {
	t.Helper()
	whole := make([]byte, size)
	if n, err := f.ReadAt(t.Context(), entry, whole, 0); err != nil || int64(n) != size {
		t.Fatalf("%q: %d of %d bytes: %v", name, n, size, err)
	}
	for _, off := range []int64{0, 1, size / 3, size/2 - 1, size - 1, size - 4096, size, size + 1, 1 << 60} {
		if off < 0 {
			continue
		}
		p := make([]byte, 5000)
		n, err := f.ReadAt(t.Context(), entry, p, off)
		var want []byte
		if off < size {
			want = whole[off:min(off+int64(len(p)), size)]
		}
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("%q: %d bytes at %d of %d, %v", name, n, off, size, err)
		}
	}
}
