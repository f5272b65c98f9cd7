package inflate

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/bits"
	"strings"
	"testing"
)

// bitWriter writes a deflate stream by hand.
type bitWriter struct {
	b []byte
	n int // bits
}

// put writes the low n bits of v, lowest first.
func (w *bitWriter) put(v, n int) *bitWriter {
	for i := range n {
		if w.n&7 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n & 7)
		w.n++
	}
	return w
}

// code writes a Huffman code of n bits, highest first.
func (w *bitWriter) code(v, n int) *bitWriter {
	return w.put(int(bits.Reverse16(uint16(v))>>(16-n)), n)
}

// header starts a final dynamic block with counts as they are sent, and the
// code lengths of the code length code in the order of their symbols.
func (w *bitWriter) header(hlit, hdist int, pre map[int]int) *bitWriter {
	w.put(1, 1).put(2, 2).put(hlit, 5).put(hdist, 5).put(15, 4)
	for _, sym := range preOrder {
		w.put(pre[int(sym)], 3)
	}
	return w
}

// flat is a code length code of 16 lengths with 4 bits each, so that each
// length is its own code.
var flat = map[int]int{0: 4, 1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 4, 7: 4, 8: 4, 9: 4, 10: 4, 11: 4, 12: 4, 13: 4, 14: 4, 15: 4}

// dynamic starts a final dynamic block with these code lengths, which may be
// any nonsense.
func (w *bitWriter) dynamic(lit, dist map[int]int) *bitWriter {
	w.header(29, 29, flat)
	for i := range maxNumLit {
		w.code(lit[i], 4)
	}
	for i := range maxNumDist {
		w.code(dist[i], 4)
	}
	return w
}

func begin() *bitWriter { return &bitWriter{} }

// fixedBlock starts a final block with the fixed code.
func fixedBlock() *bitWriter { return begin().put(1, 1).put(1, 2) }

type handmade struct {
	name   string
	w      *bitWriter
	fault  fault
	output string // of an accepted stream
}

