package squashfs

import (
	"encoding/binary"
	"math/bits"
)

const (
	magic          = 0x73717368 // "hsqs" in the file
	superblockSize = 96
	metadataSize   = 8192 // bytes of a full metadata block, inflated
	absent         = 1<<64 - 1
	noFragment     = 1<<32 - 1
	noXattr        = 1<<32 - 1
	minBlockSize   = 4 << 10
	maxBlockSize   = 1 << 20
)

// Flags are the bits of a superblock that say how the image was made. Only
// FlagOptions matters to a reader: each block says itself whether it is
// compressed, each inode whether it has a fragment.
type Flags uint16

// FlagOptions says that the compressor's options stand behind the superblock, as
// in the kernel's squashfs_fs.h.
const FlagOptions Flags = 1 << 10

// Superblock is what an image says of itself in its first 96 bytes. Positions
// are bytes from the start of the image; a table that is not there has
// position 2^64-1.
type Superblock struct {
	Inodes      uint32
	BlockSize   uint32 // bytes, a power of two from 4 KiB to 1 MiB
	Fragments   uint32 // fragment blocks
	Compression Compression
	Flags       Flags
	IDs         uint16 // different user and group numbers
	RootRef     uint64 // inode reference: block<<16 | offset
	BytesUsed   uint64 // bytes, less than the file if that is padded

	IDTable        uint64
	XattrTable     uint64
	InodeTable     uint64
	DirectoryTable uint64
	FragmentTable  uint64
	ExportTable    uint64
}

// parseSuperblock reads p, the first bytes of an image of size bytes, and
// checks all that can be checked without reading more.
func parseSuperblock(p []byte, size int64) (Superblock, error) {
	if len(p) < superblockSize {
		return Superblock{}, corruptf("%d bytes are too few for a superblock", len(p))
	}
	le := binary.LittleEndian
	if m := le.Uint32(p); m != magic {
		if bits.ReverseBytes32(m) == magic {
			return Superblock{}, unsupportedf("big-endian, made before version 4.0")
		}
		return Superblock{}, corruptf("no squashfs: magic number %#08x", m)
	}
	if major, minor := le.Uint16(p[28:]), le.Uint16(p[30:]); major != 4 || minor != 0 {
		return Superblock{}, unsupportedf("version %d.%d, only 4.0 can be read", major, minor)
	}
	s := Superblock{
		Inodes:         le.Uint32(p[4:]),
		BlockSize:      le.Uint32(p[12:]),
		Fragments:      le.Uint32(p[16:]),
		Compression:    Compression(le.Uint16(p[20:])),
		Flags:          Flags(le.Uint16(p[24:])),
		IDs:            le.Uint16(p[26:]),
		RootRef:        le.Uint64(p[32:]),
		BytesUsed:      le.Uint64(p[40:]),
		IDTable:        le.Uint64(p[48:]),
		XattrTable:     le.Uint64(p[56:]),
		InodeTable:     le.Uint64(p[64:]),
		DirectoryTable: le.Uint64(p[72:]),
		FragmentTable:  le.Uint64(p[80:]),
		ExportTable:    le.Uint64(p[88:]),
	}
	if log := le.Uint16(p[22:]); bits.OnesCount32(s.BlockSize) != 1 || s.BlockSize < minBlockSize ||
		s.BlockSize > maxBlockSize || int(log) != bits.TrailingZeros32(s.BlockSize) {
		return s, corruptf("block size %d, logarithm %d", s.BlockSize, log)
	}
	if s.Compression < Gzip || s.Compression > Zstd {
		return s, unsupportedf("%s", s.Compression)
	}
	return s, s.check(size)
}

// check compares the positions with the image's size and with each other.
func (s *Superblock) check(size int64) error {
	if s.BytesUsed < superblockSize || s.BytesUsed > uint64(size) {
		return corruptf("%d bytes used of %d", s.BytesUsed, size)
	}
	if s.Inodes == 0 || s.IDs == 0 {
		return corruptf("%d inodes, %d ids", s.Inodes, s.IDs)
	}
	if s.InodeTable < superblockSize || s.DirectoryTable <= s.InodeTable || s.DirectoryTable > s.BytesUsed {
		return corruptf("inodes at %d, directories at %d of %d", s.InodeTable, s.DirectoryTable, s.BytesUsed)
	}
	if s.RootRef>>16 >= s.DirectoryTable-s.InodeTable || s.RootRef&0xffff >= metadataSize {
		return corruptf("root inode %#x lies outside the inode table", s.RootRef)
	}
	if s.Fragments > 0 && s.FragmentTable == absent {
		return corruptf("%d fragments but no fragment table", s.Fragments)
	}
	for _, t := range []struct {
		name       string
		pos, bytes uint64
		need       bool
	}{
		{"id", s.IDTable, listBytes(uint64(s.IDs) * idSize), true},
		{"fragment", s.FragmentTable, listBytes(uint64(s.Fragments) * fragmentSize), s.Fragments > 0},
		{"export", s.ExportTable, listBytes(uint64(s.Inodes) * exportSize), s.ExportTable != absent},
		{"xattr", s.XattrTable, xattrHeader, s.XattrTable != absent},
	} {
		if t.need && (t.pos < s.DirectoryTable || t.pos > s.BytesUsed || t.bytes > s.BytesUsed-t.pos) {
			return corruptf("%s table of %d bytes at %d of %d", t.name, t.bytes, t.pos, s.BytesUsed)
		}
	}
	return nil
}

// listBytes is the size of the list of positions of the metadata blocks that
// hold n bytes.
func listBytes(n uint64) uint64 { return (n + metadataSize - 1) / metadataSize * 8 }
