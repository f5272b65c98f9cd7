package squashfs

import (
	"encoding/binary"
	"errors"
)

var (
	errInput    = errors.New("compressed data end early")
	errTooLong  = errors.New("more data than the block may hold")
	errDistance = errors.New("a match before the start of the data")
	errTrailing = errors.New("compressed data go on behind their end")
)

// lz4Decode decodes one raw LZ4 block (lz4_Block_format.md): sequences of a
// token, literals and a match, the last one of literals only.
func lz4Decode(dst, src []byte) (int, error) {
	in, out := 0, 0
	for in < len(src) {
		token := src[in]
		in++
		n, next, err := lz4Length(src, in, int(token>>4))
		if err != nil {
			return out, err
		}
		in = next
		if n > len(src)-in {
			return out, errInput
		}
		if n > len(dst)-out {
			return out, errTooLong
		}
		copy(dst[out:], src[in:in+n])
		in, out = in+n, out+n
		if in == len(src) {
			return out, nil
		}
		if len(src)-in < 2 {
			return out, errInput
		}
		distance := int(src[in]) | int(src[in+1])<<8
		if n, in, err = lz4Length(src, in+2, int(token&15)); err != nil {
			return out, err
		}
		if out, err = copyMatch(dst, out, distance, n+4); err != nil {
			return out, err
		}
	}
	return out, errInput
}

// lz4Length reads the bytes that prolong a length of 15 and returns the
// position behind them.
func lz4Length(src []byte, in, n int) (length, next int, err error) {
	if n < 15 {
		return n, in, nil
	}
	for {
		if in >= len(src) || n > maxBlockSize {
			return n, in, errInput
		}
		b := src[in]
		in++
		n += int(b)
		if b < 255 {
			return n, in, nil
		}
	}
}

// copyMatch repeats n bytes from distance bytes before out and returns the new
// end of the output. It overlaps itself where n exceeds distance. What follows
// in dst may be overwritten.
func copyMatch(dst []byte, out, distance, n int) (int, error) {
	if distance <= 0 || distance > out {
		return out, errDistance
	}
	if n > len(dst)-out {
		return out, errTooLong
	}
	from, end := out-distance, out+n
	if n <= 16 && distance >= 8 && len(dst)-out >= 16 {
		// Most matches: two words, of which what is too much is overwritten.
		le, w := binary.LittleEndian, dst[out:out+16]
		le.PutUint64(w, le.Uint64(dst[from:]))
		le.PutUint64(w[8:], le.Uint64(dst[from+8:]))
		return end, nil
	}
	for out < end {
		// What stands between from and out may be copied at once, and doubles.
		out += copy(dst[out:end], dst[from:out])
	}
	return out, nil
}
