package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/crc64"
)

var errCheck = errors.New("wrong checksum")

// The parts of an .xz file (xz-file-format.txt 1.1.0, section 2) that a
// squashfs block has: a stream header, one block, the index and a footer.
const (
	xzHeaderSize = 12
	xzLZMA2      = 0x21
	xzCheckNone  = 0
	xzCheckCRC32 = 1
	xzCheckCRC64 = 4
)

var xzMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}

// xzDecode decodes one .xz stream of one block, with any of the branch filters
// in front of LZMA2. Index and footer say nothing that is needed and are not
// looked at, as in the kernel.
func xzDecode(dst, src []byte) (int, error) {
	le := binary.LittleEndian
	if len(src) < xzHeaderSize {
		return 0, errInput
	}
	if !bytes.HasPrefix(src, xzMagic) || le.Uint32(src[8:]) != crc32.ChecksumIEEE(src[6:8]) || src[6] != 0 {
		return 0, errCheck
	}
	check := src[7]
	body := src[xzHeaderSize:]
	filters, size, err := xzBlockHeader(body)
	if err != nil {
		return 0, err
	}
	body = body[size:]
	d := lzmaPool.Get().(*lzma)
	defer d.free()
	used, err := d.lzma2(dst, body)
	if err != nil {
		return d.out, err
	}
	out := dst[:d.out]
	for i := len(filters) - 1; i >= 0; i-- {
		filters[i].decode(out, filters[i].start)
	}
	// The check starts at a multiple of four bytes.
	if used = (used + 3) &^ 3; used > len(body) {
		return d.out, errInput
	}
	return d.out, xzCheck(check, out, body[used:])
}

func xzCheck(kind byte, out, sum []byte) error {
	le := binary.LittleEndian
	switch kind {
	case xzCheckNone:
	case xzCheckCRC32:
		if len(sum) < 4 {
			return errInput
		}
		if le.Uint32(sum) != crc32.ChecksumIEEE(out) {
			return errCheck
		}
	case xzCheckCRC64:
		if len(sum) < 8 {
			return errInput
		}
		if le.Uint64(sum) != crc64.Checksum(out, crc64.MakeTable(crc64.ECMA)) {
			return errCheck
		}
	default:
		return unsupportedf("xz with check %d", kind)
	}
	return nil
}

// branchFilter turns addresses back, start is the position of the first byte.
type branchFilter struct {
	decode func(p []byte, start uint32)
	start  uint32
}

// xzBlockHeader reads a block's header (section 3.1): the filters in front of
// LZMA2, and its size in bytes.
func xzBlockHeader(p []byte) (filters []branchFilter, size int, err error) {
	if len(p) < 1 || p[0] == 0 {
		return nil, 0, errInput
	}
	size = (int(p[0]) + 1) * 4
	if size > len(p) {
		return nil, 0, errInput
	}
	p = p[:size]
	if binary.LittleEndian.Uint32(p[size-4:]) != crc32.ChecksumIEEE(p[:size-4]) {
		return nil, 0, errCheck
	}
	h := xzNumbers{p: p[1 : size-4]}
	flags := h.byte()
	if flags&0x3c != 0 {
		return nil, 0, unsupportedf("xz block flags %#x", flags)
	}
	for _, sized := range []byte{0x40, 0x80} {
		if flags&sized != 0 {
			h.number() // of the sizes in the header only the real ones count
		}
	}
	last := int(flags & 3)
	for i := range last + 1 {
		id, props := h.number(), h.bytes(h.number())
		if h.bad {
			return nil, 0, errInput
		}
		if i == last {
			if id != xzLZMA2 || len(props) != 1 || props[0] > 40 {
				return nil, 0, unsupportedf("xz filter %#x at the end", id)
			}
			return filters, size, nil
		}
		f := branchFilter{decode: branchFilters[id]}
		if f.decode == nil || len(props) != 0 && len(props) != 4 {
			return nil, 0, unsupportedf("xz filter %#x", id)
		}
		if len(props) == 4 {
			f.start = binary.LittleEndian.Uint32(props)
		}
		filters = append(filters, f)
	}
	return nil, 0, errInput
}

// xzNumbers reads a block header; bad is set once it ends early.
type xzNumbers struct {
	p   []byte
	bad bool
}

func (h *xzNumbers) byte() byte {
	if b := h.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (h *xzNumbers) bytes(n uint64) []byte {
	if n > uint64(len(h.p)) {
		h.bad = true
		return nil
	}
	b := h.p[:n]
	h.p = h.p[n:]
	return b
}

// number reads a multibyte integer (section 1.2) of at most nine bytes.
func (h *xzNumbers) number() uint64 {
	v, n := binary.Uvarint(h.p)
	if n <= 0 || n > 9 {
		h.bad = true
		return 0
	}
	h.p = h.p[n:]
	return v
}

// lzma2 decodes the chunks of an LZMA2 stream and returns its length in bytes.
func (d *lzma) lzma2(dst, src []byte) (used int, err error) {
	d.dst, d.base, d.out = dst, 0, 0
	// The first chunk must reset the dictionary, the first compressed one the
	// properties.
	needDictionary, needProperties := true, true
	in := 0
	for {
		if in >= len(src) {
			return in, errInput
		}
		control := src[in]
		if control == 0 {
			return in + 1, nil
		}
		if control == 1 || control >= 0xe0 {
			d.base = d.out
			needDictionary, needProperties = false, true
		}
		if needDictionary {
			return in, errStream
		}
		if control < 0x80 {
			if in, err = d.stored(src, in); err != nil {
				return in, err
			}
			continue
		}
		if control >= 0xc0 {
			needProperties = false
		}
		if needProperties {
			return in, errStream
		}
		if in, err = d.chunk(src, in); err != nil {
			return in, err
		}
	}
}

// stored copies an uncompressed chunk.
func (d *lzma) stored(src []byte, in int) (int, error) {
	if src[in] > 2 {
		return in, errStream
	}
	if len(src)-in < 3 {
		return in, errInput
	}
	n := int(binary.BigEndian.Uint16(src[in+1:])) + 1
	in += 3
	if n > len(src)-in {
		return in, errInput
	}
	if n > len(d.dst)-d.out {
		return in, errTooLong
	}
	d.out += copy(d.dst[d.out:], src[in:in+n])
	return in + n, nil
}

// chunk decodes a compressed chunk.
func (d *lzma) chunk(src []byte, in int) (int, error) {
	if len(src)-in < 6 {
		return in, errInput
	}
	control := src[in]
	size := int(control&0x1f)<<16 + int(binary.BigEndian.Uint16(src[in+1:])) + 1
	packed := int(binary.BigEndian.Uint16(src[in+3:])) + 1
	in += 5
	if control >= 0xc0 {
		if err := d.properties(src[in]); err != nil {
			return in, err
		}
		in++
	}
	if control >= 0xa0 {
		d.reset()
	}
	if packed > len(src)-in {
		return in, errInput
	}
	if size > len(d.dst)-d.out {
		return in, errTooLong
	}
	if err := d.rc.start(src[in : in+packed]); err != nil {
		return in, err
	}
	marker, err := d.decode(d.out + size)
	if err != nil {
		return in, err
	}
	if d.rc.rng < rangeTop {
		d.rc.refill()
	}
	if marker || d.rc.short || d.rc.in != packed || d.rc.code != 0 {
		return in, errStream
	}
	return in + packed, nil
}
