package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

func posixMmap(t *testing.T, root string) {
	fd := open(t, root+"/big", unix.O_RDONLY)
	for _, c := range []struct {
		name        string
		prot, flags int
	}{
		{"private", unix.PROT_READ, unix.MAP_PRIVATE},
		{"shared", unix.PROT_READ, unix.MAP_SHARED},
		{"private to execute", unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE},
		{"private to write", unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE},
		{"populated", unix.PROT_READ, unix.MAP_PRIVATE | unix.MAP_POPULATE},
	} {
		b, err := unix.Mmap(fd, 0, len(posixBig), c.prot, c.flags)
		if err != nil {
			t.Errorf("mmap %s: %v", c.name, err)
			continue
		}
		if !bytes.Equal(b, posixBig) {
			t.Errorf("mmap %s: wrong content", c.name)
		}
		if c.prot&unix.PROT_WRITE != 0 {
			b[5]++ // on our own page only
		}
		unix.Munmap(b)
	}
	b, err := unix.Mmap(fd, 2<<20, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil || !bytes.Equal(b, posixBig[2<<20:2<<20+4096]) {
		t.Errorf("mmap from the middle: %v", err)
	}
	unix.Munmap(b)
	_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	checkErrno(t, "mmap to write back", err, unix.EACCES)
	if got, err := os.ReadFile(root + "/big"); err != nil || !bytes.Equal(got, posixBig) {
		t.Errorf("a private page was written back, or %v", err)
	}
}

// dirent is one entry of getdents64(2); next is where telldir(3) stands behind it.
type dirent struct {
	name string
	ino  uint64
	kind byte
	next int64
}

// getdents reads one buffer of a directory.
func getdents(t *testing.T, fd, size int) (list []dirent) {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatalf("getdents: %v", err)
	}
	for b := buf[:n]; len(b) > 0; {
		length := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:length]), "\x00")
		list = append(list, dirent{name, binary.NativeEndian.Uint64(b), b[18], int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[length:]
	}
	return list
}

func posixSeekdir(t *testing.T, root string) {
	fd := open(t, root+"/many", unix.O_RDONLY|unix.O_DIRECTORY)
	var all []dirent
	for {
		page := getdents(t, fd, 4096)
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.name)
	}
	slices.Sort(names)
	if len(names) != manyEntries+2 || len(slices.Compact(slices.Clone(names))) != len(names) || names[2] != "entry-00000" || names[len(names)-1] != fmt.Sprintf("entry-%05d", manyEntries-1) {
		t.Fatalf("%d entries, from %q to %q", len(names), names[0], names[len(names)-1])
	}
	if all[0].name != "." || all[1].name != ".." || all[0].kind != unix.DT_DIR || all[2].kind != unix.DT_REG {
		t.Errorf("the listing begins with %+v", all[:3])
	}
	other := open(t, root+"/many", unix.O_RDONLY|unix.O_DIRECTORY) // positions are the directory's, not the descriptor's
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		i := r.IntN(len(all))
		for _, fd := range []int{fd, other} {
			if _, err := unix.Seek(fd, all[i].next, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
			page := getdents(t, fd, 512)
			want := all[i+1 : min(len(all), i+1+len(page))]
			if !slices.Equal(page, want) || len(page) == 0 && i+1 < len(all) {
				t.Fatalf("behind %q stands %+v, want %+v", all[i].name, page, want)
			}
		}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	if page := getdents(t, fd, 1<<16); page[0] != all[0] {
		t.Errorf("rewound, the listing begins with %+v", page[0])
	}
}

