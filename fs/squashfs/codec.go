package squashfs

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/neurodesk/neurodeskfs/cvmfs/inflate"
)

// Compression says how an image's blocks are compressed.
type Compression uint16

// The compressors, as numbered in a superblock.
const (
	Gzip Compression = iota + 1
	LZMA
	LZO
	XZ
	LZ4
	Zstd
)

// String returns the name that mksquashfs -comp takes.
func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case LZMA:
		return "lzma"
	case LZO:
		return "lzo"
	case XZ:
		return "xz"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compressor %d", uint16(c))
}

// decoder inflates one block: it fills at most len(dst) bytes, says how many,
// and fails when the block holds more. Safe for concurrent use.
type decoder func(dst, src []byte) (int, error)

// decoder returns the decoder for an image's compressor.
func (c *Cache) decoder(kind Compression) (decoder, error) {
	switch kind {
	case Gzip:
		return gzipDecode, nil
	case LZMA:
		return lzmaDecode, nil
	case LZO:
		return lzoDecode, nil
	case XZ:
		return xzDecode, nil
	case LZ4:
		return lz4Decode, nil
	case Zstd:
		return c.zstd()
	}
	return nil, unsupportedf("%s", kind)
}

func gzipDecode(dst, src []byte) (int, error) {
	n, _, err := inflate.ZlibMax(dst, src)
	return n, err
}

// newZstd makes a decoder that writes into the given buffer only, however much
// the frame promises.
func newZstd() (decoder, error) {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(maxBlockSize),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("squashfs: make a zstd decoder: %w", err)
	}
	return func(dst, src []byte) (int, error) {
		out, err := d.DecodeAll(src, dst[:0:len(dst)])
		return len(out), err
	}, nil
}

// The least sizes of the options, in bytes.
var optionSizes = map[Compression]int{Gzip: 8, LZO: 8, XZ: 8, LZ4: 8, Zstd: 4}

// checkOptions checks the compressor's options, p without the block's header.
// What only says how hard the compressor tried is bounded all the same: other
// values mean that these are no options.
func checkOptions(c Compression, p []byte) error {
	if len(p) < optionSizes[c] {
		return corruptf("%d bytes of %s options", len(p), c)
	}
	le := binary.LittleEndian
	first := le.Uint32(p)
	switch c {
	case Gzip:
		window, strategies := le.Uint16(p[4:]), le.Uint16(p[6:])
		if first < 1 || first > 9 || window < 8 || window > 15 || strategies > 0x1f {
			return corruptf("gzip options: level %d, window %d, strategies %#x", first, window, strategies)
		}
	case LZO:
		if level := le.Uint32(p[4:]); first > 4 || level > 9 {
			return corruptf("lzo options: algorithm %d, level %d", first, level)
		}
	case XZ:
		// 2^n or 2^n + 2^(n+1).
		if low := uint32(1) << bits.TrailingZeros32(first|1<<31); first < metadataSize || first != low && first != 3*low {
			return corruptf("xz options: dictionary of %d bytes", first)
		}
	case LZ4:
		if first != 1 {
			return unsupportedf("lz4 stream version %d", first)
		}
	case Zstd:
		if first < 1 || first > 22 {
			return corruptf("zstd options: level %d", first)
		}
	}
	return nil
}
