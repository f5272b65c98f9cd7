package inflate

import (
	"encoding/binary"
	"sync"
)

// smallOut is the largest output that is decoded into the decoder's own
// buffer and then copied: there the fast loop can run to the end, which for a
// short output is worth far more than the copy costs.
const smallOut = 8 << 10

// tailRoom is the number of zeros behind the input's last bytes that let the
// fast loop run until all of them are used.
const tailRoom = inMargin + 8

// decoder decodes one stream. The bit buffer bb holds nb valid bits, lowest
// first; the bits above them are zero or those that follow in src[ip:].
type decoder struct {
	src   []byte
	out   []byte // room, with capacity equal to length
	ip    int    // next byte of src to load
	op    int    // next byte of out to write
	limit int    // output that is wanted: at most len(out)
	bb    uint64
	nb    uint

	dyn     tables
	pre     [preSize]uint32
	lens    [maxNumLit + maxNumDist]uint8
	tail    [inMargin + tailRoom]byte
	scratch [smallOut + outMargin]byte
}

var pool = sync.Pool{New: func() any { return new(decoder) }}

// decode decodes the deflate stream at the start of src, which must end within
// len(dst) bytes of output. It returns how far it wrote and read.
func decode(dst, src []byte) (n, consumed int, f fault) {
	d := pool.Get().(*decoder)
	d.src, d.ip, d.op, d.bb, d.nb = src, 0, 0, 0, 0
	d.limit = len(dst)
	small := len(dst) <= smallOut
	if small {
		d.out = d.scratch[: len(dst)+outMargin : len(dst)+outMargin]
	} else {
		d.out = dst[:len(dst):len(dst)]
	}
	f = d.blocks()
	if small {
		copy(dst, d.out[:min(d.op, len(dst))])
	}
	n, consumed = min(d.op, len(dst)), d.ip-int(d.nb/8)
	d.src, d.out = nil, nil
	pool.Put(d)
	return n, consumed, f
}

// blocks decodes blocks up to and including the final one.
func (d *decoder) blocks() fault {
	for {
		d.refill()
		if d.nb < 3 {
			return faultTruncated
		}
		final, kind := d.bb&1 != 0, d.bb>>1&3
		d.drop(3)
		var f fault
		switch kind {
		case 0:
			f = d.stored()
		case 1:
			f = d.symbols(fixed)
		case 2:
			if f = d.header(); f == ok {
				f = d.symbols(&d.dyn)
			}
		default:
			f = faultBlockType
		}
		if f != ok || final {
			return f
		}
	}
}

// stored copies a block that is not compressed.
func (d *decoder) stored() fault {
	d.ip -= int(d.nb / 8) // bits up to the next byte are skipped
	d.bb, d.nb = 0, 0
	in := d.src[d.ip:]
	if len(in) < 4 {
		d.ip = len(d.src)
		return faultTruncated
	}
	n := binary.LittleEndian.Uint16(in)
	d.ip += 4
	if n != ^binary.LittleEndian.Uint16(in[2:]) {
		return faultStored
	}
	in = in[4:]
	in = in[:min(len(in), int(n))]
	k := copy(d.out[d.op:d.limit], in)
	d.op += k
	d.ip += k
	if k < len(in) {
		return faultTooLong
	}
	if len(in) < int(n) {
		return faultTruncated
	}
	return ok
}

// symbols decodes the rest of a block.
func (d *decoder) symbols(t *tables) fault {
	var end bool
	var f fault
	if len(d.src)-d.ip >= inMargin {
		end, f = d.fast(t)
	}
	if !end && f == ok && len(d.src)-d.ip < inMargin {
		end, f = d.fastTail(t)
	}
	if d.op > d.limit && f != faultTruncated { // in the margin of the decoder's own buffer
		return faultTooLong
	}
	for f == ok && !end {
		end, f = d.symbol(t)
	}
	return f
}

// fastTail runs the fast loop on the last bytes of the input, behind which it
// puts zeros. If it took some of these for data, then the input is truncated.
func (d *decoder) fastTail(t *tables) (end bool, f fault) {
	src, start := d.src, d.ip
	n := copy(d.tail[:inMargin], src[start:])
	clear(d.tail[n:])
	d.src, d.ip = d.tail[:n+tailRoom], 0
	end, f = d.fast(t)
	used := d.ip
	d.src, d.ip = src, start+min(used, n)
	if zeros := uint(8 * max(used-n, 0)); zeros <= d.nb {
		d.nb -= zeros
		return end, f
	}
	d.nb = 0
	return false, faultTruncated
}

// symbol decodes one literal, match or end of block with every check: the way
// to go near the end of input and output.
func (d *decoder) symbol(t *tables) (end bool, f fault) {
	d.refill()
	e := t.lit[d.bb&litMask]
	if e&(litFlag|litSpec|linkFlag) == litSpec|linkFlag {
		if !d.drop(litBits) {
			return false, faultTruncated
		}
		e = t.litLink(e, d.bb)
	}
	saved := d.bb
	if !d.drop(uint(e & 63)) {
		return false, faultTruncated
	}
	if e&litFlag != 0 {
		if d.op >= d.limit {
			return false, faultTooLong
		}
		d.out[d.op] = byte(e >> 16)
		d.op++
		return false, ok
	}
	if e&litSpec != 0 {
		if e&endFlag == 0 {
			return false, faultLitCode
		}
		return true, ok
	}
	length := int(uint64(e>>16&0x1ff) + (saved>>(e>>8&63))&uint64(e>>25))
	return false, d.match(t, length)
}

// match decodes a distance and copies length bytes.
func (d *decoder) match(t *tables, length int) fault {
	d.refill()
	e := t.dist[d.bb&distMask]
	if e&(distSpec|linkFlag) == distSpec|linkFlag {
		if !d.drop(distBits) {
			return faultTruncated
		}
		e = t.distLink(e, d.bb)
	}
	saved := d.bb
	if !d.drop(uint(e & 63)) {
		return faultTruncated
	}
	if e&distSpec != 0 {
		return faultDistCode
	}
	dist := int(uint64(uint16(e>>16)) + (saved>>(e>>8&63))&(e>>32))
	if dist > d.op {
		return faultDistFar
	}
	if length > d.limit-d.op {
		return faultTooLong
	}
	from, to := d.op-dist, d.op+length
	for d.op < to { // what can be copied at once doubles with each round
		d.op += copy(d.out[d.op:to], d.out[from:d.op])
	}
	return ok
}

// refill loads input until at least 56 bits are there or the input ends.
func (d *decoder) refill() {
	if in := d.src[d.ip:]; len(in) >= 8 {
		d.bb |= binary.LittleEndian.Uint64(in) << (d.nb & 63)
		d.ip += int(63-d.nb) >> 3
		d.nb |= 56
		return
	}
	for d.nb < 56 && d.ip < len(d.src) {
		d.bb |= uint64(d.src[d.ip]) << (d.nb & 63)
		d.ip++
		d.nb += 8
	}
}

// drop consumes n bits and reports whether there were as many.
func (d *decoder) drop(n uint) bool {
	if n > d.nb {
		return false
	}
	d.bb >>= n & 63
	d.nb -= n
	return true
}