func posixStat(t *testing.T, root string) {
	mtime := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	for _, c := range []struct {
		name  string
		mode  uint32
		nlink uint64
		size  int64
	}{
		{"file", unix.S_IFREG | 0o644, 1, 10}, {"empty", unix.S_IFREG | 0o600, 1, 0}, {"none", unix.S_IFREG, 1, 7},
		{"suid", unix.S_IFREG | 0o6755, 1, 4}, {"big", unix.S_IFREG | 0o755, 1, int64(len(posixBig))}, {"one", unix.S_IFREG | 0o644, 2, 6},
		{"sticky", unix.S_IFDIR | 0o1777, 1, 4096}, {"closed", unix.S_IFDIR | 0o700, 1, 4096}, {"plain", unix.S_IFDIR | 0o755, 1, 4096}, // one link: see attr in fs/image
		{"link", unix.S_IFLNK | 0o777, 1, 4}, {"long", unix.S_IFLNK | 0o777, 1, 1001},
		{"fifo", unix.S_IFIFO | 0o644, 1, 0}, {"null", unix.S_IFCHR | 0o666, 1, 0},
	} {
		var a, b unix.Stat_t
		if err := unix.Lstat(root+"/"+c.name, &a); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if a.Mode != c.mode || uint64(a.Nlink) != c.nlink || a.Size != c.size || a.Mtim.Sec != mtime {
			t.Errorf("%s: mode %#o, %d links, %d bytes, mtime %d", c.name, a.Mode, a.Nlink, a.Size, a.Mtim.Sec)
		}
		if a.Blksize != 4096 || a.Blocks*512 < a.Size || a.Blocks > a.Size/512+8 {
			t.Errorf("%s: %d blocks, blksize %d for %d bytes", c.name, a.Blocks, a.Blksize, a.Size)
		}
		if c.name == "null" && a.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("null: device %#x", a.Rdev)
		}
		if err := unix.Lstat(root+"/"+c.name, &b); err != nil || a != b {
			t.Errorf("%s: two looks differ: %+v, %+v, %v", c.name, a, b, err)
		}
	}
	var one, two, file unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"one": &one, "two": &two, "file": &file} {
		if err := unix.Stat(root+"/"+name, st); err != nil {
			t.Fatal(err)
		}
	}
	if one.Ino != two.Ino || one.Ino == file.Ino || one.Dev != file.Dev {
		t.Errorf("inodes %d and %d of hard links, %d of another file", one.Ino, two.Ino, file.Ino)
	}
	fd := open(t, root, unix.O_RDONLY|unix.O_DIRECTORY)
	for _, d := range getdents(t, fd, 1<<16) {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, d.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || d.name != ".." && st.Ino != d.ino || byte(st.Mode>>12) != d.kind {
			t.Errorf("%s: inode %d and type %d in the listing; stat says %d, %#o, %v", d.name, d.ino, d.kind, st.Ino, st.Mode, err)
		}
	}
}

func posixLinks(t *testing.T, root string) {
	for name, want := range map[string]string{"link": "file", "dangling": "nowhere", "loop": "loop", "long": strings.Repeat("x/", 500) + "y"} {
		if got, err := os.Readlink(root + "/" + name); got != want || err != nil {
			t.Errorf("readlink %s: %.20q, %v", name, got, err)
		}
	}
	short := make([]byte, 2)
	if n, err := unix.Readlink(root+"/link", short); n != 2 || string(short) != "fi" || err != nil {
		t.Errorf("readlink into two bytes: %q, %v", short[:max(0, n)], err)
	}
}

// posixAccess: nothing can be written; the content can be read by all who see
// the mount, whatever the modes say, as with the reference client.
func posixAccess(t *testing.T, root string) {
	for _, c := range []struct {
		name string
		mode uint32
		want unix.Errno
	}{
		{"file", unix.F_OK, 0}, {"file", unix.R_OK, 0}, {"file", unix.W_OK, unix.EROFS}, {"file", unix.R_OK | unix.W_OK, unix.EROFS},
		{"none", unix.R_OK, 0}, {"big", unix.X_OK, 0}, {"closed", unix.R_OK | unix.X_OK, 0}, {"plain", unix.W_OK, unix.EROFS},
		{"new", unix.F_OK, unix.ENOENT}, {"file/x", unix.F_OK, unix.ENOTDIR}, {"dangling", unix.F_OK, unix.ENOENT}, {"loop", unix.F_OK, unix.ELOOP},
		{"fifo", unix.W_OK, 0}, // a fifo's data never reach the file system
	} {
		checkErrno(t, fmt.Sprintf("access %s, %d", c.name, c.mode), unix.Access(root+"/"+c.name, c.mode), c.want)
	}
	if err := exec.Command(root + "/file").Run(); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a file without x is run: %v", err)
	}
}

