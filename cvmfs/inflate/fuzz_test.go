package inflate

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// seeds are deflate streams: made by hand, and by std at all levels.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	var list [][]byte
	for _, h := range handmades() {
		list = append(list, h.w.b, append(bytes.Clone(h.w.b), make([]byte, 64)...))
	}
	data := plain(tb)
	for _, name := range []string{"empty", "one", "text4096", "elf1024", "elf4096", "period1", "period3", "period8"} {
		for _, level := range levels {
			z := compress(tb, data[name], level, level&1)
			list = append(list, z[zlibHeader:])
		}
	}
	if len(list) < 100 {
		tb.Fatalf("only %d seeds", len(list))
	}
	return list
}

// FuzzRaw compares with the standard library on any bytes.
func FuzzRaw(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := againstStd(src); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzZlib compares the frame: headers, checksums, what is consumed, and that
// all entry points agree.
func FuzzZlib(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(append([]byte{0x78, 0x9c}, b...))
	}
	f.Add([]byte{0x78, 0x9c})
	f.Add([]byte{0x78})
	small := 0
	for _, b := range goldenObjects(f) {
		if len(b) < 2048 && small < 50 {
			f.Add(b)
			small++
		}
	}
	if small == 0 {
		f.Fatal("no small objects in the golden repositories")
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := frameAgainstStd(src); err != nil {
			t.Fatal(err)
		}
	})
}

func stdZlib(src []byte) (out []byte, read int, err error) {
	in := bytes.NewReader(src)
	r, err := zlib.NewReader(in)
	if err != nil {
		return nil, 0, err
	}
	out, err = io.ReadAll(r)
	return out, len(src) - in.Len(), err
}

func frameAgainstStd(src []byte) error {
	want, read, wantErr := stdZlib(src)
	dst := make([]byte, len(want)+8192)
	n, consumed, err := ZlibMax(dst, src)
	if len(src) >= zlibHeader && checkHeader(src) == faultDictionary {
		if !errors.Is(err, ErrCorrupt) { // std takes the dictionary of no bytes
			return errors.New("accepted a preset dictionary")
		}
		return nil
	}
	if wantErr != nil {
		if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrSize) {
			return errors.New("std says " + wantErr.Error())
		}
		if _, err := ZlibNoSum(dst[:len(want)], src); err == nil && !errors.Is(wantErr, zlib.ErrChecksum) {
			return errors.New("without checksum accepted, but std says " + wantErr.Error())
		}
		return nil
	}
	if err != nil || consumed != read || !bytes.Equal(dst[:n], want) {
		return errors.New("ZlibMax differs from std")
	}
	for _, decode := range []func(dst, src []byte) (int, error){Zlib, ZlibNoSum} {
		dst := make([]byte, n)
		if consumed, err := decode(dst, src); err != nil || consumed != read || !bytes.Equal(dst, want) {
			return errors.New("Zlib or ZlibNoSum differs from std")
		}
	}
	return nil
}

// TestMutations is a small fuzzer that always runs, and the same each time.
func TestMutations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, seed := range seeds(t) {
		if len(seed) == 0 {
			continue
		}
		for range 12 {
			b := bytes.Clone(seed)
			for range 1 + rnd.IntN(3) {
				// Half of the changes hit the first block's header.
				at := rnd.IntN(len(b))
				if rnd.IntN(2) == 0 {
					at = rnd.IntN(min(len(b), 80))
				}
				b[at] ^= 1 << rnd.IntN(8)
			}
			if rnd.IntN(4) == 0 {
				b = b[:rnd.IntN(len(b)+1)]
			}
			if err := againstStd(b); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if err := frameAgainstStd(append([]byte{0x78, 0x9c}, b...)); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
		}
	}
}
