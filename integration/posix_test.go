package integration

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// What POSIX says of a read-only file system, asked of a mount by system calls.

const posixFQRN = "posix.example.org"

// posixBig is a file of several chunks in which each byte tells where it stands.
var posixBig = func() []byte {
	b := make([]byte, 3<<20+123)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}()

const manyEntries = 10_000

func posixTree() *cvmfstest.Tree {
	t := cvmfstest.NewTree()
	t.File("file", []byte("0123456789"), 0o644)
	t.File("empty", nil, 0o600)
	t.File("none", []byte("no bits"), 0)
	t.File("suid", []byte("bits"), 0o6755)
	t.File("big", posixBig, 0o755)
	t.File("one", []byte("shared"), 0o644)
	t.HardLink("two", "one")
	t.File("attr", nil, 0o644).Xattrs = map[string]string{"user.a": "value", "user.empty": "", "user.bin": "\x00\xff"}
	t.Dir("sticky", 0o1777)
	t.Dir("closed", 0o700)
	t.File("closed/inside", []byte("x"), 0o600)
	t.Symlink("link", "file")
	t.Symlink("dangling", "nowhere")
	t.Symlink("loop", "loop")
	t.Symlink("dirlink", "plain")
	t.Symlink("long", strings.Repeat("x/", 500)+"y")
	t.Special("fifo", unix.S_IFIFO|0o644, 0)
	t.Special("null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	t.Nested("plain")
	t.File("plain/a", []byte("a"), 0o644)
	t.File("plain/empty", nil, 0o644)
	t.File("plain/sub/big", posixBig[:100_000], 0o755)
	t.Nested("plain/sub/deeper")
	t.File("plain/sub/deeper/x", []byte("x"), 0o644)
	for i := range manyEntries {
		t.File(fmt.Sprintf("many/entry-%05d", i), nil, 0o644)
	}
	return t
}

func posixMount(t *testing.T) (m *mounted, root string) {
	t.Helper()
	_, _, src := newStratum(t).publish(cvmfstest.Options{FQRN: posixFQRN, ChunkSize: 1 << 20}, posixTree())
	m = mount(t, setup{Sources: []source{src}})
	return m, m.Raw(posixFQRN)
}

// TestMountPosix runs the whole table over one mount.
func TestMountPosix(t *testing.T) {
	_, root := posixMount(t)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, root string)
	}{
		{"TestFS", func(t *testing.T, root string) {
			if err := fstest.TestFS(os.DirFS(filepath.Join(root, "plain")), "a", "empty", "sub/big", "sub/deeper/x"); err != nil {
				t.Error(err)
			}
		}},
		{"open", posixOpen}, {"errno", posixErrno}, {"writes", posixWrites}, {"read", posixRead}, {"mmap", posixMmap},
		{"seekdir", posixSeekdir}, {"stat", posixStat}, {"links", posixLinks}, {"access", posixAccess}, {"xattr", posixXattr},
		{"statfs", posixStatfs}, {"other calls", posixOther},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, root) })
	}
}