func posixXattr(t *testing.T, root string) {
	path := root + "/attr"
	list := make([]byte, 1000)
	n, err := unix.Listxattr(path, list)
	if got := strings.Split(strings.TrimSuffix(string(list[:max(0, n)]), "\x00"), "\x00"); err != nil || !slices.Equal(slices.Sorted(slices.Values(got)), []string{"user.a", "user.bin", "user.empty"}) {
		t.Errorf("listxattr: %q, %v", got, err)
	}
	need, err := unix.Listxattr(path, nil)
	if need != n || err != nil {
		t.Errorf("listxattr wants %d bytes, %v", need, err)
	}
	_, err = unix.Listxattr(path, list[:3])
	checkErrno(t, "listxattr into too little", err, unix.ERANGE)
	for name, want := range map[string]string{"user.a": "value", "user.empty": "", "user.bin": "\x00\xff"} {
		value := make([]byte, 100)
		if n, err := unix.Getxattr(path, name, value); err != nil || string(value[:n]) != want {
			t.Errorf("getxattr %s: %q, %v", name, value[:max(0, n)], err)
		}
		if n, err := unix.Getxattr(path, name, nil); err != nil || n != len(want) {
			t.Errorf("getxattr %s wants %d bytes, %v", name, n, err)
		}
	}
	for _, c := range []struct {
		file, name string
		room       int
		want       unix.Errno
	}{
		{"attr", "user.a", 4, unix.ERANGE}, {"attr", "user.none", 9, unix.ENODATA}, {"file", "user.a", 9, unix.ENODATA}, {"plain", "user.a", 9, unix.ENODATA},
		{"attr", "security.selinux", 9, unix.ENODATA}, {"attr", "system.posix_acl_access", 9, unix.ENODATA}, {"attr", "nonsense", 9, unix.ENODATA},
		{"new", "user.a", 9, unix.ENOENT},
	} {
		_, err := unix.Getxattr(root+"/"+c.file, c.name, make([]byte, c.room))
		checkErrno(t, "getxattr "+c.name+" of "+c.file, err, c.want)
	}
	if n, err := unix.Listxattr(root+"/file", list); n != 0 || err != nil {
		t.Errorf("a file without attributes lists %d bytes, %v", n, err)
	}
}

func posixStatfs(t *testing.T, root string) {
	var s unix.Statfs_t
	if err := unix.Statfs(root, &s); err != nil {
		t.Fatal(err)
	}
	if s.Type != unix.FUSE_SUPER_MAGIC || s.Namelen != 255 || s.Bsize != 4096 || s.Blocks == 0 || s.Bfree > s.Blocks || s.Files < manyEntries {
		t.Errorf("statfs: %+v", s)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV); s.Flags&want != want || s.Flags&unix.ST_NOEXEC != 0 {
		t.Errorf("mount flags %#x", s.Flags)
	}
}

// posixOther are calls that read-only programs make and that must not fail.
func posixOther(t *testing.T, root string) {
	fd := open(t, root+"/file", unix.O_RDONLY)
	checkErrno(t, "fsync", unix.Fsync(fd), 0)
	checkErrno(t, "flock", unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB), 0)
	checkErrno(t, "fcntl read lock", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}), 0)
	checkErrno(t, "fadvise", unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL), 0)
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	checkErrno(t, "isatty", err, unix.ENOTTY)
	for _, c := range []struct {
		whence int
		off    int64
		want   int64
	}{{unix.SEEK_END, 0, 10}, {unix.SEEK_SET, 99, 99}, {unix.SEEK_DATA, 3, 3}, {unix.SEEK_HOLE, 3, 10}} {
		if got, err := unix.Seek(fd, c.off, c.whence); got != c.want || err != nil {
			t.Errorf("lseek %d, whence %d: %d, %v", c.off, c.whence, got, err)
		}
	}
	_, err = unix.Seek(fd, 10, unix.SEEK_DATA)
	checkErrno(t, "lseek for data behind the end", err, unix.ENXIO)
	out, err := os.CreateTemp(shortDir(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	big := open(t, root+"/big", unix.O_RDONLY)
	for sent := 0; sent < len(posixBig); {
		n, err := unix.Sendfile(int(out.Fd()), big, nil, len(posixBig)-sent)
		if n <= 0 || err != nil {
			t.Fatalf("sendfile after %d bytes: %d, %v", sent, n, err)
		}
		sent += n
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, posixBig) {
		t.Errorf("sendfile copied something else, %v", err)
	}
	var x unix.Statx_t
	checkErrno(t, "statx", unix.Statx(unix.AT_FDCWD, root+"/file", unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &x), 0)
	if x.Size != 10 {
		t.Errorf("statx: %+v", x)
	}
}

// TestCheckPermissions: what modes forbid is shown to all who see the mount, but
// where the site wants them checked.
func TestCheckPermissions(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	tree.File("closed/tool", []byte("a tool below a closed directory"), 0o755)
	tree.Dir("closed", 0o700)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "modes.example.org"}, tree)
	for text, want := range map[string]int{"": 0, "check_permissions = true\n": 1} {
		m := mount(t, setup{Sources: []source{src}, Mount: text})
		for uid, status := range map[uint32]int{0: 0, 65534: want} {
			c := m.Command("cat", m.Raw(src.FQRN, "closed/tool"))
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			if r := run(t, c); r.Status != status || (status == 0) != (r.Stdout != "") {
				t.Errorf("with %q, user %d: %+v", text, uid, r)
			}
		}
	}
}
