package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"
)

// gate is a source that waits where it is told to.
type gate struct {
	memory
	from int64         // requests from here on wait
	open chan struct{} // for this, or for their context
}

func (g *gate) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= g.from {
		select {
		case <-g.open:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return g.memory.ReadAt(ctx, p, off)
}

// fileEntry finds a file in the root.
func fileEntry(t testing.TB, f *FS, name string) uint64 {
	t.Helper()
	e, err := f.Lookup(t.Context(), f.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	return e.Entry
}

// oneFile is an image of a file of n bytes that compresses, and its content.
func oneFile(t testing.TB, n int, args ...string) (memory, []byte) {
	b := newTree(t)
	content := b.text(n)
	b.file("file", content)
	return readImage(t, mksquashfs(t, b.root, args...)), content
}

// TestEachBlockOnce counts blocks: however often and however many read.
func TestEachBlockOnce(t *testing.T) {
	m, content := oneFile(t, 40*4096+100, "-b", "4096")
	for _, parallel := range []int{1, 4} {
		f := openMemory(t, m, Options{Parallel: parallel})
		entry := fileEntry(t, f, "file")
		var g errgroup.Group
		for i := range 16 {
			g.Go(func() error {
				p := make([]byte, len(content)+i)
				n, err := f.ReadAt(t.Context(), entry, p, 0)
				if err == nil && !bytes.Equal(p[:n], content) {
					err = errors.New("other content")
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := f.Counters().Data.Load(); n != 41 {
			t.Errorf("%d blocks inflated, there are 41", n)
		}
	}
}

// TestWaiters has many wait for one block: those whose context ends leave, one
// of the others takes over, and the block is inflated once.
func TestWaiters(t *testing.T) {
	m, content := oneFile(t, 4096, "-b", "4096", "-no-fragments")
	synctest.Test(t, func(t *testing.T) {
		source := &gate{memory: m, from: 1 << 40, open: make(chan struct{})}
		f, err := Open(t.Context(), source, 0, int64(len(m)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		entry := fileEntry(t, f, "file")
		source.from = 0
		var wg sync.WaitGroup
		read := func(ctx context.Context) *error {
			result := new(error)
			wg.Go(func() {
				p := make([]byte, 4096)
				if _, *result = f.ReadAt(ctx, entry, p, 0); *result == nil && !bytes.Equal(p, content) {
					*result = errors.New("other content")
				}
			})
			synctest.Wait()
			return result
		}
		first, cancelFirst := context.WithCancel(t.Context())
		second, cancelSecond := context.WithCancel(t.Context())
		results := []*error{read(first), read(second), read(t.Context()), read(t.Context())}
		cancelSecond()
		synctest.Wait()
		if !errors.Is(*results[1], context.Canceled) {
			t.Errorf("a waiter whose context ended: %v", *results[1])
		}
		cancelFirst()
		synctest.Wait()
		if !errors.Is(*results[0], context.Canceled) {
			t.Errorf("the loader whose context ended: %v", *results[0])
		}
		close(source.open)
		wg.Wait()
		if *results[2] != nil || *results[3] != nil {
			t.Errorf("the others: %v, %v", *results[2], *results[3])
		}
		if n := f.Counters().Data.Load(); n != 1 {
			t.Errorf("%d blocks inflated", n)
		}
	})
}

// TestFailureIsNotKept reads again after a source failed.
func TestFailureIsNotKept(t *testing.T) {
	m, content := oneFile(t, 5*4096, "-b", "4096")
	broken := &failing{memory: m}
	f, err := Open(t.Context(), broken, 0, int64(len(m)), Options{Parallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	entry := fileEntry(t, f, "file")
	broken.fail = true
	p := make([]byte, len(content))
	if _, err := f.ReadAt(t.Context(), entry, p, 0); !errors.Is(err, errBroken) || errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	broken.fail = false
	if n, err := f.ReadAt(t.Context(), entry, p, 0); err != nil || !bytes.Equal(p[:n], content) {
		t.Fatal(n, err)
	}
}

var errBroken = errors.New("the network is down")

type failing struct {
	memory
	fail bool
}

func (s *failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if s.fail {
		return 0, errBroken
	}
	return s.memory.ReadAt(ctx, p, off)
}

// TestBounds reads more than the cache may hold, from many sides at once.
func TestBounds(t *testing.T) {
	m, content := oneFile(t, 3<<20, "-b", "16384")
	for _, most := range []int64{-1, 1, 100_000, 1 << 20} {
		cache := NewCache(Limits{Metadata: most, Data: most})
		f := openMemory(t, m, Options{Cache: cache, Parallel: 2})
		entry := fileEntry(t, f, "file")
		var g errgroup.Group
		for worker := range 6 {
			g.Go(func() error {
				rng := rand.New(rand.NewPCG(1, uint64(worker)))
				for range 20 {
					off := rng.IntN(len(content))
					p := make([]byte, rng.IntN(60_000))
					n, err := f.ReadAt(t.Context(), entry, p, int64(off))
					if err != nil {
						return err
					}
					if !bytes.Equal(p[:n], content[off:min(off+len(p), len(content))]) {
						return fmt.Errorf("other content at %d", off)
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if meta, data := cache.Bytes(); meta > max(most, 0) || data > max(most, 0) {
			t.Errorf("%d and %d bytes kept, %d allowed", meta, data, most)
		}
		other := openMemory(t, m, Options{Cache: cache})
		if _, err := readTree(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		f.Forget()
		other.Forget()
		if meta, data := cache.Bytes(); meta != 0 || data != 0 {
			t.Errorf("%d and %d bytes after both were forgotten", meta, data)
		}
	}
}

// TestLargeFile reads a file with so many blocks that their places are marked.
func TestLargeFile(t *testing.T) {
	m, content := oneFile(t, 12<<20, "-b", "4096")
	f := openMemory(t, m, Options{Cache: NewCache(Limits{Metadata: 60_000, Data: 1 << 20})})
	entry := fileEntry(t, f, "file")
	rng := rand.New(rand.NewPCG(5, 6))
	offsets := []int64{int64(len(content)) - 1, 0, int64(len(content)) / 2}
	for range 500 {
		offsets = append(offsets, rng.Int64N(int64(len(content))))
	}
	for _, off := range offsets {
		p := make([]byte, 9000)
		n, err := f.ReadAt(t.Context(), entry, p, off)
		if err != nil || !bytes.Equal(p[:n], content[off:min(off+9000, int64(len(content)))]) {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
	}
}

// TestReadsOnlyWhatIsNeeded counts requests and bytes.
func TestReadsOnlyWhatIsNeeded(t *testing.T) {
	m, content := oneFile(t, 4<<20, "-b", "131072")
	f := openMemory(t, m, Options{})
	if n := f.Counters().Reads.Load(); n != 1 {
		t.Errorf("Open made %d requests", n)
	}
	entry := fileEntry(t, f, "file")
	before := f.Counters().Bytes.Load()
	p := make([]byte, 100)
	if _, err := f.ReadAt(t.Context(), entry, p, 2<<20); err != nil || !bytes.Equal(p, content[2<<20:2<<20+100]) {
		t.Fatal(err)
	}
	if n := f.Counters().Bytes.Load() - before; n > 131072 {
		t.Errorf("%d bytes for 100", n)
	}
	// All that Stat and ReadDir ask for lies within Tables.
	at := &bounded{memory: m, ranges: f.Tables()}
	g, err := Open(t.Context(), at, 0, int64(len(m)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := fileEntry(t, g, "file")
	if _, err := g.Stat(t.Context(), e); err != nil || len(at.outside) > 0 {
		t.Errorf("%v, read outside of Tables: %v", err, at.outside)
	}
}

type bounded struct {
	memory
	ranges  []Range
	outside []int64
}

func (b *bounded) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	inside := func(r Range) bool { return off >= r.Offset && off+int64(len(p)) <= r.Offset+r.Size }
	if !slices.ContainsFunc(b.ranges, inside) && off >= superblockSize {
		b.outside = append(b.outside, off)
	}
	return b.memory.ReadAt(ctx, p, off)
}

// TestContext ends calls before they begin.
func TestContext(t *testing.T) {
	m, _ := oneFile(t, 100_000)
	f := openMemory(t, m, Options{Parallel: 2})
	entry := fileEntry(t, f, "file")
	f.Forget()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"ReadAt":  second(f.ReadAt(ctx, entry, make([]byte, 10), 0)),
		"Stat":    second(f.Stat(ctx, entry)),
		"Lookup":  second(f.Lookup(ctx, f.Root(), "file")),
		"ReadDir": f.ReadDir(ctx, f.Root(), 0, func(Entry) bool { return true }),
		"Open":    second(Open(ctx, m, 0, int64(len(m)), Options{})),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
