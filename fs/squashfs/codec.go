package squashfs

import (
	"encoding/binary"
	"fmt"

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
// the frame promises. The buffer is the window too: that a frame, as encoders of
// streams make it, says how large a one it may need costs nothing.
func newZstd() (decoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("squashfs: make a zstd decoder: %w", err)
	}
	return func(dst, src []byte) (int, error) {
		out, err := d.DecodeAll(src, dst[:0:len(dst)])
		return len(out), err
	}, nil
}

// checkOptions checks the compressor's options, p without the block's header, as
// unsquashfs does: nothing follows for a reader from what says how hard the
// compressor tried.
func checkOptions(c Compression, p []byte) error {
	if c != LZ4 {
		return nil
	}
	if len(p) < 4 {
		return corruptf("%d bytes of lz4 options", len(p))
	}
	if version := binary.LittleEndian.Uint32(p); version != 1 {
		return unsupportedf("lz4 stream version %d", version)
	}
	return nil
}
