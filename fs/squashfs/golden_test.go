package squashfs

import (
	"compress/zlib"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

const galaxy = "galaxy.golden.test"

// object inflates an object of the golden flat repository.
func object(t testing.TB, dir, path string) []byte {
	t.Helper()
	file, err := os.Open(filepath.Join(dir, galaxy, path))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := zlib.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goldenImage reads the file name of the golden flat repository.
func goldenImage(t testing.TB, dir, name string) memory {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, galaxy, "data", "*", "*C"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no catalogs: %v", err)
	}
	for _, path := range files {
		rel, _ := filepath.Rel(filepath.Join(dir, galaxy), path)
		c, err := catalog.OpenBytes(object(t, dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		row, err := c.Lookup(t.Context(), "/"+filepath.Dir(name), filepath.Base(name))
		if err != nil {
			continue
		}
		if !row.IsChunked() {
			return object(t, dir, row.Hash.Path(hash.File))
		}
		chunks, err := c.Chunks(t.Context(), row)
		if err != nil {
			t.Fatal(err)
		}
		var whole memory
		for _, chunk := range chunks {
			whole = append(whole, object(t, dir, chunk.Hash.Path(hash.Chunk))...)
		}
		return whole
	}
	t.Fatalf("no catalog has %s", name)
	return nil
}

// goldenRow writes a row as the golden lists do.
func goldenRow(name string, r row) string {
	kinds := map[uint32]string{unix.S_IFDIR: "d", unix.S_IFREG: "f", unix.S_IFLNK: "l", unix.S_IFCHR: "c",
		unix.S_IFBLK: "b", unix.S_IFIFO: "p", unix.S_IFSOCK: "s"}
	kind := kinds[r.mode&unix.S_IFMT]
	nlink, size, rdev, link, sum, attrs := fmt.Sprint(r.nlink), fmt.Sprint(r.size), "-", "-", "-", "-"
	switch kind {
	case "d":
		nlink, size = "-", "-"
	case "f":
		sum = hex.EncodeToString(r.sum[:])
	case "l":
		link = escape(r.link)
	case "c", "b":
		rdev = fmt.Sprintf("%d:%d", unix.Major(uint64(r.rdev)), unix.Minor(uint64(r.rdev)))
	}
	if r.xattrs != "" {
		var all []string
		for attr, rest, more := strings.Cut(r.xattrs, "="); more; attr, rest, more = strings.Cut(rest, "=") {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return err.Error()
			}
			value, _ := strconv.Unquote(quoted)
			all = append(all, attr+"="+hex.EncodeToString([]byte(value)))
			rest = strings.TrimPrefix(rest[len(quoted):], " ")
		}
		attrs = strings.Join(all, ";")
	}
	return strings.Join([]string{escape(filepath.Join("/", name)), kind, fmt.Sprintf("%04o", r.mode&0o7777), fmt.Sprint(r.uid),
		fmt.Sprint(r.gid), nlink, size, fmt.Sprint(r.mtime), "0", rdev, link, sum, attrs}, "\t")
}

func escape(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || strings.ContainsRune("\\\t\n\r", r) {
			fmt.Fprintf(&out, `\x%02x`, s[0])
		} else {
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
	return out.String()
}

// TestGolden reads the images of the golden flat repository, as real apptainer
// made them, and compares them with what unsquashfs unpacked as root: of
// each tool one large image, with FULL=1 all.
func TestGolden(t *testing.T) {
	dir := golden.Path(t, "neurodesk")
	list, err := os.ReadFile(filepath.Join(dir, "expected", galaxy, "images.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	shared := NewCache(Limits{Metadata: 200_000, Data: 2 << 20})
	var seen atomic.Int32
	tools := map[string]bool{}
	t.Run("images", func(t *testing.T) {
		for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n")[1:] {
			col := strings.Split(line, "\t")
			tool, _, _ := strings.Cut(col[0], ":")
			offset, _ := strconv.ParseInt(col[2], 10, 64)
			size, _ := strconv.ParseInt(col[3], 10, 64)
			if tools[tool] && size > 2<<20 && os.Getenv("FULL") != "1" {
				continue
			}
			tools[tool] = true
			t.Run(col[0], func(t *testing.T) {
				t.Parallel()
				m := goldenImage(t, dir, col[0])
				f, err := Open(t.Context(), m, offset, size, Options{Cache: shared})
				if err != nil {
					t.Fatal(err)
				}
				s := f.Superblock()
				if got := fmt.Sprint(s.Compression, s.BlockSize, s.Inodes, s.Fragments); got != strings.Join(col[4:8], " ") {
					t.Errorf("superblock %s, want %v", got, col[4:8])
				}
				all, err := readTree(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for name, r := range all {
					got = append(got, goldenRow(name, r))
				}
				want, err := os.ReadFile(filepath.Join(dir, "expected", galaxy, "images", filepath.Base(col[0])+".tsv"))
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")[1:]
				slices.Sort(got)
				slices.Sort(lines)
				if len(got) != len(lines) {
					t.Errorf("%d names, want %d", len(got), len(lines))
				}
				for i := range min(len(got), len(lines)) {
					if got[i] != lines[i] {
						t.Fatalf("got  %.300s\nwant %.300s", got[i], lines[i])
					}
				}
				seen.Add(1)
			})
		}
	})
	if n := seen.Load(); n < 10 && !t.Failed() {
		t.Errorf("%d images only", n)
	}
	if meta, data := shared.Bytes(); meta > 200_000 || data > 2<<20 {
		t.Errorf("cache of %d and %d bytes", meta, data)
	}
}
