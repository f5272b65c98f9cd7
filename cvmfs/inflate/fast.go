package inflate

import "encoding/binary"

// What one round of the fast loop may read and write at most: two refills of
// 8 bytes, of which the second starts up to 7 bytes later; three literals and a
// match of 258 bytes, copied in steps of 32 bytes that may go 32 too far.
const (
	inMargin  = 16
	outMargin = 300
	copyRoom  = 290
)

// load fills the bit buffer bb, of which nb bits are valid, from in to 56 bits
// or more, and looks up the first symbol. It takes no branch: the bits above nb
// are those that are loaded again.
func (t *tables) load(in []byte, bb, nb uint64) ([]byte, uint64, uint64, uint32) {
	bb |= binary.LittleEndian.Uint64(in) << (nb & 63)
	return in[(nb^63)>>3&7:], bb, nb | 56, t.lit[bb&litMask]
}

// next drops the bits of e and looks up the symbol behind it.
func (t *tables) next(bb, nb uint64, e uint32) (uint64, uint64, uint32) {
	bb >>= e & 63
	return bb, nb - uint64(e), t.lit[bb&litMask]
}

// fast decodes symbols of a block while inMargin bytes of input (there must be
// as many at first) and outMargin bytes of room are left. It reports whether
// the block's end was met. It is one function so that its state stays in
// registers; what it calls is small enough to be inlined, or rare.
func (d *decoder) fast(t *tables) (end bool, f fault) {
	out, op := d.out[:len(d.out):len(d.out)], d.op
	in, bb, nb, e := t.load(d.src[d.ip:], d.bb, uint64(d.nb)) // of nb only the low six bits count
	for len(in) >= inMargin && op >= 0 && op <= len(out)-outMargin {
		if int32(e) < 0 { // up to four literals of 11 bits out of 56
			w := (*[4]byte)(out[op : op+4 : op+4])
			w[0], op = byte(e>>16), op+1
			if bb, nb, e = t.next(bb, nb, e); int32(e) < 0 {
				w[1], op = byte(e>>16), op+1
				if bb, nb, e = t.next(bb, nb, e); int32(e) < 0 {
					w[2], op = byte(e>>16), op+1
					if bb, nb, e = t.next(bb, nb, e); int32(e) < 0 {
						w[3], op = byte(e>>16), op+1
						in, bb, nb, e = t.load(in, bb>>(e&63), nb-uint64(e))
						continue
					}
				}
			}
			in, bb, nb, _ = t.load(in, bb, nb)
		}
		if e&litSpec != 0 {
			if e&linkFlag != 0 {
				bb, nb = bb>>litBits, nb-litBits
				e = t.litLink(e, bb)
			}
			if int32(e) < 0 {
				out[op], op = byte(e>>16), op+1
				in, bb, nb, e = t.load(in, bb>>(e&63), nb-uint64(e))
				continue
			}
			if e&litSpec != 0 {
				bb, nb, end, f = bb>>(e&63), nb-uint64(e), e&endFlag != 0, litFault(e)
				break
			}
		}
		length := int(uint64(e>>16&0x1ff) + (bb>>(e>>8&63))&uint64(e>>25))
		bb, nb = bb>>(e&63), nb-uint64(e)
		de := t.dist[bb&distMask]
		if de&distSpec != 0 && de&linkFlag != 0 {
			bb, nb = bb>>distBits, nb-distBits
			de = t.distLink(de, bb)
		}
		dist := int(uint64(uint16(de>>16)) + (bb>>(de>>8&63))&(de>>32))
		in, bb, nb, e = t.load(in, bb>>(de&63), nb-de)
		if de&distSpec != 0 || dist > op {
			f = distFault(de)
			break
		}
		w := (*[copyRoom]byte)(out[op : op+copyRoom : op+copyRoom])
		h := (*[copyRoom]byte)(out[op-dist : op-dist+copyRoom : op-dist+copyRoom])
		op += length
		if dist < 8 || length > 32 {
			copyLong(w, h, dist, length)
			continue
		}
		copy32(w, h)
	}
	d.ip, d.op, d.bb, d.nb = len(d.src)-len(in), op, bb, uint(nb&63)
	return end, f
}

// litFault judges an entry that ends the block or is invalid.
func litFault(e uint32) fault {
	if e&endFlag != 0 {
		return ok
	}
	return faultLitCode
}

// distFault says what is wrong with the distance of entry e.
func distFault(e uint64) fault {
	if e&distSpec != 0 {
		return faultDistCode
	}
	return faultDistFar
}

// copy32 copies 32 bytes in steps of 8, which does for every match that is not
// longer and whose distance is 8 or more.
func copy32(w, h *[copyRoom]byte) {
	binary.LittleEndian.PutUint64(w[0:], binary.LittleEndian.Uint64(h[0:]))
	binary.LittleEndian.PutUint64(w[8:], binary.LittleEndian.Uint64(h[8:]))
	binary.LittleEndian.PutUint64(w[16:], binary.LittleEndian.Uint64(h[16:]))
	binary.LittleEndian.PutUint64(w[24:], binary.LittleEndian.Uint64(h[24:]))
}

// copyLong copies any match of up to maxMatch bytes, and writes up to 31 bytes
// more. For a distance below 8 the bytes between h and w are repeated.
func copyLong(w, h *[copyRoom]byte, dist, length int) {
	if dist >= 8 {
		for i := 0; i < length && i < maxMatch; i += 8 {
			binary.LittleEndian.PutUint64(w[i:], binary.LittleEndian.Uint64(h[i:]))
		}
		return
	}
	if dist == 1 {
		v := uint64(h[0]) * 0x0101010101010101
		for i := 0; i < length && i < maxMatch; i += 32 {
			binary.LittleEndian.PutUint64(w[i:], v)
			binary.LittleEndian.PutUint64(w[i+8:], v)
			binary.LittleEndian.PutUint64(w[i+16:], v)
			binary.LittleEndian.PutUint64(w[i+24:], v)
		}
		return
	}
	// The bytes, repeated over 8 bytes, are stored at steps of a multiple of
	// their number.
	p := &patterns[dist&7]
	v := binary.LittleEndian.Uint64(h[0:]) & p.mask * p.factor
	step := int(p.step)
	for i := 0; i < length && i < maxMatch; i += step {
		binary.LittleEndian.PutUint64(w[i:], v)
	}
}

// pattern says how a period of 1 to 7 bytes is repeated.
type pattern struct {
	mask, factor uint64
	step         uint8
}

var patterns = [8]pattern{
	{0, 0, 8},
	{1<<8 - 1, 0x0101010101010101, 8},
	{1<<16 - 1, 0x0001000100010001, 8},
	{1<<24 - 1, 0x0001000001000001, 6},
	{1<<32 - 1, 0x0000000100000001, 8},
	{1<<40 - 1, 0x0000010000000001, 5},
	{1<<48 - 1, 0x0001000000000001, 6},
	{1<<56 - 1, 0x0100000000000001, 7},
}
