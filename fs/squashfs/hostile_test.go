package squashfs

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

var few = limits{names: 300, bytes: 1 << 20}

// walk opens an image and reads some of it.
func walk(t testing.TB, m memory) (tree, error) {
	f, err := Open(t.Context(), m, 0, int64(len(m)), Options{Cache: NewCache(Limits{Metadata: 1 << 20, Data: 1 << 20})})
	if err != nil {
		return nil, err
	}
	return readSome(t.Context(), f, few)
}

// expected reports whether an error is one that a damaged image may give.
func expected(err error) bool {
	return err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported) || errors.Is(err, errLimit) ||
		errors.Is(err, volume.ErrStale) || errors.Is(err, volume.ErrNotDir) || errors.Is(err, volume.ErrNotLink) ||
		errors.Is(err, volume.ErrIsDir) || errors.Is(err, iofs.ErrInvalid) || errors.Is(err, iofs.ErrNotExist) || errors.Is(err, volume.ErrNoXattr)
}

func TestHostileSuperblock(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		super func(p []byte)
		want  error
	}{
		"in order":              {func([]byte) {}, nil},
		"magic":                 {func(p []byte) { p[0] = 'x' }, ErrCorrupt},
		"big endian":            {func(p []byte) { copy(p, "sqsh") }, ErrUnsupported},
		"version 3.1":           {func(p []byte) { le.PutUint32(p[28:], 3|1<<16) }, ErrUnsupported},
		"compressor 7":          {func(p []byte) { le.PutUint16(p[20:], 7) }, ErrUnsupported},
		"compressor 0":          {func(p []byte) { le.PutUint16(p[20:], 0) }, ErrUnsupported},
		"block size 0":          {func(p []byte) { le.PutUint32(p[12:], 0) }, ErrCorrupt},
		"block size 2^31":       {func(p []byte) { le.PutUint32(p[12:], 1<<31) }, ErrCorrupt},
		"block size 5000":       {func(p []byte) { le.PutUint32(p[12:], 5000) }, ErrCorrupt},
		"block logarithm":       {func(p []byte) { le.PutUint16(p[22:], 13) }, ErrCorrupt},
		"bytes used 2^63":       {func(p []byte) { le.PutUint64(p[40:], 1<<63) }, ErrCorrupt},
		"bytes used 10":         {func(p []byte) { le.PutUint64(p[40:], 10) }, ErrCorrupt},
		"inodes 0":              {func(p []byte) { le.PutUint32(p[4:], 0) }, ErrCorrupt},
		"ids 0":                 {func(p []byte) { le.PutUint16(p[26:], 0) }, ErrCorrupt},
		"ids 65535":             {func(p []byte) { le.PutUint16(p[26:], 65535) }, ErrCorrupt},
		"id table 2^63":         {func(p []byte) { le.PutUint64(p[48:], 1<<63) }, ErrCorrupt},
		"id table at the end":   {func(p []byte) { le.PutUint64(p[48:], le.Uint64(p[40:])) }, ErrCorrupt},
		"root 2^63":             {func(p []byte) { le.PutUint64(p[32:], 1<<63) }, ErrCorrupt},
		"root offset 8192":      {func(p []byte) { le.PutUint64(p[32:], 8192) }, ErrCorrupt},
		"inode table 2^63":      {func(p []byte) { le.PutUint64(p[64:], 1<<63) }, ErrCorrupt},
		"inode table 0":         {func(p []byte) { le.PutUint64(p[64:], 0) }, ErrCorrupt},
		"tables change places":  {func(p []byte) { le.PutUint64(p[72:], le.Uint64(p[64:])-1) }, ErrCorrupt},
		"directory table 2^63":  {func(p []byte) { le.PutUint64(p[72:], 1<<63) }, ErrCorrupt},
		"directory table -1":    {func(p []byte) { le.PutUint64(p[72:], absent) }, ErrCorrupt},
		"fragments, no table":   {func(p []byte) { le.PutUint32(p[16:], 1) }, ErrCorrupt},
		"fragments 2^32-1":      {func(p []byte) { le.PutUint32(p[16:], 1<<32-1); le.PutUint64(p[80:], le.Uint64(p[48:])) }, ErrCorrupt},
		"export table of 32 GB": {func(p []byte) { le.PutUint32(p[4:], 1<<32-1); le.PutUint64(p[88:], le.Uint64(p[48:])) }, ErrCorrupt},
		"xattr table cut off":   {func(p []byte) { le.PutUint64(p[56:], le.Uint64(p[40:])-8) }, ErrCorrupt},
		"options of nothing":    {func(p []byte) { le.PutUint16(p[24:], uint16(FlagOptions)) }, ErrCorrupt},
	} {
		m := synth{inodes: largeDir(emptyListing, 0), super: c.super}.image()
		if _, err := walk(t, m); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for n := range superblockSize + 4 {
		m := synth{inodes: largeDir(emptyListing, 0)}.image()
		if _, err := walk(t, m[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := Open(t.Context(), memory{}, 1<<62, 1<<62+1<<61, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("2^63 bytes: %v", err)
	}
}

func TestHostileInodes(t *testing.T) {
	frag := func(fragment, offset uint32) []byte {
		return numbers(header(2), uint32(96), fragment, offset, uint32(5000), uint32(100))
	}
	for name, inode := range map[string][]byte{
		"nothing":                   {0},
		"type 0":                    header(0),
		"type 15":                   header(15),
		"cut off":                   header(1),
		"file of 2^63 bytes":        largeFile(96, 1<<63),
		"file of 2^62 bytes":        largeFile(96, 1<<62, 0, 0, 0),
		"data at 2^63":              largeFile(1<<63, 4096, 4096|plainBlock),
		"data in the superblock":    largeFile(0, 4096, 4096|plainBlock),
		"data in the tables":        largeFile(superblockSize+1, 4096, 4096|plainBlock),
		"block of 2^24 bytes":       largeFile(96, 4096, 1<<24-1),
		"block with unknown bits":   largeFile(96, 4096, 1<<31|100),
		"stored block is short":     largeFile(96, 4096, 4000|plainBlock),
		"no compressed block":       largeFile(96, 4096, 4000),
		"list of blocks is cut off": largeFile(96, 40960, 0),
		"fragment of none":          frag(0, 0),
		"fragment behind the block": frag(0, 4000),
		"link of 4 GB":              numbers(header(3), uint32(1), uint32(1<<32-1)),
		"link is cut off":           numbers(header(3), uint32(1), uint32(100)),
		"directory of 4 GB":         largeDir(1<<32-1, 0),
		"directory in 2^32-1":       numbers(header(1), uint32(1<<32-1), uint32(2), uint16(100), uint16(0), uint32(1)),
		"directory offset":          numbers(header(1), uint32(0), uint32(2), uint16(100), uint16(9000), uint32(1)),
		"owner":                     append(numbers(nil, uint16(6), uint16(0), uint16(1), uint16(0), uint32(0), uint32(0)), numbers(nil, uint32(1))...),
	} {
		f := openMemory(t, synth{inodes: inode, dirs: dirRun(0, "a")}.image(), Options{})
		_, err := readRow(t.Context(), f, f.Root(), 1<<20)
		if err == nil {
			err = f.ReadDir(t.Context(), f.Root(), 0, func(Entry) bool { return true })
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := openMemory(t, synth{inodes: largeDir(emptyListing, 0)}.image(), Options{})
	for _, entry := range []uint64{0, 1 << 20, volume.MaxEntry, 1 << 63, 1<<64 - 1} {
		if _, err := f.Stat(t.Context(), entry); !errors.Is(err, volume.ErrStale) {
			t.Errorf("entry %d: %v", entry, err)
		}
	}
}

func TestHostileDirectories(t *testing.T) {
	long := string(bytes.Repeat([]byte("n"), maxName+1))
	piece := func(offset uint32) []byte { return numbers(nil, offset, uint32(0), uint32(0), byte('a')) }
	for name, c := range map[string]struct {
		dir, listing []byte
	}{
		"run of 257":           {largeDir(1000, 0), numbers(nil, uint32(256), uint32(0), uint32(0))},
		"run of 2^32-1":        {largeDir(1000, 0), numbers(nil, uint32(1<<32-1), uint32(0), uint32(0))},
		"listing is short":     {largeDir(emptyListing+14, 0), dirRun(0, "abc")},
		"table is short":       {largeDir(1000, 0), dirRun(0, "abc")},
		"name of 257":          {largeDir(1000, 0), dirRun(0, long)},
		"a slash":              {largeDir(emptyListing+23, 0), dirRun(0, "a/b")},
		"a zero":               {largeDir(emptyListing+23, 0), dirRun(0, "a\x00b")},
		"dot":                  {largeDir(emptyListing+21, 0), dirRun(0, ".")},
		"dot dot":              {largeDir(emptyListing+22, 0), dirRun(0, "..")},
		"inode offset":         {largeDir(emptyListing+21, 0), dirRun(9000, "a")},
		"index is cut off":     {largeDir(emptyListing+21, 9), dirRun(0, "a")},
		"index points outside": {append(largeDir(emptyListing+21, 1), piece(21)...), dirRun(0, "a")},
		"index runs backwards": {append(append(largeDir(emptyListing+42, 2), piece(21)...), piece(0)...), append(dirRun(0, "a"), dirRun(0, "b")...)},
	} {
		f := openMemory(t, synth{inodes: c.dir, dirs: c.listing}.image(), Options{})
		err := f.ReadDir(t.Context(), f.Root(), 0, func(Entry) bool { return true })
		if err == nil {
			_, err = f.Lookup(t.Context(), f.Root(), "a")
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		// Cookies are foreign numbers too.
		for _, cookie := range []uint64{1, 511, 512, 21 << 9, 22<<9 | 3, 1 << 40, 1<<64 - 1} {
			if err := f.ReadDir(t.Context(), f.Root(), cookie, func(Entry) bool { return true }); !expected(err) {
				t.Errorf("%s, cookie %#x: %v", name, cookie, err)
			}
		}
	}
}

// TestNumberZero: where entries are inode numbers, none is 0.
func TestNumberZero(t *testing.T) {
	listing := append(numbers(nil, uint32(0), uint32(0), uint32(0), uint16(0), uint16(0), uint16(1), uint16(0)), 'a')
	f := openMemory(t, synth{inodes: largeDir(uint32(emptyListing+len(listing)), 0), dirs: listing}.image(), Options{})
	f.numbered = true
	if e, err := f.Lookup(t.Context(), f.Root(), "a"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestManyAttributes has a set of more attributes than there can be: it is not
// walked through.
func TestManyAttributes(t *testing.T) {
	m := smallImage(t, "-noX")
	f := openMemory(t, m, Options{})
	sets, err := f.xattrIDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := binary.LittleEndian.Uint64(m[sets.list:])
	if binary.LittleEndian.Uint16(m[at:])&0x8000 == 0 {
		t.Fatal("the sets of attributes are compressed")
	}
	binary.LittleEndian.PutUint32(m[at+2+8:], 1<<32-1)
	f = openMemory(t, m, Options{})
	if names, err := f.Xattrs(t.Context(), fileEntry(t, f, "a")); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "room for") {
		t.Errorf("%q, %v", names, err)
	}
}

// TestDirectoryLoop has a directory that holds itself: each call answers, and
// whoever walks decides how far.
func TestDirectoryLoop(t *testing.T) {
	listing := dirRun(0, "a", "b", "c")
	f := openMemory(t, synth{inodes: largeDir(uint32(emptyListing+len(listing)), 0), dirs: listing}.image(), Options{})
	if _, err := readSome(t.Context(), f, few); !errors.Is(err, errLimit) {
		t.Error(err)
	}
	at := f.Root()
	for range 1000 {
		e, err := f.Lookup(t.Context(), at, "b")
		if err != nil || e.Entry != f.Root() {
			t.Fatalf("%+v, %v", e, err)
		}
		at = e.Entry
	}
}

// TestSparseGiant reads at the end of the largest file that an inode table of
// one block can describe, and takes no memory for it.
func TestSparseGiant(t *testing.T) {
	words := make([]uint32, 1900)
	f := openMemory(t, synth{inodes: largeFile(96, uint64(len(words))*4096, words...)}.image(), Options{})
	p := bytes.Repeat([]byte{1}, 5000)
	n, err := f.ReadAt(t.Context(), f.Root(), p, int64(len(words))*4096-4999)
	if err != nil || n != 4999 || !bytes.Equal(p[:n], make([]byte, n)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestBombs has blocks that inflate to far more than they may.
func TestBombs(t *testing.T) {
	var bomb bytes.Buffer
	w, _ := zlib.NewWriterLevel(&bomb, 9)
	for range 3000 {
		_, _ = w.Write(make([]byte, 1000))
	}
	_ = w.Close()
	m := synth{inodes: largeFile(superblockSize, 4096, uint32(bomb.Len()))}.image()
	copy(m[superblockSize:], bomb.Bytes())
	before := allocated()
	if _, err := walk(t, m); !errors.Is(err, ErrCorrupt) {
		t.Errorf("data: %v", err)
	}
	m = synth{inodes: make([]byte, bomb.Len())}.image()
	at := superblockSize + synthData
	binary.LittleEndian.PutUint16(m[at:], uint16(bomb.Len()))
	copy(m[at+2:], bomb.Bytes())
	if _, err := walk(t, m); !errors.Is(err, ErrCorrupt) {
		t.Errorf("metadata: %v", err)
	}
	if spent := allocated() - before; spent > 2<<20 {
		t.Errorf("%d bytes were allocated", spent)
	}
}

func allocated() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.TotalAlloc
}

// smallImage is an image of each kind of node, small enough to be mutated often.
func smallImage(t testing.TB, args ...string) memory {
	b := newTree(t)
	b.file("a", b.text(9000))
	b.file("d/b", b.random(5000))
	b.file("d/c", nil)
	for i := range 20 {
		b.file(fmt.Sprintf("d/many%d", i), b.text(50))
	}
	b.ok(os.Symlink("d/b", b.path("link")))
	b.ok(os.Link(b.path("a"), b.path("hard")))
	b.xattr("a", "user.one", []byte("a value that is long enough to stand elsewhere"))
	b.xattr("d/c", "user.one", []byte("a value that is long enough to stand elsewhere"))
	return readImage(t, mksquashfs(t, b.root, append([]string{"-b", "4096", "-nopad"}, args...)...))
}

// TestMutations changes bytes of real images: whatever comes of it is an error
// of ours or a tree, at once.
func TestMutations(t *testing.T) {
	for _, args := range append(allCompressors, "plain") {
		t.Run(args, func(t *testing.T) {
			options := []string{"-comp", args}
			if args == "plain" {
				options = strings.Fields("-noI -noD -noF -noX")
			}
			image := smallImage(t, options...)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 400 {
				m := bytes.Clone(image)
				for range 1 + i%4 {
					at := rng.IntN(len(m))
					if i%2 == 0 {
						at = rng.IntN(superblockSize)
					} else if i%3 == 0 {
						at = len(m) - 1 - rng.IntN(min(len(m), 1500))
					}
					m[at] = byte(rng.Uint32())
				}
				if _, err := walk(t, m); !expected(err) {
					t.Fatalf("mutation %d: %v", i, err)
				}
			}
			for n := 0; n < len(image); n += 1 + len(image)/200 {
				f, err := Open(t.Context(), image[:n], 0, int64(len(image)), Options{})
				if err == nil {
					_, err = readSome(context.Background(), f, few)
				}
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("cut at %d of %d: %v", n, len(image), err)
				}
			}
		})
	}
}
