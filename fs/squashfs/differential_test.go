package squashfs

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// kernelTree mounts an image with the kernel and reads it.
func kernelTree(t *testing.T, image, compressor string) (tree, bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("not root: not compared with the kernel")
		return nil, false
	}
	dir := t.TempDir()
	out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", image, dir).CombinedOutput()
	if err != nil {
		t.Logf("not compared with the kernel, which cannot mount %s: %v %s", compressor, err, out)
		return nil, false
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}()
	return hostTree(t, dir), true
}

// images are the ways in which mksquashfs is called: each compressor, block
// size and option at least once, rather than all of their products. FULL=1
// makes it most of them.
func images() [][]string {
	var all [][]string
	for _, options := range []string{
		"", "-noI -noD -noF -noX -noId -b 65536",
		"-b 8192 -noD -no-exports -nopad -Xstrategy huffman_only",
		"-b 524288 -noX -no-sparse -always-use-fragments -Xcompression-level 1 -Xwindow-size 8",
		"-comp lzma -b 16384 -always-use-fragments", "-comp lzma -noId -no-tailends",
		"-comp lzo -b 1048576 -noI", "-comp lzo -b 32768 -all-root -Xalgorithm lzo1x_1",
		"-comp xz -b 262144 -no-fragments", "-comp xz -b 1048576 -no-xattrs -Xdict-size 75% -Xbcj x86",
		"-comp lz4 -b 4096 -noId", "-comp lz4 -b 1048576 -Xhc -no-hardlinks -no-duplicates",
		"-comp zstd -b 4096 -no-fragments", "-comp zstd -b 131072 -noF -Xcompression-level 1",
	} {
		all = append(all, strings.Fields(options))
	}
	if os.Getenv("FULL") == "1" {
		return append(all, moreImages()...)
	}
	return all
}

func moreImages() [][]string {
	var all [][]string
	for _, c := range allCompressors {
		for _, size := range []string{"4096", "131072", "1048576"} {
			all = append(all, []string{"-comp", c, "-b", size})
		}
		all = append(all, []string{"-comp", c, "-no-fragments"}, []string{"-comp", c, "-always-use-fragments", "-b", "16384"},
			[]string{"-comp", c, "-noI", "-noId", "-b", "65536"}, []string{"-comp", c, "-noI", "-no-fragments", "-no-exports", "-no-xattrs", "-b", "524288"})
	}
	for _, more := range []string{
		"-noI -noD -noF -noX", "-noI", "-noD", "-noF", "-noX", "-noId", "-no-exports", "-all-root", "-no-xattrs", "-no-sparse",
		"-no-duplicates", "-no-hardlinks", "-no-tailends", "-b 8192", "-b 32768", "-b 262144", "-b 524288", "-nopad",
		"-Xcompression-level 1 -Xwindow-size 8", "-Xstrategy huffman_only", "-Xstrategy fixed,run_length_encoded",
		"-comp xz -Xbcj x86,arm,armthumb,powerpc,sparc,ia64", "-comp xz -Xdict-size 8192 -b 16384", "-comp xz -Xdict-size 75%",
		"-comp lz4 -Xhc", "-comp zstd -Xcompression-level 1", "-comp zstd -Xcompression-level 22",
		"-comp lzo -Xalgorithm lzo1x_1", "-comp lzo -Xalgorithm lzo1x_1_11", "-comp lzo -Xalgorithm lzo1x_1_12",
		"-comp lzo -Xalgorithm lzo1x_1_15", "-comp lzo -Xcompression-level 1",
	} {
		all = append(all, strings.Fields(more))
	}
	return all
}

// changed says how the options change what the source looks like.
func changed(args []string) func(*row) {
	options := " " + strings.Join(args, " ") + " "
	return func(r *row) {
		asSource(r)
		if strings.Contains(options, " -all-root ") {
			r.uid, r.gid = 0, 0
		}
		if strings.Contains(options, " -no-xattrs ") {
			r.xattrs = ""
		}
		if strings.Contains(options, " -no-hardlinks ") {
			r.nlink = 0
		}
	}
}

// TestDifferential compares images of all kinds with their source, with the
// kernel's squashfs and with what unsquashfs lists.
func TestDifferential(t *testing.T) {
	source := newTree(t).everything()
	want := hostTree(t, source)
	var mounted sync.Map // names of compressors
	t.Run("images", func(t *testing.T) {
		for _, args := range images() {
			t.Run(strings.Join(args, " "), func(t *testing.T) {
				t.Parallel()
				image := mksquashfs(t, source, args...)
				f := openMemory(t, readImage(t, image), Options{Parallel: 3})
				got, err := readTree(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, "source", got, want, changed(args))
				name := f.Superblock().Compression.String()
				if kernel, ok := kernelTree(t, image, name); ok {
					compare(t, "kernel", got, kernel, sameAs)
					mounted.Store(name, true)
				}
				compareListing(t, got, image)
				lookAgain(t, f, got)
			})
		}
	})
	for _, name := range needed {
		if _, ok := mounted.Load(name); os.Getenv("CI") == "true" && os.Getuid() == 0 && !ok && !t.Failed() {
			t.Errorf("no %s image was compared with the kernel", name)
		}
	}
}