// TestGoldenPosix runs fstest over plain golden trees, and what can be asked of
// any tree over a whole one.
func TestGoldenPosix(t *testing.T) {
	const fqrn = "alpha.golden.test"
	m := mount(t, setup{Sources: []source{newStratum(t).Golden(fqrn)}})
	listing := goldenListing(t, fqrn, 3, nil)
	for _, dir := range []string{"deep", "hard", "dup"} {
		var names []string
		for p := range listing {
			if name, ok := strings.CutPrefix(p, "/"+dir+"/"); ok {
				names = append(names, name)
			}
		}
		if err := fstest.TestFS(os.DirFS(m.Raw(fqrn, dir)), names...); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for p, e := range listing {
		p := m.Raw(fqrn, p)
		if e.Type == "f" {
			checkErrno(t, "open to write "+p, openErr(p, unix.O_RDWR), unix.EROFS)
			checkErrno(t, "open to truncate "+p, openErr(p, unix.O_TRUNC), unix.EROFS)
			checkErrno(t, "look below "+p, openErr(p+"/x", unix.O_RDONLY), unix.ENOTDIR)
		}
		if e.Type == "d" {
			checkErrno(t, "mkdir in "+p, unix.Mkdir(path.Join(p, "new"), 0o755), unix.EROFS)
			checkErrno(t, "open to write "+p, openErr(p, unix.O_RDWR), unix.EISDIR)
		}
		if e.Type != "l" {
			checkErrno(t, "chmod "+p, unix.Chmod(p, 0o777), unix.EROFS)
		}
		checkErrno(t, "unlink "+p, unix.Unlink(p), unix.EROFS, unix.EISDIR, unix.EBUSY)
	}
}

func openErr(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// checkErrno wants one of the errno; 0 is success.
func checkErrno(t *testing.T, what string, err error, want ...unix.Errno) {
	t.Helper()
	got := unix.Errno(0)
	if err != nil {
		var ok bool
		if got, ok = err.(unix.Errno); !ok {
			t.Errorf("%s: %v is no errno", what, err)
			return
		}
	}
	if !slices.Contains(want, got) {
		t.Errorf("%s: errno %d (%s), want %d", what, got, got, want)
	}
}

func posixOpen(t *testing.T, root string) {
	for _, c := range []struct {
		name  string
		flags int
		want  unix.Errno
	}{
		{"file", unix.O_RDONLY, 0},
		{"file", unix.O_WRONLY, unix.EROFS},
		{"file", unix.O_RDWR, unix.EROFS},
		{"file", unix.O_RDONLY | unix.O_TRUNC, unix.EROFS},
		{"file", unix.O_WRONLY | unix.O_APPEND, unix.EROFS},
		{"file", unix.O_RDONLY | unix.O_CREAT, 0}, // it is there
		{"file", unix.O_RDONLY | unix.O_CREAT | unix.O_EXCL, unix.EEXIST},
		{"new", unix.O_RDONLY, unix.ENOENT},
		{"new", unix.O_WRONLY | unix.O_CREAT, unix.EROFS},
		{"new", unix.O_RDONLY | unix.O_CREAT | unix.O_EXCL, unix.EROFS},
		{"file", unix.O_RDONLY | unix.O_DIRECTORY, unix.ENOTDIR},
		{"file", unix.O_RDONLY | unix.O_DIRECT, 0},
		{"file", unix.O_RDONLY | unix.O_NOFOLLOW, 0},
		{"file", unix.O_PATH, 0},
		{"plain", unix.O_RDONLY | unix.O_DIRECTORY, 0},
		{"plain", unix.O_WRONLY, unix.EISDIR},
		{"plain", unix.O_RDWR, unix.EISDIR},
		{"plain", unix.O_RDWR | unix.O_TMPFILE, unix.EROFS},
		{"link", unix.O_RDONLY, 0},
		{"link", unix.O_RDONLY | unix.O_NOFOLLOW, unix.ELOOP},
		{"link", unix.O_PATH | unix.O_NOFOLLOW, 0},
		{"link", unix.O_RDWR, unix.EROFS},
		{"dangling", unix.O_RDONLY, unix.ENOENT},
		{"dangling", unix.O_WRONLY | unix.O_CREAT, unix.EROFS},
		{"loop", unix.O_RDONLY, unix.ELOOP},
		{"dirlink/a", unix.O_RDONLY, 0},
		{"dirlink", unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW, unix.ENOTDIR},
		{"none", unix.O_RDONLY, 0}, // content is readable by all who see the mount
		{"closed/inside", unix.O_RDONLY, 0},
		{"null", unix.O_RDONLY, unix.EACCES}, // nodev
	} {
		checkErrno(t, fmt.Sprintf("open %s with flags %#o", c.name, c.flags), openErr(filepath.Join(root, c.name), c.flags), c.want)
	}
}

func posixErrno(t *testing.T, root string) {
	var st unix.Stat_t
	for _, c := range []struct {
		path string
		want unix.Errno
	}{
		{"file/", unix.ENOTDIR}, {"file/x", unix.ENOTDIR}, {"link/x", unix.ENOTDIR}, {"nowhere/x", unix.ENOENT}, {"", 0}, {".", 0}, {"plain/", 0}, {"plain/..", 0}, {"plain/../file", 0},
		{"loop/x", unix.ELOOP}, {"dangling/x", unix.ENOENT}, {"long", unix.ENOENT}, {"FILE", unix.ENOENT},
		{strings.Repeat("n", 255), unix.ENOENT}, {strings.Repeat("n", 256), unix.ENAMETOOLONG}, {strings.Repeat("n", 1500), unix.ENAMETOOLONG},
		{"plain/" + strings.Repeat("n", 256), unix.ENAMETOOLONG}, {strings.Repeat("plain/../", 600), unix.ENAMETOOLONG},
	} {
		for range 2 { // the second answer may be the kernel's own
			checkErrno(t, fmt.Sprintf("stat %.40q", c.path), unix.Stat(root+"/"+c.path, &st), c.want)
		}
	}
	buf := make([]byte, 100)
	_, err := unix.Readlink(root+"/file", buf)
	checkErrno(t, "readlink of a file", err, unix.EINVAL)
	_, err = unix.Readlink(root+"/plain", buf)
	checkErrno(t, "readlink of a directory", err, unix.EINVAL)
	fd := open(t, root+"/plain", unix.O_RDONLY)
	_, err = unix.Read(fd, buf)
	checkErrno(t, "read of a directory", err, unix.EISDIR)
	file := open(t, root+"/file", unix.O_RDONLY)
	_, err = unix.Getdents(file, buf)
	checkErrno(t, "getdents of a file", err, unix.ENOTDIR)
	_, err = unix.Write(file, buf)
	checkErrno(t, "write to a file that is open to read", err, unix.EBADF)
	_, err = unix.Pread(file, buf, -1)
	checkErrno(t, "pread from a negative offset", err, unix.EINVAL)
}

// open opens until the test ends.
func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func posixWrites(t *testing.T, root string) {
	at := func(name string) string { return filepath.Join(root, name) }
	fd := open(t, at("file"), unix.O_RDONLY)
	dir := open(t, at("plain"), unix.O_RDONLY)
	now := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	outside := shortDir(t)
	for _, c := range []struct {
		what string
		err  error
		want unix.Errno
	}{
		{"mkdir", unix.Mkdir(at("new"), 0o755), unix.EROFS},
		{"mkdir of what is there", unix.Mkdir(at("plain"), 0o755), unix.EEXIST},
		{"mknod", unix.Mknod(at("new"), unix.S_IFREG|0o644, 0), unix.EROFS},
		{"mkfifo", unix.Mkfifo(at("new"), 0o644), unix.EROFS},
		{"unlink", unix.Unlink(at("file")), unix.EROFS},
		{"unlink of what is not there", unix.Unlink(at("new")), unix.EROFS},
		{"rmdir", unix.Rmdir(at("sticky")), unix.EROFS},
		{"rename", unix.Rename(at("file"), at("new")), unix.EROFS},
		{"rename onto another", unix.Rename(at("file"), at("empty")), unix.EROFS},
		{"rename out of the mount", unix.Rename(at("file"), outside+"/x"), unix.EXDEV},
		{"exchange", unix.Renameat2(unix.AT_FDCWD, at("file"), unix.AT_FDCWD, at("empty"), unix.RENAME_EXCHANGE), unix.EROFS},
		{"link", unix.Link(at("file"), at("new")), unix.EROFS},
		{"link out of the mount", unix.Link(at("file"), outside+"/x"), unix.EXDEV},
		{"symlink", unix.Symlink("x", at("new")), unix.EROFS},
		{"chmod", unix.Chmod(at("file"), 0o777), unix.EROFS},
		{"fchmod", unix.Fchmod(fd, 0o777), unix.EROFS},
		{"chown", unix.Chown(at("file"), os.Getuid(), os.Getgid()), unix.EROFS},
		{"lchown", unix.Lchown(at("link"), os.Getuid(), os.Getgid()), unix.EROFS},
		{"fchown", unix.Fchown(fd, os.Getuid(), os.Getgid()), unix.EROFS},
		{"utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, at("file"), now, 0), unix.EROFS},
		{"utimensat of a link", unix.UtimesNanoAt(unix.AT_FDCWD, at("link"), now, unix.AT_SYMLINK_NOFOLLOW), unix.EROFS},
		{"truncate", unix.Truncate(at("file"), 0), unix.EROFS},
		{"truncate of a directory", unix.Truncate(at("plain"), 0), unix.EISDIR},
		{"ftruncate", unix.Ftruncate(fd, 0), unix.EINVAL},      // not open to write
		{"fallocate", unix.Fallocate(fd, 0, 0, 1), unix.EBADF}, // likewise
		{"setxattr", unix.Setxattr(at("attr"), "user.a", []byte("x"), 0), unix.EROFS},
		{"fsetxattr", unix.Fsetxattr(fd, "user.new", []byte("x"), 0), unix.EROFS},
		{"removexattr", unix.Removexattr(at("attr"), "user.a"), unix.EROFS},
		{"mkdirat", unix.Mkdirat(dir, "new", 0o755), unix.EROFS},
		{"unlinkat", unix.Unlinkat(dir, "a", 0), unix.EROFS},
	} {
		checkErrno(t, c.what, c.err, c.want)
	}
	if b, err := os.ReadFile(at("file")); string(b) != "0123456789" || err != nil {
		t.Errorf("after all that the file is %q, %v", b, err)
	}
}

func posixRead(t *testing.T, root string) {
	fd := open(t, root+"/file", unix.O_RDONLY)
	for _, c := range []struct {
		off  int64
		size int
		want string
	}{
		{0, 4, "0123"}, {8, 100, "89"}, {9, 1, "9"}, {10, 1, ""}, {11, 5, ""}, {1 << 40, 5, ""}, {1<<63 - 10, 5, ""}, {3, 0, ""},
	} {
		b := make([]byte, c.size)
		n, err := unix.Pread(fd, b, c.off)
		if err != nil || string(b[:max(n, 0)]) != c.want {
			t.Errorf("pread of %d at %d: %q, %v", c.size, c.off, b[:max(n, 0)], err)
		}
	}
	for _, flags := range []int{0, unix.O_DIRECT} { // across the ends of chunks and pages
		big := open(t, root+"/big", unix.O_RDONLY|flags)
		for _, off := range []int{0, 1, 4095, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1, 2<<20 - 5000, 3<<20 - 1, 3 << 20, len(posixBig) - 1} {
			for _, size := range []int{1, 4096, 10_000, 2 << 20} {
				if flags != 0 {
					off, size = off&^4095, (size+4095)&^4095
				}
				want := posixBig[off:min(len(posixBig), off+size)]
				buf := alignedBuffer(t, size)
				n, err := unix.Pread(big, buf, int64(off))
				if err != nil || !bytes.Equal(buf[:max(0, n)], want) {
					t.Errorf("pread of %d at %d, flags %#o: %d bytes, %v", size, off, flags, n, err)
				}
				unix.Munmap(buf)
			}
		}
	}
	empty := open(t, root+"/empty", unix.O_RDONLY)
	if n, err := unix.Read(empty, make([]byte, 9)); n != 0 || err != nil {
		t.Errorf("an empty file gives %d bytes, %v", n, err)
	}
}

// alignedBuffer begins at a page, as O_DIRECT may need it. The caller unmaps it.
func alignedBuffer(t *testing.T, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