// handmades are streams at the edge of the format, one for each refusal and
// for each oddity that is accepted.
func handmades() []handmade {
	type m = map[int]int
	literals := m{'a': 1, 256: 1}        // a=0, end=1
	matches := m{'a': 1, 256: 2, 257: 2} // a=0, end=10, length 3=11
	long := m{'a': 1, 'b': 2, 'c': 3, 'd': 4, 'e': 5, 'f': 6, 'g': 7, 'h': 8, 'i': 9, 'j': 10, 'k': 11, 'l': 12, 'm': 13, 'n': 14, 'o': 15, 256: 15}
	longDist := m{0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 12, 12: 13, 13: 14, 14: 15, 15: 15}
	return []handmade{
		{"block type 3", begin().put(1, 1).put(3, 2), faultBlockType, ""},
		{"stored, wrong complement", begin().put(1, 1).put(0, 2).put(0, 5).put(1, 16).put(1, 16).put('x', 8), faultStored, ""},
		{"stored", begin().put(1, 1).put(0, 2).put(31, 5).put(1, 16).put(0xfffe, 16).put('x', 8), ok, "x"},
		{"stored, empty", begin().put(1, 1).put(0, 2).put(0, 5).put(0, 16).put(0xffff, 16), ok, ""},
		{"287 literal codes", begin().header(30, 0, flat), faultNumLit, ""},
		{"288 literal codes", begin().header(31, 0, flat), faultNumLit, ""},
		{"31 distance codes", begin().header(0, 30, flat), faultNumDist, ""},
		{"32 distance codes", begin().header(0, 31, flat), faultNumDist, ""},
		{"code length code incomplete", begin().header(0, 0, m{1: 2, 2: 2, 3: 2}), faultPreCode, ""},
		{"code length code over-subscribed", begin().header(0, 0, m{1: 1, 2: 1, 3: 1}), faultPreCode, ""},
		{"code length code of one two-bit code", begin().header(0, 0, m{1: 2}), faultPreCode, ""},
		{"code length code empty", begin().header(0, 0, nil), faultLenCode, ""},
		{"code length code of one code, not met", begin().header(0, 0, m{1: 1}).put(1, 1), faultLenCode, ""},
		{"repeat without a first", begin().header(0, 0, m{16: 1, 1: 1}).code(1, 1).put(0, 2), faultRepeat, ""},
		{"repeat past the last", begin().header(0, 0, m{18: 1, 1: 1}).code(1, 1).put(127, 7).code(1, 1).put(127, 7), faultRepeat, ""},
		{"literal code incomplete", begin().dynamic(m{'a': 2, 256: 1}, nil), faultLitTree, ""},
		{"literal code over-subscribed", begin().dynamic(m{'a': 1, 'b': 1, 256: 1}, nil), faultLitTree, ""},
		{"literal code of one two-bit code", begin().dynamic(m{256: 2}, nil), faultLitTree, ""},
		{"literal code empty", begin().dynamic(nil, nil), faultLitCode, ""},
		{"literal code of one code", begin().dynamic(m{256: 1}, nil).put(0, 1), ok, ""},
		{"literal code of one code, not met", begin().dynamic(m{256: 1}, nil).put(1, 1), faultLitCode, ""},
		{"no end of block", begin().dynamic(m{'a': 1, 'b': 1}, nil).put(0, 40), faultTruncated, ""},
		{"distance code incomplete", begin().dynamic(literals, m{0: 2, 1: 2}), faultDistTree, ""},
		{"distance code over-subscribed", begin().dynamic(literals, m{0: 1, 1: 2, 2: 2, 3: 2}), faultDistTree, ""},
		{"distance code of one two-bit code", begin().dynamic(literals, m{0: 2}), faultDistTree, ""},
		{"distance code empty, not used", begin().dynamic(literals, nil).put(0, 1).put(1, 1), ok, "a"},
		{"distance code empty, used", begin().dynamic(matches, nil).code(0, 1).code(3, 2), faultDistCode, ""},
		{"distance code of one code", begin().dynamic(matches, m{0: 1}).code(0, 1).code(3, 2).code(0, 1).code(2, 2), ok, "aaaa"},
		{"distance code of one code, not met", begin().dynamic(matches, m{0: 1}).code(0, 1).code(3, 2).code(1, 1), faultDistCode, ""},
		{"symbol 286", fixedBlock().code(0b11000110, 8), faultLitCode, ""},
		{"symbol 287", fixedBlock().code(0b11000111, 8), faultLitCode, ""},
		{"distance 30", fixedBlock().code(0x30+'a', 8).code(1, 7).code(30, 5), faultDistCode, ""},
		{"distance 31", fixedBlock().code(0x30+'a', 8).code(1, 7).code(31, 5), faultDistCode, ""},
		{"distance before the start", fixedBlock().code(0x30+'a', 8).code(1, 7).code(1, 5).code(0, 7), faultDistFar, ""},
		{"match at the start", fixedBlock().code(1, 7).code(0, 5).code(0, 7), faultDistFar, ""},
		{"length 258 as 227+31", fixedBlock().code(0x30+'a', 8).code(0b11000100, 8).put(31, 5).code(0, 5).code(0, 7), ok, string(bytes.Repeat([]byte("a"), 259))},
		{"codes of 15 bits", begin().dynamic(long, nil).code(0x7ffe, 15).code(0x1ffe, 13).code(0xffe, 12).code(0x7fff, 15), ok, "oml"},
		{"distances of 15 bits", deepDistance(longDist), ok, strings.Repeat("ab", 100) + "bab"},
	}
}

// deepDistance is a stream of 200 literals and a match at distance 193, whose
// code has 15 bits.
func deepDistance(dist map[int]int) *bitWriter {
	w := begin().dynamic(map[int]int{'a': 2, 'b': 2, 256: 2, 257: 2}, dist)
	for range 100 {
		w.code(0, 2).code(1, 2)
	}
	return w.code(3, 2).code(0x7fff, 15).put(0, 6).code(2, 2)
}