// compareListing compares a tree with what unsquashfs lists of its image.
func compareListing(t *testing.T, got tree, image string) {
	t.Helper()
	out, err := exec.Command("unsquashfs", "-lln", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for name, r := range got {
		if r.mode&unix.S_IFMT == unix.S_IFDIR || strings.ContainsAny(name, " \n\t\\") || !utf8.ValidString(name) {
			continue
		}
		line := " " + filepath.Join("squashfs-root", name) + "\n"
		if r.mode&unix.S_IFMT == unix.S_IFLNK {
			line = " " + filepath.Join("squashfs-root", name) + " -> " + r.link + "\n"
		}
		at := strings.Index(text, line)
		if at < 0 {
			t.Fatalf("unsquashfs does not list %q", line)
		}
		head := strings.Fields(text[strings.LastIndex(text[:at], "\n")+1 : at])
		if owner := fmt.Sprintf("%d/%d", r.uid, r.gid); head[1] != owner {
			t.Errorf("%q: owner %s, unsquashfs says %s", name, owner, head[1])
		}
		if r.mode&unix.S_IFMT == unix.S_IFREG && head[2] != fmt.Sprint(r.size) {
			t.Errorf("%q: %d bytes, unsquashfs says %s", name, r.size, head[2])
		}
	}
	// Once for each name, and one line for each directory we left out.
	if lines := strings.Count(text, "squashfs-root"); lines < len(got) {
		t.Errorf("unsquashfs lists %d names, we %d", lines, len(got))
	}
}

// TestLargeDirectory has a directory with an index of many pieces.
func TestLargeDirectory(t *testing.T) {
	b := newTree(t)
	b.dir("large")
	const count = 50_000
	for i := range count {
		// An empty file by one system call.
		b.ok(unix.Mknod(b.path(fmt.Sprintf("large/%d-%s", i, strings.Repeat("x", i%50))), unix.S_IFREG|0o644, 0))
	}
	image := mksquashfs(t, b.root)
	f := openMemory(t, readImage(t, image), Options{})
	got, err := readTree(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "source", got, hostTree(t, b.root), asSource)
	if kernel, ok := kernelTree(t, image, "gzip"); ok {
		compare(t, "kernel", got, kernel, sameAs)
	}
	e, err := f.Lookup(t.Context(), f.Root(), "large")
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.inode(t.Context(), e.Entry)
	if err != nil || n.indexed < 50 {
		t.Fatalf("index of %d pieces: %v", n.indexed, err)
	}
	maps.DeleteFunc(got, func(name string, _ row) bool { return strings.HasSuffix(name, "xx") }) // a fiftieth and more are left
	lookAgain(t, f, got)
	// With an index one look-up inflates the inode, its index and one block.
	fresh := openMemory(t, readImage(t, image), Options{})
	if _, err := fresh.Lookup(t.Context(), e.Entry, "13000-"); err != nil {
		t.Fatal(err)
	}
	if blocks := fresh.Counters().Metadata.Load(); blocks > 4 {
		t.Errorf("a look-up inflated %d blocks", blocks)
	}
}

// TestEmptyImage has a root and nothing else.
func TestEmptyImage(t *testing.T) {
	b := newTree(t)
	b.dir("")
	for _, args := range []string{"", "-no-exports -no-xattrs", "-noI"} {
		image := mksquashfs(t, b.root, strings.Fields(args)...)
		f := openMemory(t, readImage(t, image), Options{})
		got, err := readTree(t.Context(), f)
		if err != nil || len(got) != 1 {
			t.Fatalf("%s: %d names, %v", args, len(got), err)
		}
		if kernel, ok := kernelTree(t, image, "gzip"); ok {
			compare(t, "kernel", got, kernel, sameAs)
		}
	}
}

// TestExported checks the export table against the inodes, and numbers that
// are inode numbers against those that are places.
func TestExported(t *testing.T) {
	source := newTree(t).everything()
	m := readImage(t, mksquashfs(t, source))
	f := openMemory(t, m, Options{})
	for i := uint32(1); i <= f.Superblock().Inodes; i++ {
		entry, err := f.Exported(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := f.inode(t.Context(), entry); err != nil || n.number != i {
			t.Fatalf("inode %d: %+v, %v", i, n, err)
		}
	}
	numbered := openMemory(t, m, Options{})
	if err := numbered.chooseNumbers(100); err != nil || !numbered.numbered {
		t.Fatal(err)
	}
	want, err := readTree(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readTree(t.Context(), numbered)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "places", got, want, sameAs)
	lookAgain(t, numbered, got)
	none := openMemory(t, readImage(t, mksquashfs(t, source, "-no-exports")), Options{})
	if err := none.chooseNumbers(100); err == nil {
		t.Error("a large inode table without an export table was accepted")
	}
}
