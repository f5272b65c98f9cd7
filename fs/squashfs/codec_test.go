package squashfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// xz runs the xz program over p.
func xz(t testing.TB, p []byte, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("xz is missing: install xz-utils")
		}
		t.Skip("xz is missing")
	}
	cmd := exec.Command("xz", append(args, "--stdout")...)
	cmd.Stdin = bytes.NewReader(p)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("xz %v: %v %s", args, err, failure.String())
	}
	return out
}

// branches returns bytes full of what the branch filters look for.
func branches(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	p := make([]byte, n)
	for i := range p {
		switch rng.IntN(8) {
		case 0:
			p[i] = []byte{0xe8, 0xe9, 0xeb, 0x48, 0x40, 0x7f, 0x94, 0x97, 0x90, 0xf0, 0xf8}[rng.IntN(11)]
		case 1, 2, 3:
			p[i] = []byte{0, 0xff}[rng.IntN(2)]
		default:
			p[i] = byte(rng.Uint32())
		}
	}
	for i := 0; i+16 <= n; i += 64 {
		// A bundle of IA-64 with a branch in each slot: opcode 5, no other bits.
		p[i] = p[i]&0xe0 | 22
		for slot := range uint(3) {
			bit := 5 + 41*slot
			v := binary.LittleEndian.Uint64(append(bytes.Clone(p[i+int(bit/8):i+int(bit/8)+6]), 0, 0))
			v = v&^(0xf<<(37+bit%8))&^(7<<(9+bit%8)) | 5<<(37+bit%8)
			var w [8]byte
			binary.LittleEndian.PutUint64(w[:], v)
			copy(p[i+int(bit/8):], w[:6])
		}
	}
	return p
}

