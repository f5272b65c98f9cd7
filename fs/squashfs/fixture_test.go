package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// memory is an image in memory.
type memory []byte

func (m memory) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 || off > int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// needed are the compressors that may not be missing where CI=true.
var needed = []string{"gzip", "zstd", "xz", "lz4"}

var allCompressors = []string{"gzip", "lzma", "lzo", "xz", "lz4", "zstd"}

var mksquashfsHelp = sync.OnceValue(func() string {
	out, _ := exec.Command("mksquashfs", "-help-all").CombinedOutput()
	more, _ := exec.Command("mksquashfs").CombinedOutput()
	return string(out) + string(more)
})

// needCompressor skips the test where mksquashfs is missing or lacks it.
func needCompressor(t testing.TB, name string) {
	t.Helper()
	if strings.Contains(mksquashfsHelp(), "\n\t"+name) {
		return
	}
	if os.Getenv("CI") == "true" && slices.Contains(needed, name) {
		t.Fatalf("mksquashfs with %s is missing: install squashfs-tools", name)
	}
	t.Skipf("mksquashfs with %s is missing", name)
}

// mksquashfs makes an image of dir and returns its path.
func mksquashfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	needCompressor(t, "gzip")
	if i := slices.Index(args, "-comp"); i >= 0 {
		needCompressor(t, args[i+1])
	}
	image := filepath.Join(t.TempDir(), "image.squashfs")
	cmd := exec.Command("mksquashfs", append([]string{dir, image, "-no-progress", "-processors", "1"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs %v: %v\n%s", args, err, out)
	}
	return image
}

func readImage(t testing.TB, path string) memory {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openMemory(t testing.TB, m memory, o Options) *FS {
	t.Helper()
	f, err := Open(t.Context(), m, 0, int64(len(m)), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// treeBuilder makes a source tree; the first error ends it.
type treeBuilder struct {
	t    testing.TB
	root string
	rng  *rand.ChaCha8
}

func newTree(t testing.TB) *treeBuilder {
	return &treeBuilder{t: t, root: filepath.Join(t.TempDir(), "tree"), rng: rand.NewChaCha8([32]byte{1})}
}

func (b *treeBuilder) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *treeBuilder) path(name string) string { return filepath.Join(b.root, name) }

func (b *treeBuilder) dir(name string) { b.ok(os.MkdirAll(b.path(name), 0o755)) }

func (b *treeBuilder) file(name string, content []byte) {
	b.ok(os.MkdirAll(filepath.Dir(b.path(name)), 0o755))
	b.ok(os.WriteFile(b.path(name), content, 0o644))
}

// random returns n bytes that do not compress.
func (b *treeBuilder) random(n int) []byte {
	p := make([]byte, n)
	_, _ = b.rng.Read(p)
	return p
}

// text returns n bytes that compress like text.
func (b *treeBuilder) text(n int) []byte {
	var out bytes.Buffer
	words := []string{"voxel", "slice", "echo", "gradient", "phase", "coil", "\n", "0.125", "TR=2000", "affine "}
	pick := b.random(n)
	for _, w := range pick {
		out.WriteString(words[int(w)%len(words)])
		if out.Len() >= n {
			break
		}
	}
	return out.Bytes()[:n]
}

func (b *treeBuilder) xattr(name, attr string, value []byte) {
	err := unix.Lsetxattr(b.path(name), attr, value, 0)
	if err == unix.ENOTSUP || err == unix.EPERM || err == unix.ENOSPC || err == unix.E2BIG {
		b.t.Logf("no %s here: %v", attr, err)
		return
	}
	b.ok(err)
}

// everything fills the tree with all that a squashfs image can hold; what only
// root may make is left out for others.
func (b *treeBuilder) everything() string {
	b.dir("")
	for _, n := range []int{0, 1, 4095, 4096, 4097, 32768, 131071, 131072, 131073} {
		b.file(fmt.Sprintf("sizes/text%d", n), b.text(n))
		b.file(fmt.Sprintf("sizes/random%d", n), b.random(n))
	}
	b.file("sizes/large", b.text(1<<20+5))
	b.sparse()
	if p, err := os.ReadFile("/proc/self/exe"); err == nil {
		b.file("program", p[:min(len(p), 700_000)])
	}
	for i := range 40 {
		b.file(fmt.Sprintf("small/f%03d", i), b.text(10+i*37))
	}
	b.names()
	deep := "deep"
	for i := range 40 {
		deep += fmt.Sprintf("/level%d", i)
	}
	b.file(deep+"/bottom", []byte("bottom"))
	b.dir("empty")
	b.ok(os.Link(b.path("sizes/text4097"), b.path("hard1")))
	b.ok(os.Link(b.path("sizes/text4097"), b.path("small/hard2")))
	b.file("modes/setuid", []byte("x"))
	b.ok(os.Chmod(b.path("modes/setuid"), 0o755|os.ModeSetuid))
	b.file("modes/none", nil)
	b.ok(os.Chmod(b.path("modes/none"), 0))
	b.dir("modes/sticky")
	b.ok(os.Chmod(b.path("modes/sticky"), 0o777|os.ModeSticky|os.ModeSetgid))
	b.ok(unix.Mkfifo(b.path("fifo"), 0o640))
	b.special()
	b.attributes()
	b.ok(os.Chtimes(b.path("program"), time.Unix(4_000_000_000, 0), time.Unix(4_000_000_000, 0)))
	b.ok(os.Chtimes(b.path("empty"), time.Unix(1, 0), time.Unix(0, 0)))
	return b.root
}

func (b *treeBuilder) sparse() {
	b.file("sparse/hole", nil)
	b.ok(os.Truncate(b.path("sparse/hole"), 3<<20+77))
	b.file("sparse/mixed", b.text(5000))
	f, err := os.OpenFile(b.path("sparse/mixed"), os.O_WRONLY, 0)
	b.ok(err)
	defer f.Close()
	for _, off := range []int64{1 << 20, 2<<20 + 333} {
		_, err = f.WriteAt(b.text(140_000), off)
		b.ok(err)
	}
	b.ok(f.Truncate(4 << 20))
}

func (b *treeBuilder) names() {
	long := strings.Repeat("n", 255)
	b.file("names/"+long, []byte("long"))
	b.file("names/"+strings.Repeat("ü", 127), []byte("umlauts"))
	b.file("names/ \n\t\\\xff", []byte("strange"))
	for i := range 700 {
		b.file(fmt.Sprintf("names/many/%s-%04d", strings.Repeat("m", i%90), i), nil)
	}
	for i, target := range []string{"..", "/absolute", "names/" + long, strings.Repeat("t/", 2000), "\xff"} {
		b.ok(os.Symlink(target, b.path(fmt.Sprintf("link%d", i))))
	}
	b.ok(os.Link(b.path("link0"), b.path("link0b")))
}

// special makes what only root may make.
func (b *treeBuilder) special() {
	if os.Getuid() != 0 {
		return
	}
	b.ok(unix.Mknod(b.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	b.ok(unix.Mknod(b.path("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	b.ok(unix.Mknod(b.path("socket"), unix.S_IFSOCK|0o755, 0))
	for i, id := range [][2]int{{1000, 100}, {65534, 65534}, {0, 4_000_000_000}} {
		b.file(fmt.Sprintf("owners/%d", i), nil)
		b.ok(os.Lchown(b.path(fmt.Sprintf("owners/%d", i)), id[0], id[1]))
	}
}

func (b *treeBuilder) attributes() {
	for i := range 30 {
		name := fmt.Sprintf("attrs/f%02d", i)
		b.file(name, []byte(name))
		b.xattr(name, "user.same", []byte("a value that stands elsewhere from its second use on"))
		b.xattr(name, fmt.Sprintf("user.own%d", i), b.random(i*7))
	}
	b.file("attrs/large", nil)
	b.xattr("attrs/large", "user.large", b.random(3000))
	b.xattr("attrs", "user.dir", []byte{0, 1, 2})
	if os.Getuid() != 0 {
		return
	}
	b.xattr("link1", "trusted.link", []byte("of a link"))
	b.xattr("fifo", "trusted.fifo", nil)
	b.xattr("null", "trusted.device", []byte("of a device"))
	b.xattr("socket", "security.note", []byte("of a socket"))
}
