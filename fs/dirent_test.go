package fs

import "encoding/binary"

// parseDirents reads names and the last offset from the kernel's fuse_dirent or
// fuse_direntplus records (include/uapi/linux/fuse.h).
func parseDirents(b []byte, plus bool) (names []string, next uint64) {
	const direntHeader, entryOut = 24, 128
	for {
		at := 0
		if plus {
			at = entryOut
		}
		if len(b) < at+direntHeader {
			return names, next
		}
		d := b[at:]
		n := int(binary.LittleEndian.Uint32(d[16:]))
		if n == 0 {
			return names, next
		}
		next = binary.LittleEndian.Uint64(d[8:])
		names = append(names, string(d[direntHeader:direntHeader+n]))
		b = b[min(len(b), at+(direntHeader+n+7)&^7):]
	}
}
