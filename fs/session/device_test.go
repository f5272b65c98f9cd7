package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestReplyThatTheKernelRefuses(t *testing.T) {
	fs := newMemFS()
	fs.add(fs.root(), &memNode{name: "link", mode: fuse.S_IFLNK | 0o777, data: []byte("x"), errno: 5000})
	m := serve(t, fs)
	if _, err := os.Readlink(filepath.Join(m.dir, "link")); !errors.Is(err, unix.EIO) {
		t.Errorf("%v, want EIO", err)
	}
}

// quiet drops what go-fuse writes about garbage by way of package log.
func quiet(t testing.TB) {
	w := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(w) })
}

// Garbage that the kernel would never send: no panic, and an error where a
// reply is due.
func TestHandleGarbage(t *testing.T) {
	quiet(t)
	s := New(os.Stdin, newMemFS(), Options{})
	out := make([]byte, slotOut)
	for opcode := range uint32(120) {
		for _, size := range []int{inHeaderSize, inHeaderSize + 7, inHeaderSize + 8, inHeaderSize + 64, 300} {
			in := make([]byte, size)
			for i := range in {
				in[i] = 0xff
			}
			put(in, uint32(size), opcode, 1)
			s.handle(in, out)
		}
	}
}

func FuzzHandle(f *testing.F) {
	quiet(f)
	for opcode := range uint32(54) {
		in := make([]byte, inHeaderSize+48)
		put(in, uint32(len(in)), opcode, 1)
		f.Add(in)
	}
	s := New(os.Stdin, thousand(), Options{})
	out := make([]byte, slotOut)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < inHeaderSize || len(in) > slotIn {
			return
		}
		size, ok := s.handle(in, out)
		if ok && size > 0 && int(binary.NativeEndian.Uint32(out)) != size {
			t.Errorf("a reply of %d bytes says %d", size, binary.NativeEndian.Uint32(out))
		}
	})
}

func TestSlots(t *testing.T) {
	p := newSlotPool(slog.New(slog.DiscardHandler))
	var all []*slot
	for range maxLocked + 10 {
		s := p.get()
		if len(s.in) != slotIn || len(s.out) != slotOut || cap(s.in) != slotIn {
			t.Fatalf("in %d, out %d", len(s.in), len(s.out))
		}
		s.in[0], s.in[slotIn-1], s.out[0], s.out[slotOut-1] = 1, 1, 1, 1
		all = append(all, s)
	}
	total, locked, refused := p.stats()
	if total != maxLocked+10 || locked > maxLocked || (locked < maxLocked) != refused {
		t.Errorf("%d slots, %d locked, refused %t", total, locked, refused)
	}
	if kb := lockedKiB(t); kb < locked*(slotIn+slotOut)>>10 {
		t.Errorf("the kernel counts %d KiB locked, for %d slots", kb, locked)
	}
	for _, s := range all[1:] {
		p.put(s)
	}
	if s := p.get(); locked > 1 && !s.locked {
		t.Error("a locked slot was free and was not taken")
	} else {
		p.put(s)
	}
	p.trimFree()
	if total, _, _ := p.stats(); total != 1 {
		t.Errorf("%d slots after the trim", total)
	}
	p.close()
	p.put(all[0])
	if total, locked, _ := p.stats(); total != 0 || locked != 0 {
		t.Errorf("%d slots, %d locked after close", total, locked)
	}
}

// lockedKiB is the kernel's own count of what this process has locked.
func lockedKiB(t *testing.T) (kb int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmLck:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// A read that would block (another process set O_NONBLOCK) waits by poll.
func TestNonblockingDescriptor(t *testing.T) {
	m := serve(t, thousand())
	if err := unix.SetNonblock(m.fd, true); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := unix.Statfs(m.dir, new(unix.Statfs_t)); err != nil {
			t.Fatal(err)
		}
	}
	if out := m.sh(t, "find m -type f | wc -l"); out != "1002" {
		t.Errorf("%s files", out)
	}
}

func BenchmarkStatfs(b *testing.B) {
	m := serve(b, newMemFS())
	b.ResetTimer()
	for range b.N {
		if err := unix.Statfs(m.dir, new(unix.Statfs_t)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatfs4Clients(b *testing.B) {
	m := serve(b, newMemFS())
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range b.N / 4 {
				unix.Statfs(m.dir, new(unix.Statfs_t))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "req/s")
}
