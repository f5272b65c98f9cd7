package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	trailerSize  = 64
	trailerMagic = "NDFSOBJ1"
)

// errDamaged is returned for a file that is no valid object.
var errDamaged = errors.New("damaged object")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums is the running checksum of an object's content.
type sums struct{ c, ieee uint32 }

func (s *sums) add(p []byte) {
	s.c = crc32.Update(s.c, castagnoli, p)
	s.ieee = crc32.Update(s.ieee, crc32.IEEETable, p)
}

// makeTrailer is the trailer of an object of length bytes under key.
func makeTrailer(key string, length int64, s sums) [trailerSize]byte {
	var t [trailerSize]byte
	copy(t[:], trailerMagic)
	binary.LittleEndian.PutUint64(t[8:], uint64(length))
	binary.LittleEndian.PutUint32(t[16:], s.c)
	binary.LittleEndian.PutUint32(t[20:], s.ieee)
	kh := sha256.Sum256([]byte(key))
	copy(t[24:40], kh[:])
	binary.LittleEndian.PutUint32(t[60:], crc32.Checksum(t[:60], castagnoli))
	return t
}

// parseTrailer checks b, the last 64 bytes of a file of fileSize bytes named
// for key, and returns the content's length and sums. Errors wrap errDamaged.
func parseTrailer(b []byte, key string, fileSize int64) (int64, sums, error) {
	if len(b) != trailerSize || string(b[:8]) != trailerMagic {
		return 0, sums{}, fmt.Errorf("no trailer: %w", errDamaged)
	}
	s := sums{binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:])}
	length := binary.LittleEndian.Uint64(b[8:])
	// The trailer is made anew and compared whole: that covers the key, the
	// check and the bytes that must be zero in one go.
	if makeTrailer(key, int64(length), s) != [trailerSize]byte(b) {
		return 0, sums{}, fmt.Errorf("trailer of another object, or altered: %w", errDamaged)
	}
	if fileSize < trailerSize || length != uint64(fileSize-trailerSize) {
		return 0, sums{}, fmt.Errorf("%d bytes where %d belong: %w", fileSize-trailerSize, length, errDamaged)
	}
	return int64(length), s, nil
}

// sumContent reads n bytes from r and compares them with want. It returns
// errDamaged for other content and the read error for one that fails.
func sumContent(r io.ReaderAt, n int64, want sums) error {
	var got sums
	buf := make([]byte, min(n, 256<<10))
	for off := int64(0); off < n; {
		p := buf[:min(int64(len(buf)), n-off)]
		m, err := r.ReadAt(p, off)
		if m < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				return fmt.Errorf("content ends at %d of %d: %w", off+int64(m), n, errDamaged)
			}
			return err
		}
		got.add(p)
		off += int64(m)
	}
	if got != want {
		return fmt.Errorf("content has other checksums: %w", errDamaged)
	}
	return nil
}