func TestXZ(t *testing.T) {
	data := branches(200_000)
	for _, args := range []string{
		"--check=none", "--check=crc32", "--check=crc64", "--check=crc32 --lzma2=lc=0,lp=4,pb=0", "--check=crc32 --lzma2=lc=4,lp=0,pb=4",
		"--check=crc32 -0", "--check=crc32 -9e", "--x86 --lzma2", "--x86=start=4096 --lzma2", "--powerpc --lzma2", "--ia64 --lzma2",
		"--arm --lzma2", "--armthumb --lzma2", "--sparc --lzma2", "--arm64 --lzma2", "--arm64=start=8192 --lzma2",
		"--x86 --arm --sparc --lzma2=preset=1",
	} {
		t.Run(args, func(t *testing.T) {
			for _, n := range []int{0, 1, 5, 17, 70_000} {
				src := xz(t, data[:n], append(strings.Fields(args), "--format=xz")...)
				if n == 0 {
					continue // an empty stream has no block at all
				}
				checkDecoder(t, xzDecode, src, data[:n])
			}
		})
	}
	checkDecoder(t, xzDecode, xz(t, data, "--check=crc32", "--format=xz"), data) // of several chunks
	text := newTree(t).text(150_000)
	checkDecoder(t, xzDecode, xz(t, text, "--check=crc32", "--format=xz"), text)
	for _, args := range []string{"--check=sha256", "--delta --lzma2"} {
		dst := make([]byte, 10_000)
		if _, err := xzDecode(dst, xz(t, text[:10_000], append(strings.Fields(args), "--format=xz")...)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestLZMA(t *testing.T) {
	text := newTree(t).text(150_000)
	for _, args := range []string{"--lzma1", "--lzma1=lc=0,lp=4,pb=0", "--lzma1=lc=4,lp=0,pb=4", "--lzma1=preset=0", "--lzma1=preset=9"} {
		for _, data := range [][]byte{nil, text[:1], text, branches(100_000)} {
			src := xz(t, data, "--format=lzma", args)
			checkDecoder(t, lzmaDecode, src, data)
			// The same with the size in the header, with the marker and cut before it.
			sized := bytes.Clone(src)
			binary.LittleEndian.PutUint64(sized[5:], uint64(len(data)))
			dst := make([]byte, len(data)+100)
			if n, err := lzmaDecode(dst, sized); err != nil || !bytes.Equal(dst[:n], data) {
				t.Errorf("%s, %d bytes with a size: %d, %v", args, len(data), n, err)
			}
		}
	}
}

// checkDecoder decodes src into buffers that fit, are larger and are smaller,
// and what is left of it after a cut or a change.
func checkDecoder(t *testing.T, decode decoder, src, want []byte) {
	t.Helper()
	for _, more := range []int{0, 1, 300} {
		dst := make([]byte, len(want)+more)
		if n, err := decode(dst, src); err != nil || !bytes.Equal(dst[:n], want) {
			t.Fatalf("%d bytes into %d: %d, %v", len(want), len(dst), n, err)
		}
	}
	if len(want) > 0 {
		dst := bytes.Repeat([]byte{0xaa}, len(want)+64)
		if n, err := decode(dst[:len(want)-1], src); err == nil {
			t.Fatalf("%d bytes into one less: %d without an error", len(want), n)
		}
		if !bytes.Equal(dst[len(want)-1:], bytes.Repeat([]byte{0xaa}, 65)) {
			t.Fatal("written behind the buffer")
		}
	}
	dst := make([]byte, len(want))
	cuts := 50
	if len(src) > 4096 {
		cuts = 8
	}
	for n := 0; n < len(src)/2; n += 1 + len(src)/cuts {
		if _, err := decode(dst, src[:n]); err == nil && len(want) > 0 {
			t.Fatalf("no error for %d of %d bytes", n, len(src))
		}
	}
}

// TestStreams decodes what was written by hand after the formats' descriptions.
func TestStreams(t *testing.T) {
	text := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		name   string
		decode decoder
		src    []byte
		want   string
		err    error
	}{
		{"lz4 literals", lz4Decode, append([]byte{0x30}, "abc"...), "abc", nil},
		{"lz4 run", lz4Decode, []byte{0x16, 'a', 1, 0, 0x10, 'b'}, "aaaaaaaaaaa" + "b", nil},
		{"lz4 long", lz4Decode, []byte{0x1f, 'a', 1, 0, 255, 1, 0x10, 'b'}, strings.Repeat("a", 276) + "b", nil},
		{"lz4 nothing", lz4Decode, nil, "", errInput},
		{"lz4 no offset", lz4Decode, []byte{0x14, 'a', 1}, "", errInput},
		{"lz4 offset 0", lz4Decode, []byte{0x14, 'a', 0, 0, 0x10, 'b'}, "", errDistance},
		{"lz4 before the start", lz4Decode, []byte{0x14, 'a', 2, 0, 0x10, 'b'}, "", errDistance},
		{"lz4 long literals", lz4Decode, bytes.Repeat([]byte{0xff}, 10_000), "", errInput},
		{"lz4 bomb", lz4Decode, append([]byte{0x1f, 'a', 1, 0}, append(bytes.Repeat([]byte{255}, 3000), 0, 0x10, 'b')...), "", errTooLong},

		{"lzo empty", lzoDecode, []byte{17, 0, 0}, "", nil},
		{"lzo first literals", lzoDecode, append(append([]byte{17 + 3}, "abc"...), 17, 0, 0), "abc", nil},
		{"lzo first run", lzoDecode, append(append([]byte{17 + 6}, "abcdef"...), 17, 0, 0), "abcdef", nil},
		{"lzo run", lzoDecode, append(append([]byte{2}, "abcde"...), 17, 0, 0), "abcde", nil},
		{"lzo long run", lzoDecode, append(append([]byte{0, 0, 1}, bytes.Repeat(text("x"), 274)...), 17, 0, 0), strings.Repeat("x", 274), nil},
		{"lzo 2 bytes after literals", lzoDecode, []byte{17 + 3, 'a', 'b', 'c', 2 << 2, 0, 17, 0, 0}, "abcab", nil},
		{"lzo 64", lzoDecode, []byte{17 + 4, 'a', 'b', 'c', 'd', 64 | 3<<2, 0, 17, 0, 0}, "abcdabc", nil},
		{"lzo 128 and literals", lzoDecode, []byte{17 + 4, 'a', 'b', 'c', 'd', 128 | 2, 0, 'x', 'y', 17, 0, 0}, "abcddddddxy", nil},
		{"lzo 32", lzoDecode, []byte{17 + 4, 'a', 'b', 'c', 'd', 32 | 4, 3 << 2, 0, 17, 0, 0}, "abcdabcdab", nil},
		{"lzo behind the end", lzoDecode, []byte{17, 0, 0, 1}, "", errTrailing},
		{"lzo no end", lzoDecode, []byte{17 + 3, 'a', 'b', 'c'}, "", errInput},
		{"lzo before the start", lzoDecode, []byte{17 + 4, 'a', 'b', 'c', 'd', 64, 9, 17, 0, 0}, "", errDistance},
		{"lzo bomb", lzoDecode, append(append([]byte{17 + 4, 'a', 'b', 'c', 'd', 32}, make([]byte, 5000)...), 1, 0, 0, 17, 0, 0), "", errTooLong},
		{"lzo endless length", lzoDecode, append([]byte{0}, make([]byte, 10_000)...), "", errTooLong},

		{"xz nothing", xzDecode, nil, "", errInput},
		{"lzma nothing", lzmaDecode, nil, "", errInput},
		{"lzma properties", lzmaDecode, append([]byte{225}, make([]byte, 20)...), "", errStream},
		{"lzma lc + lp", lzmaDecode, append([]byte{8}, make([]byte, 20)...), "", ErrUnsupported},
		{"lzma size", lzmaDecode, append([]byte{93}, bytes.Repeat([]byte{0x7f}, 20)...), "", errTooLong},
	} {
		dst := make([]byte, 4096)
		n, err := c.decode(dst, c.src)
		if !errors.Is(err, c.err) || c.err == nil && (err != nil || string(dst[:n]) != c.want) {
			t.Errorf("%s: %q, %v", c.name, dst[:n], err)
		}
	}
}

// TestZstdBomb has a frame that promises and holds more than fits.
func TestZstdBomb(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	bomb := e.EncodeAll(make([]byte, 64<<20), nil)
	decode, err := newZstd()
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, metadataSize)
	before := allocated()
	if _, err := decode(dst, bomb); err == nil {
		t.Error("64 MiB fit in 8 KiB")
	}
	if spent := allocated() - before; spent > 8<<20 {
		t.Errorf("%d bytes were allocated", spent)
	}
}

// TestZstdStream has frames of an encoder of streams: their size is not told, and
// the window is larger than any block.
func TestZstdStream(t *testing.T) {
	decode, err := newZstd()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 5000, metadataSize, 131072, maxBlockSize} {
		var frame bytes.Buffer
		e, err := zstd.NewWriter(&frame, zstd.WithWindowSize(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		want := newTree(t).text(size)
		for _, part := range [][]byte{want[:size/2], want[size/2:]} {
			if _, err := e.Write(part); err != nil || e.Flush() != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		for _, more := range []int{0, 1, 300} {
			dst := make([]byte, size+more)
			if n, err := decode(dst, frame.Bytes()); err != nil || !bytes.Equal(dst[:n], want) {
				t.Errorf("%d bytes into %d: %d, %v", size, len(dst), n, err)
			}
		}
		if size > 0 {
			if n, err := decode(make([]byte, size-1), frame.Bytes()); err == nil {
				t.Errorf("%d bytes into one less: %d without an error", size, n)
			}
		}
	}
}

// TestOptions: of all options only the version of lz4 streams matters.
func TestOptions(t *testing.T) {
	for i, c := range []struct {
		kind Compression
		p    []byte
		want error
	}{
		{Gzip, numbers(nil, uint32(9), uint16(15), uint16(1)), nil},
		{Gzip, numbers(nil, uint32(0), uint16(0), uint16(0)), nil},
		{LZMA, numbers(nil, uint32(9)), nil},
		{LZO, numbers(nil, uint32(5), uint32(10)), nil},
		{XZ, numbers(nil, uint32(0), uint32(0)), nil},
		{LZ4, numbers(nil, uint32(1), uint32(1)), nil},
		{LZ4, numbers(nil, uint32(2), uint32(1)), ErrUnsupported},
		{LZ4, numbers(nil, uint16(1)), ErrCorrupt},
		{Zstd, numbers(nil, uint32(0)), nil},
	} {
		m := synth{inodes: largeDir(emptyListing, 0), super: func(p []byte) {
			binary.LittleEndian.PutUint16(p[20:], uint16(c.kind))
			binary.LittleEndian.PutUint16(p[24:], uint16(FlagOptions))
		}}.image()
		copy(m[superblockSize:], appendStored(nil, c.p))
		if _, err := Open(context.Background(), m, 0, int64(len(m)), Options{}); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%d %s: %v", i, c.kind, err)
		}
	}
	if s := fmt.Sprint(Compression(9)); s != "compressor 9" {
		t.Error(s)
	}
}
