package squashfs

import (
	"encoding/binary"
	"testing"
)

// synth makes an image of stored blocks from the bytes of its tables.
type synth struct {
	inodes, dirs []byte
	super        func(p []byte) // changes the superblock
}

const synthData = 4096 // bytes of data behind the superblock

func (s synth) image() memory {
	le := binary.LittleEndian
	m := make(memory, superblockSize+synthData)
	for i := superblockSize; i < len(m); i++ {
		m[i] = byte(i)
	}
	inodeTable := len(m)
	m = appendStored(m, s.inodes)
	dirTable := len(m)
	m = appendStored(m, s.dirs)
	idBlock := len(m)
	m = appendStored(m, make([]byte, 4))
	idTable := len(m)
	m = le.AppendUint64(m, uint64(idBlock))
	le.PutUint32(m, magic)
	le.PutUint32(m[4:], 1)
	le.PutUint32(m[12:], 4096)
	le.PutUint16(m[20:], uint16(Gzip))
	le.PutUint16(m[22:], 12)
	le.PutUint16(m[26:], 1)
	le.PutUint16(m[28:], 4)
	le.PutUint64(m[40:], uint64(len(m)))
	le.PutUint64(m[48:], uint64(idTable))
	le.PutUint64(m[56:], absent)
	le.PutUint64(m[64:], uint64(inodeTable))
	le.PutUint64(m[72:], uint64(dirTable))
	le.PutUint64(m[80:], absent)
	le.PutUint64(m[88:], absent)
	if s.super != nil {
		s.super(m[:superblockSize])
	}
	return m
}

// appendStored appends p as uncompressed metadata blocks.
func appendStored(m memory, p []byte) memory {
	for len(p) > 0 {
		n := min(len(p), metadataSize)
		m = binary.LittleEndian.AppendUint16(m, uint16(n)|0x8000)
		m = append(m, p[:n]...)
		p = p[n:]
	}
	return m
}

// numbers appends little-endian numbers: uint16, uint32 and uint64 as given.
func numbers(p []byte, all ...any) []byte {
	for _, v := range all {
		var err error
		if p, err = binary.Append(p, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return p
}

func header(kind uint16) []byte {
	return numbers(nil, kind, uint16(0o755), uint16(0), uint16(0), uint32(1), uint32(1))
}

// largeDir is an extended directory whose listing starts the directory table.
func largeDir(size uint32, pieces uint16) []byte {
	return numbers(header(8), uint32(2), size, uint32(0), uint32(1), pieces, uint16(0), uint32(noXattr))
}

// largeFile is an extended file without a fragment.
func largeFile(start, size uint64, words ...uint32) []byte {
	return numbers(header(9), start, size, uint64(0), uint32(1), uint32(noFragment), uint32(0), uint32(noXattr), words)
}

// dirRun is a header and its entries; all have the inode at offset of block 0.
func dirRun(offset uint16, names ...string) []byte {
	p := numbers(nil, uint32(len(names)-1), uint32(0), uint32(1))
	for _, n := range names {
		p = append(numbers(p, offset, uint16(0), uint16(1), uint16(len(n)-1)), n...)
	}
	return p
}

// table returns the inflated bytes of a region of an image.
func table(t testing.TB, f *FS, r *region) []byte {
	t.Helper()
	var all []byte
	for pos := r.start; pos < r.end; {
		b, err := f.metaBlock(t.Context(), r, pos)
		if err != nil {
			t.Fatal(err)
		}
		all, pos = append(all, b.data...), b.next
	}
	return all
}
