package inflate

import (
	"encoding/binary"
	"hash/adler32"
)

// Zlib decodes the zlib stream (RFC 1950) at the start of src into dst, which
// it must fill exactly, and checks its Adler-32. It returns the stream's length
// in bytes; bytes of src behind it are not looked at.
//
// An error is an *Error that wraps ErrCorrupt: ErrTruncated if src ends early,
// ErrTooShort or ErrTooLong (both are ErrSize) if the output has another size
// than dst; a stream with a preset dictionary is refused. dst then holds
// anything. Nothing is written beyond len(dst). dst and src must not overlap.
// Safe for concurrent use.
func Zlib(dst, src []byte) (consumed int, err error) {
	_, consumed, err = zlibStream(dst, src, true, true)
	return consumed, err
}

// ZlibNoSum is Zlib without the check of Adler-32, for data whose own hash was
// checked. The four bytes of the sum must be there nevertheless.
func ZlibNoSum(dst, src []byte) (consumed int, err error) {
	_, consumed, err = zlibStream(dst, src, true, false)
	return consumed, err
}

// ZlibMax is Zlib for an output of unknown size: it fills at most len(dst)
// bytes and returns how many as n. An output that is longer is an ErrTooLong.
func ZlibMax(dst, src []byte) (n, consumed int, err error) {
	return zlibStream(dst, src, false, true)
}

// Raw decodes the deflate stream (RFC 1951) at the start of src into dst,
// which it must fill exactly. It returns the stream's length in bytes, the last
// one counted in full. All else is as with Zlib.
func Raw(dst, src []byte) (consumed int, err error) {
	n, consumed, f := decode(dst, src)
	if f == ok && n < len(dst) {
		f = faultTooShort
	}
	if f != ok {
		return consumed, f.at(consumed, n)
	}
	return consumed, nil
}

const (
	zlibHeader  = 2
	zlibTrailer = 4
)

func zlibStream(dst, src []byte, exact, sum bool) (n, consumed int, err error) {
	if f := checkHeader(src); f != ok {
		return 0, 0, f.at(0, 0)
	}
	body := src[zlibHeader:]
	n, consumed, f := decode(dst, body)
	trailer := body[consumed:]
	consumed += zlibHeader
	switch {
	case f != ok:
	case exact && n < len(dst):
		f = faultTooShort
	case len(trailer) < zlibTrailer:
		f = faultTruncated
	case sum && binary.BigEndian.Uint32(trailer) != adler32.Checksum(dst[:n]):
		f = faultChecksum
	default:
		return n, consumed + zlibTrailer, nil
	}
	return n, consumed, f.at(consumed, n)
}

// checkHeader checks the two bytes in front of a zlib stream (RFC 1950,
// section 2.2). The window size in it is bounded but not enforced.
func checkHeader(src []byte) fault {
	if len(src) < zlibHeader {
		return faultTruncated
	}
	h := binary.BigEndian.Uint16(src)
	switch {
	case h>>8&15 != 8, h>>12 > 7, h%31 != 0:
		return faultZlib
	case h&0x20 != 0:
		return faultDictionary
	}
	return ok
}
