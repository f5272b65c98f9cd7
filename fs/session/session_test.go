package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// thousand is a tree of 1,000 files in 10 directories, one link and a program.
func thousand() *memFS {
	fs := newMemFS()
	for i := range 10 {
		d := fs.dir(fs.root(), fmt.Sprintf("d%d", i))
		for j := range 100 {
			name := fmt.Sprintf("f%d", j)
			fs.file(d, name, pattern(name, 1000+j*97))
		}
	}
	fs.add(fs.root(), &memNode{name: "link", mode: fuse.S_IFLNK | 0o777, data: []byte("d0/f0")})
	fs.file(fs.root(), "prog", "#!/bin/sh\necho ran\n")
	return fs
}

func TestHotPassSendsNothing(t *testing.T) {
	m := serve(t, thousand())
	// stat, readdir, open, read, readlink, access and exec, by programs that
	// are not us.
	const pass = `find m -type f -exec cat {} + | cksum; find m | wc -l; stat -L -c %s m/link; readlink m/link; m/prog; test -r m/prog; ls m/absent 2>/dev/null || true; cd m`
	first := m.sh(t, pass)
	m.sh(t, pass)
	// The kernel may drop a cached page whenever it likes (DAMON reclaim takes a
	// few of the idle ones every minute even when memory is plenty), so what is
	// asserted is that a pass without a request exists, and that the others
	// read a few pages again and ask nothing else.
	var after Stats
	for try := 1; ; try++ {
		before := m.Stats()
		if out := m.sh(t, pass); out != first {
			t.Errorf("first pass:\n%s\nnow:\n%s", first, out)
		}
		after = m.Stats()
		if after.Total == before.Total {
			break
		}
		for op, n := range after.ByOpcode {
			d := n - before.ByOpcode[op]
			if d > 0 && (op != "READ" && op != "READDIRPLUS" || d > 100 || try == 5) {
				t.Fatalf("hot pass %d sent %d x %s", try, d, op)
			}
		}
	}
	for _, op := range []string{"INIT", "OPEN", "OPENDIR", "FLUSH", "ACCESS"} {
		if n := after.ByOpcode[op]; n != 1 {
			t.Errorf("%s was sent %d times, want 1", op, n)
		}
	}
	for _, op := range []string{"RELEASE", "RELEASEDIR", "READDIR"} {
		if n := after.ByOpcode[op]; n != 0 {
			t.Errorf("%s was sent %d times, want 0", op, n)
		}
	}
	var sum uint64
	for _, n := range after.ByOpcode {
		sum += n
	}
	if sum != after.Total {
		t.Errorf("Total %d, sum of ByOpcode %d", after.Total, sum)
	}
	if n := after.ByOpcode["READ"]; n < 1000 || n > 2100 {
		t.Errorf("READ was sent %d times for 1,000 files", n)
	}
}