func TestHandmade(t *testing.T) {
	for _, h := range handmades() {
		for _, tail := range []int{0, 1, 7, 15, 16, 64} { // the careful loop, and the fast one
			if h.fault == faultTruncated && tail > 0 {
				continue
			}
			src := append(bytes.Clone(h.w.b), make([]byte, tail)...)
			size := len(h.output)
			if h.fault != ok {
				size = 4096
			}
			for _, extra := range []int{0, 20_000} {
				dst := make([]byte, size+extra)
				n, consumed, f := decode(dst, src)
				if f != h.fault || f == ok && (consumed != len(h.w.b) || string(dst[:n]) != h.output) {
					t.Errorf("%s, %d bytes behind it: %q, read %d of %d, fault %q; want %q", h.name, tail, dst[:min(n, 9)], consumed, len(h.w.b), reasons[f], reasons[h.fault])
				}
			}
			if err := againstStd(src); err != nil {
				t.Errorf("%s, %d bytes behind it: %v", h.name, tail, err)
			}
		}
	}
}

// TestCareful decodes the same streams, and all of their prefixes, without the
// fast loop: there is too little room for it.
func TestCareful(t *testing.T) {
	careful := func(src []byte) (string, int, fault) {
		d := new(decoder)
		d.src, d.out, d.limit = src, make([]byte, outMargin-1), outMargin-1
		f := d.blocks()
		return string(d.out[:d.op]), d.ip - int(d.nb/8), f
	}
	for _, h := range handmades() {
		out, consumed, f := careful(h.w.b)
		if f != h.fault && h.fault != faultTruncated || f == ok && (consumed != len(h.w.b) || out != h.output) {
			t.Errorf("%s: %q, read %d of %d, fault %q; want %q", h.name, out, consumed, len(h.w.b), reasons[f], reasons[h.fault])
		}
		for n := range h.w.b {
			if _, _, f := careful(h.w.b[:n]); f != faultTruncated && (f != h.fault || f == ok) {
				t.Errorf("%s, %d of %d bytes: fault %q", h.name, n, len(h.w.b), reasons[f])
			}
		}
	}
}

// againstStd decodes a raw stream here and with the standard library and tells
// how they differ in verdict, output and input consumed.
func againstStd(src []byte) error {
	in := bytes.NewReader(src)
	want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(in), 1<<24))
	if wantErr == nil && len(want) == 1<<24 {
		return nil
	}
	if wantErr == nil {
		return compareGood(want, src, len(src)-in.Len())
	}
	dst := make([]byte, len(want)+8192)
	_, err := Raw(dst, src)
	var e *Error
	switch {
	case !errors.As(err, &e):
		return errors.New("accepted, but std says " + wantErr.Error())
	case !errors.Is(err, ErrCorrupt), errors.Is(err, ErrSize):
		return errors.New(err.Error() + ", but std says " + wantErr.Error())
	case errors.Is(wantErr, io.ErrUnexpectedEOF):
		// std asks for as many bits as the end of block has, so that a fault
		// in the last bits may be named otherwise here.
		return nil
	case errors.Is(err, ErrTruncated), e.Out != len(want), !bytes.Equal(dst[:e.Out], want):
		return errors.New(err.Error() + ": other kind or output than std's " + wantErr.Error())
	}
	return nil
}

// compareGood decodes a stream that std accepts, at every way of ending.
func compareGood(want, src []byte, read int) error {
	buf := bytes.Repeat([]byte{0xee}, len(want)+400)
	consumed, err := Raw(buf[:len(want)], src)
	switch {
	case err != nil:
		return errors.New(err.Error() + ", but std accepts")
	case consumed != read:
		return errors.New("consumed " + itoa(consumed) + ", std " + itoa(read))
	case !bytes.Equal(buf[:len(want)], want):
		return errors.New("other output than std")
	case bytes.Count(buf[len(want):], []byte{0xee}) != 400:
		return errors.New("bytes behind the output were written")
	}
	if _, err := Raw(buf[:len(want)+1], src); !errors.Is(err, ErrTooShort) {
		return errors.New("one byte too few is not told")
	}
	if len(want) > 0 {
		if _, err := Raw(buf[:len(want)-1], src); !errors.Is(err, ErrTooLong) {
			return errors.New("one byte too many is not told")
		}
	}
	return nil
}
