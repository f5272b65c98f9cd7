package squashfs

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
)

// seeds are small images made with every compressor, or the one of synth where
// mksquashfs is missing.
func seeds(f *testing.F) []memory {
	all := []memory{synth{inodes: largeDir(emptyListing+21, 0), dirs: dirRun(0, "a")}.image()}
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		return all
	}
	for _, c := range allCompressors {
		if strings.Contains(mksquashfsHelp(), "\n\t"+c) {
			all = append(all, smallImage(f, "-comp", c))
		}
	}
	return append(all, smallImage(f, "-noI", "-noD", "-noF", "-noX"), smallImage(f, "-no-fragments", "-no-exports"))
}

// fuzzLimits keep one run short.
var fuzzLimits = limits{names: 60, bytes: 1 << 16}

// explore calls every method for every node it comes to.
func explore(t *testing.T, f *FS) {
	ctx := context.Background()
	if _, err := readSome(ctx, f, fuzzLimits); !expected(err) {
		t.Fatal(err)
	}
	for _, entry := range []uint64{f.Root(), 1, 100, 1 << 13} {
		_, err := f.Stat(ctx, entry)
		_, err2 := f.Readlink(ctx, entry)
		_, err3 := f.ReadAt(ctx, entry, make([]byte, 10_000), 3000)
		_, err4 := f.Xattr(ctx, entry, "user.one")
		_, err5 := f.Lookup(ctx, entry, "many7")
		err6 := f.ReadDir(ctx, entry, 25<<9|1, func(Entry) bool { return true })
		_, err7 := f.Exported(ctx, uint32(entry))
		for i, err := range []error{err, err2, err3, err4, err5, err6, err7} {
			if !expected(err) {
				t.Fatalf("call %d of entry %d: %v", i, entry, err)
			}
		}
	}
}

func exploreImage(t *testing.T, m memory) {
	f, err := Open(context.Background(), m, 0, int64(len(m)), Options{Cache: NewCache(Limits{Metadata: 1 << 18, Data: 1 << 18}), Parallel: 1})
	if err == nil {
		explore(t, f)
	} else if !expected(err) {
		t.Fatal(err)
	}
}

// FuzzOpen walks whole images.
func FuzzOpen(f *testing.F) {
	for _, m := range seeds(f) {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, p []byte) { exploreImage(t, p) })
}

// FuzzInode puts bytes where the root's inode should be.
func FuzzInode(f *testing.F) {
	for _, m := range seeds(f) {
		fs := openSeed(f, m)
		f.Add(table(f, fs, &fs.inodes))
	}
	f.Add(largeFile(96, 3*4096, 4096|plainBlock, 0, 100))
	f.Fuzz(func(t *testing.T, p []byte) {
		exploreImage(t, synth{inodes: p, dirs: dirRun(0, "many7", "n")}.image())
	})
}

// FuzzDirectory puts bytes where the root's listing should be, under an inode
// that has an index of one piece.
func FuzzDirectory(f *testing.F) {
	for _, m := range seeds(f) {
		fs := openSeed(f, m)
		f.Add(table(f, fs, &region{"directory", fs.dirs.start, int64(fs.super.FragmentTable)}), uint32(0))
	}
	f.Add(append(dirRun(0, "a", "b"), dirRun(0, "c")...), uint32(30))
	f.Fuzz(func(t *testing.T, p []byte, piece uint32) {
		dir := append(largeDir(uint32(len(p)+emptyListing), 1), numbers(nil, piece, uint32(0), uint32(0), byte('b'))...)
		exploreImage(t, synth{inodes: dir, dirs: p}.image())
	})
}

func openSeed(f *testing.F, m memory) *FS {
	fs, err := Open(context.Background(), m, 0, int64(len(m)), Options{})
	if err != nil {
		f.Fatal(err)
	}
	if fs.super.FragmentTable == absent {
		fs.super.FragmentTable = uint64(fs.dirs.end)
	}
	return fs
}

// addBlocks seeds with the compressed metadata blocks and the data of images.
func addBlocks(f *testing.F, c Compression, add func([]byte)) {
	for _, m := range seeds(f) {
		fs := openSeed(f, m)
		if fs.super.Compression == c {
			start := fs.inodes.start
			add(m[start+2 : start+2+int64(m[start])+int64(m[start+1]&0x7f)<<8])
			add(m[superblockSize:min(start, 4096)])
		}
	}
}

// checkBounds decodes into the middle of a buffer and looks at its ends.
func checkBounds(t *testing.T, decode decoder, p []byte, size int) {
	dst := bytes.Repeat([]byte{0xaa}, size+32)
	n, err := decode(dst[:size:size], p)
	if err == nil && (n < 0 || n > size) {
		t.Fatalf("%d bytes in %d", n, size)
	}
	if !bytes.Equal(dst[size:], bytes.Repeat([]byte{0xaa}, 32)) {
		t.Fatal("written behind the buffer")
	}
}

func FuzzLZO(f *testing.F) {
	addBlocks(f, LZO, func(p []byte) { f.Add(p) })
	f.Add([]byte{17 + 4, 'a', 'b', 'c', 'd', 128 | 2, 0, 'x', 'y', 17, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) { checkBounds(t, lzoDecode, p, 4096) })
}

func FuzzLZ4(f *testing.F) {
	addBlocks(f, LZ4, func(p []byte) { f.Add(p) })
	f.Fuzz(func(t *testing.T, p []byte) { checkBounds(t, lz4Decode, p, 4096) })
}

// FuzzLZMA feeds both forms, and LZMA2 without the checksum around it, which
// few changes would survive.
func FuzzLZMA(f *testing.F) {
	addBlocks(f, LZMA, func(p []byte) { f.Add(p) })
	addBlocks(f, XZ, func(p []byte) { f.Add(p); f.Add(p[min(24, len(p)):]) })
	f.Fuzz(func(t *testing.T, p []byte) {
		checkBounds(t, lzmaDecode, p, 4096)
		checkBounds(t, xzDecode, p, 4096)
		checkBounds(t, func(dst, src []byte) (int, error) {
			d := lzmaPool.Get().(*lzma)
			defer d.free()
			_, err := d.lzma2(dst, src)
			return d.out, err
		}, p, 4096)
		for _, filter := range branchFilters {
			filter(bytes.Clone(p), 4096)
		}
	})
}

// FuzzXattr puts bytes where the attributes of the root should be.
func FuzzXattr(f *testing.F) {
	f.Add(append(numbers(nil, uint16(0), uint16(3)), "one\x01\x00\x00\x00x"...), uint32(1))
	f.Add(append(numbers(nil, uint16(0x100), uint16(3)), "one\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00xx"...), uint32(1))
	for _, m := range seeds(f) {
		fs := openSeed(f, m)
		if t, err := fs.xattrIDs(f.Context()); fs.super.XattrTable != absent && err == nil {
			f.Add(table(f, fs, &t.values), t.ids)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, count uint32) {
		m := synth{inodes: numbers(header(13), uint32(1), uint32(0))}.image()
		// Behind the image: values, the block of ids, the table's head and list.
		values := len(m)
		m = appendStored(m, p)
		ids := len(m)
		m = appendStored(m, numbers(nil, uint64(0), count, uint32(100)))
		head := len(m)
		m = numbers(m, uint64(values), uint32(1), uint32(0), uint64(ids))
		copy(m[40:], numbers(nil, uint64(len(m))))
		copy(m[56:], numbers(nil, uint64(head)))
		exploreImage(t, m)
	})
}