func TestInit(t *testing.T) {
	m := serve(t, newMemFS())
	init := m.Init()
	if len(init.Request) < inHeaderSize+16 || len(init.Reply) < outHeaderSize+24 {
		t.Fatalf("INIT of %d bytes, reply of %d", len(init.Request), len(init.Reply))
	}
	offered := uint64(le32(init.Request[inHeaderSize+12:])) | fuse.CAP_INIT_EXT
	if len(init.Request) >= inHeaderSize+20 {
		offered |= uint64(le32(init.Request[inHeaderSize+16:])) << 32
	}
	flags := init.Flags()
	for name, bit := range map[string]uint64{
		"ASYNC_READ": fuse.CAP_ASYNC_READ, "PARALLEL_DIROPS": fuse.CAP_PARALLEL_DIROPS,
		"READDIRPLUS": fuse.CAP_READDIRPLUS, "CACHE_SYMLINKS": fuse.CAP_CACHE_SYMLINKS,
		"EXPLICIT_INVAL_DATA": fuse.CAP_EXPLICIT_INVAL_DATA, "MAX_PAGES": fuse.CAP_MAX_PAGES,
		"NO_OPEN_SUPPORT": fuse.CAP_NO_OPEN_SUPPORT, "NO_OPENDIR_SUPPORT": fuse.CAP_NO_OPENDIR_SUPPORT,
	} {
		if flags&bit != offered&bit {
			t.Errorf("%s: negotiated %t, offered %t", name, flags&bit != 0, offered&bit != 0)
		}
	}
	const unwanted = fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_WRITEBACK_CACHE |
		fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS | fuse.CAP_POSIX_ACL | fuse.CAP_PASSTHROUGH |
		fuse.CAP_OVER_IO_URING | fuse.CAP_ALLOW_IDMAP | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_ATOMIC_O_TRUNC
	if flags&unwanted != 0 {
		t.Errorf("unwanted capabilities %#x", flags&unwanted)
	}
	if n := le32(init.Reply[initReplyMaxWrite:]); n != maxWrite {
		t.Errorf("max_write %d", n)
	}
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func TestContent(t *testing.T) {
	fs := newMemFS()
	big := pattern("big", 5<<20+17)
	fs.file(fs.root(), "big", big)
	m := serve(t, fs)
	got, err := os.ReadFile(filepath.Join(m.dir, "big"))
	if err != nil || string(got) != big {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	fd, err := unix.Open(filepath.Join(m.dir, "big"), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<20)
	if n, err := unix.Pread(fd, buf, 4<<20); err != nil || string(buf[:n]) != big[4<<20:5<<20] {
		t.Errorf("direct read: %d bytes, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, ".go-fuse-epoll-hack")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("go-fuse's own file is there: %v", err)
	}
}

func TestBigDirectory(t *testing.T) {
	fs := newMemFS()
	d := fs.dir(fs.root(), "d")
	var want []string
	for i := range 20000 {
		name := strconv.Itoa(i) + strings.Repeat("x", i%200)
		fs.file(d, name, "")
		want = append(want, name)
	}
	m := serve(t, fs)
	for range 2 {
		entries, err := os.ReadDir(filepath.Join(m.dir, "d"))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]string, len(entries))
		for i, e := range entries {
			got[i] = e.Name()
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%d names, want %d", len(got), len(want))
		}
	}
}

func TestPanicIsEIO(t *testing.T) {
	fs := newMemFS()
	fs.file(fs.root(), "bad", "data").panics = true
	fs.file(fs.root(), "good", "data")
	m := serve(t, fs)
	for range 5 {
		if _, err := os.ReadFile(filepath.Join(m.dir, "bad")); !errors.Is(err, unix.EIO) {
			t.Errorf("bad: %v", err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.dir, "good")); string(b) != "data" {
		t.Errorf("good: %q, %v", b, err)
	}
	log := m.log.String()
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "a handler's mistake") ||
		!strings.Contains(log, "memfs_test.go") {
		t.Errorf("log has no panic with its stack:\n%s", log)
	}
}

func TestNotify(t *testing.T) {
	fs := newMemFS()
	d := fs.dir(fs.root(), "d")
	n := fs.file(d, "f", "old!")
	m := serve(t, fs)
	path := filepath.Join(m.dir, "d", "f")
	count := func(op string) uint64 { return m.Stats().ByOpcode[op] }
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	read()
	reads, lookups, attrs := count("READ"), count("LOOKUP"), count("GETATTR")
	n.replace("new!")
	if got := read(); got != "old!" || count("LOOKUP") != lookups || count("GETATTR") != attrs {
		t.Errorf("before the notification: %q, %v", got, m.Stats().ByOpcode)
	}
	if err := m.InodeNotify(n.id, 0, 0); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "new!" || count("READ") == reads || count("GETATTR") != attrs+1 || count("LOOKUP") != lookups {
		t.Errorf("after InodeNotify: %q, %v", got, m.Stats().ByOpcode)
	}
	if err := m.EntryNotify(d.id, "f"); err != nil {
		t.Fatal(err)
	}
	if read(); count("LOOKUP") != lookups+1 {
		t.Errorf("after EntryNotify: %v", m.Stats().ByOpcode)
	}
	if err := errors.Join(m.InodeNotify(1<<40, 0, 0), m.EntryNotify(d.id, "absent"), m.EntryNotify(1<<40, "f")); err != nil {
		t.Errorf("unknown to the kernel: %v", err)
	}
	for _, name := range []string{"", "a/b", "a\x00", strings.Repeat("n", 5000)} {
		if m.EntryNotify(d.id, name) == nil {
			t.Errorf("EntryNotify took a name of %d bytes", len(name))
		}
	}
}

func TestOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	fs := thousand()
	hang := fs.hanging(fs.root(), "hang")
	m := serve(t, fs)
	got := readAsync(filepath.Join(m.dir, "hang"))
	receive(t, "the READ", hang.entered)
	if out := m.sh(t, "find m/d0 -type f -exec cat {} + | wc -c"); out != strconv.Itoa(100*1000+97*99*100/2) {
		t.Errorf("%s bytes", out)
	}
	close(hang.hang)
	if r := receive(t, "the answer", got); r.err != nil || r.data != "late\n" {
		t.Errorf("%q, %v", r.data, r.err)
	}
}

func TestServeRefusesOtherDescriptors(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := New(f, newMemFS(), Options{}).Serve(); err == nil {
		t.Error("/dev/null was served")
	}
}

func TestUnmountBeforeServe(t *testing.T) {
	dir := mountDir(t)
	f, err := Mount(t.Context(), MountOptions{Mountpoint: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Unmount(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	s := New(f, newMemFS(), Options{})
	if err := s.Serve(); err != nil {
		t.Error(err)
	}
	if closed(s.ready) {
		t.Error("Ready though INIT was never answered")
	}
}

type readResult struct {
	data string
	err  error
}

// readAsync reads a file on a thread that may wait for long.
func readAsync(path string) <-chan readResult {
	c := make(chan readResult, 1)
	go func() {
		b, err := os.ReadFile(path)
		c <- readResult{string(b), err}
	}()
	return c
}
