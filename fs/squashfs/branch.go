package squashfs

import "encoding/binary"

// branchFilters are the decoders of the filters that xz may use on programs:
// the compressor replaced the relative targets of calls by absolute ones, which
// repeat themselves. The numbers are those of xz-file-format.txt, section 5.3.2.
var branchFilters = map[uint64]func(p []byte, start uint32){
	0x04: unfilterX86,
	0x05: unfilterPowerPC,
	0x06: unfilterIA64,
	0x07: unfilterARM,
	0x08: unfilterThumb,
	0x09: unfilterSPARC,
	0x0a: unfilterARM64,
}

// unfilterX86 undoes the filter for CALL and JMP (e8, e9) whose operand's
// highest byte is a sign extension. The filter skips what looks like the inside
// of an earlier operand: recent has a bit for each of the last three positions
// at which an opcode byte was seen but not converted.
func unfilterX86(p []byte, start uint32) {
	const operand = 4
	// How many bytes back from the operand's end the earlier opcode matters.
	overlap := [8]uint{0, 1, 2, 2, 3, 3, 3, 3}
	allowed := [8]bool{0: true, 1: true, 2: true, 4: true}
	sign := func(b byte) bool { return b == 0 || b == 0xff }
	last, recent := -1, uint32(0)
	for i := 0; i+operand < len(p); i++ {
		if p[i]&0xfe != 0xe8 {
			continue
		}
		if gap := i - last; gap > 3 {
			recent = 0
		} else {
			recent = recent << (gap - 1) & 7
		}
		last = i
		if recent != 0 && (!allowed[recent] || sign(p[i+operand-int(overlap[recent])])) || !sign(p[i+operand]) {
			recent = recent<<1 | 1
			continue
		}
		v := binary.LittleEndian.Uint32(p[i+1:])
		at := start + uint32(i) + 1 + operand
		v -= at
		// Twice is what occurs; the bound is for data that no filter made.
		for range 8 {
			bits := overlap[recent] * 8
			if recent == 0 || !sign(byte(v>>(24-bits))) {
				break
			}
			v = v ^ (1<<(32-bits) - 1) - at
		}
		// Bit 24 is the sign of a 25 bit number.
		binary.LittleEndian.PutUint32(p[i+1:], uint32(int32(v<<7)>>7))
		i += operand
	}
}

// unfilterPowerPC undoes the filter for BL (b with link, not absolute).
func unfilterPowerPC(p []byte, start uint32) {
	for i := 0; i+4 <= len(p); i += 4 {
		v := binary.BigEndian.Uint32(p[i:])
		if v&0xfc000003 == 0x48000001 {
			binary.BigEndian.PutUint32(p[i:], 0x48000001|(v-start-uint32(i))&0x03fffffc)
		}
	}
}

// unfilterIA64 undoes the filter for calls in the slots of a bundle that hold
// a branch, which the template in the low five bits tells.
func unfilterIA64(p []byte, start uint32) {
	slots := [32]byte{16: 4, 17: 4, 18: 6, 19: 6, 22: 7, 23: 7, 24: 4, 25: 4, 28: 4, 29: 4}
	for i := 0; i+16 <= len(p); i += 16 {
		mask := slots[p[i]&0x1f]
		for slot := range uint(3) {
			if mask>>slot&1 == 0 {
				continue
			}
			bit := 5 + 41*slot
			at, shift := i+int(bit/8), bit%8
			var raw uint64
			for j := range uint(6) {
				raw |= uint64(p[at+int(j)]) << (8 * j)
			}
			v := raw >> shift
			if v>>37&0xf != 5 || v>>9&7 != 0 {
				continue
			}
			target := uint32(v>>13)&0xfffff | uint32(v>>36)&1<<20
			target = (target<<4 - start - uint32(i)) >> 4
			v &^= 0x8fffff << 13
			v |= uint64(target&0xfffff)<<13 | uint64(target&0x100000)<<16
			raw = raw&(1<<shift-1) | v<<shift
			for j := range uint(6) {
				p[at+int(j)] = byte(raw >> (8 * j))
			}
		}
	}
}

// unfilterARM undoes the filter for BL that is always carried out.
func unfilterARM(p []byte, start uint32) {
	for i := 0; i+4 <= len(p); i += 4 {
		if p[i+3] == 0xeb {
			v := binary.LittleEndian.Uint32(p[i:])
			v = (v<<2 - start - uint32(i) - 8) >> 2
			p[i], p[i+1], p[i+2] = byte(v), byte(v>>8), byte(v>>16)
		}
	}
}

// unfilterThumb undoes the filter for BL as a pair of 16 bit instructions.
func unfilterThumb(p []byte, start uint32) {
	for i := 0; i+4 <= len(p); i += 2 {
		high, low := binary.LittleEndian.Uint16(p[i:]), binary.LittleEndian.Uint16(p[i+2:])
		if high&0xf800 != 0xf000 || low&0xf800 != 0xf800 {
			continue
		}
		v := uint32(high&0x7ff)<<11 | uint32(low&0x7ff)
		v = (v<<1 - start - uint32(i) - 4) >> 1
		binary.LittleEndian.PutUint16(p[i:], 0xf000|uint16(v>>11)&0x7ff)
		binary.LittleEndian.PutUint16(p[i+2:], 0xf800|uint16(v)&0x7ff)
		i += 2
	}
}

// unfilterSPARC undoes the filter for CALL within 16 MiB either way.
func unfilterSPARC(p []byte, start uint32) {
	for i := 0; i+4 <= len(p); i += 4 {
		v := binary.BigEndian.Uint32(p[i:])
		if top := v >> 22; top != 0x100 && top != 0x1ff {
			continue
		}
		v = (v<<2 - start - uint32(i)) >> 2
		// Bit 22 is the sign and fills bits 22 to 29.
		v = (0x40000000-v&0x400000)&0x3fffffff | 0x40000000 | v&0x3fffff
		binary.BigEndian.PutUint32(p[i:], v)
	}
}

// unfilterARM64 undoes the filter for BL, and for ADRP within 512 MiB.
func unfilterARM64(p []byte, start uint32) {
	for i := 0; i+4 <= len(p); i += 4 {
		v := binary.LittleEndian.Uint32(p[i:])
		at := start + uint32(i)
		switch {
		case v>>26 == 0x25:
			v = 0x94000000 | (v-at>>2)&0x03ffffff
		case v&0x9f000000 == 0x90000000:
			page := v>>29&3 | v>>3&0x1ffffc
			if (page+0x20000)&0x1c0000 != 0 {
				continue
			}
			page -= at >> 12
			v = v&0x9000001f | page&3<<29 | page&0x3fffc<<3 | -(page&0x20000)&0xe00000
		default:
			continue
		}
		binary.LittleEndian.PutUint32(p[i:], v)
	}
}
