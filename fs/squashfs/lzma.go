package squashfs

import (
	"encoding/binary"
	"errors"
	"sync"
)

var errStream = errors.New("damaged LZMA stream")

const (
	lzmaStates  = 12
	lzmaHeader  = 13 // of the stand-alone form: properties, dictionary, size
	minMatch    = 2
	maxLiterals = 4 // lc + lp: what LZMA2 allows and every image keeps to
)

// lengthProbs are the probabilities of a match's length.
type lengthProbs struct {
	choice [2]uint16
	low    [16][8]uint16
	mid    [16][8]uint16
	high   [256]uint16
}

// lzmaProbs are all probabilities of a stream, in the terms of the LZMA
// specification.
type lzmaProbs struct {
	match     [lzmaStates][16]uint16
	rep       [lzmaStates]uint16
	rep0      [lzmaStates]uint16
	rep0Long  [lzmaStates][16]uint16
	rep1      [lzmaStates]uint16
	rep2      [lzmaStates]uint16
	slot      [4][64]uint16
	special   [128]uint16
	align     [16]uint16
	length    lengthProbs
	repLength lengthProbs
	literal   [1 << maxLiterals][0x300]uint16
}

// lzma decodes LZMA into a buffer that is its own dictionary: a block is
// decoded at once, so what a match refers to is still there.
type lzma struct {
	rc         rangeDecoder
	probs      lzmaProbs
	lc, lp, pb uint
	state      uint32
	rep        [4]uint32 // distances less one, the last one first
	dst        []byte
	base, out  int // where the dictionary starts, where the output ends
}

var (
	lzmaPool = sync.Pool{New: func() any { return new(lzma) }}
	// freshProbs is what a reset sets: one half everywhere.
	freshProbs = sync.OnceValue(newProbs)
)

func newProbs() *lzmaProbs {
	p := &lzmaProbs{}
	for i := range p.match {
		fill(p.match[i][:])
		fill(p.rep0Long[i][:])
	}
	for _, s := range [][]uint16{p.rep[:], p.rep0[:], p.rep1[:], p.rep2[:], p.special[:], p.align[:]} {
		fill(s)
	}
	for i := range p.slot {
		fill(p.slot[i][:])
	}
	for i := range p.literal {
		fill(p.literal[i][:])
	}
	for _, l := range []*lengthProbs{&p.length, &p.repLength} {
		fill(l.choice[:])
		fill(l.high[:])
		for i := range l.low {
			fill(l.low[i][:])
			fill(l.mid[i][:])
		}
	}
	return p
}

func fill(p []uint16) {
	for i := range p {
		p[i] = probStart
	}
}

// lzmaDecode decodes the stand-alone form: a header of properties, size of the
// dictionary and size of the output, then the stream, which may have an end
// marker and must have one where the size is unknown (all ones).
func lzmaDecode(dst, src []byte) (int, error) {
	if len(src) < lzmaHeader {
		return 0, errInput
	}
	size := binary.LittleEndian.Uint64(src[5:])
	unknown := size == absent
	if !unknown && size > uint64(len(dst)) {
		return 0, errTooLong
	}
	d := lzmaPool.Get().(*lzma)
	defer d.free()
	d.dst, d.base, d.out = dst, 0, 0
	if err := d.properties(src[0]); err != nil {
		return 0, err
	}
	d.reset()
	if err := d.rc.start(src[lzmaHeader:]); err != nil {
		return 0, err
	}
	limit := len(dst)
	if !unknown {
		limit = int(size)
	}
	marker, err := d.decode(limit)
	if err != nil {
		return d.out, err
	}
	if !marker && unknown {
		// The buffer is full: only the marker may follow.
		if marker, err = d.symbol(limit); err != nil || !marker {
			return d.out, errTooLong
		}
	}
	if marker && !unknown && d.out != limit {
		return d.out, errStream
	}
	return d.out, nil
}

func (d *lzma) free() {
	d.dst, d.rc.src = nil, nil
	lzmaPool.Put(d)
}

// properties takes the byte that holds lc, lp and pb.
func (d *lzma) properties(b byte) error {
	if b >= 9*5*5 {
		return errStream
	}
	lc, lp, pb := uint(b%9), uint(b/9%5), uint(b/45)
	if lc+lp > maxLiterals {
		return unsupportedf("lzma with lc=%d lp=%d", lc, lp)
	}
	d.lc, d.lp, d.pb = lc, lp, pb
	return nil
}

func (d *lzma) reset() {
	d.probs = *freshProbs()
	d.state = 0
	d.rep = [4]uint32{}
}

// decode fills dst up to limit, or to an end marker.
func (d *lzma) decode(limit int) (marker bool, err error) {
	for d.out < limit {
		if marker, err = d.symbol(limit); marker || err != nil {
			return marker, err
		}
	}
	return false, nil
}

// symbol decodes a literal, a match or the end marker.
func (d *lzma) symbol(limit int) (marker bool, err error) {
	position := uint32(d.out-d.base) & (1<<d.pb - 1)
	if d.rc.bit(&d.probs.match[d.state][position]) == 0 {
		return false, d.literal(limit)
	}
	var length uint32
	if d.rc.bit(&d.probs.rep[d.state]) == 0 {
		d.rep[3], d.rep[2], d.rep[1] = d.rep[2], d.rep[1], d.rep[0]
		length = d.length(&d.probs.length, position)
		d.rep[0] = d.distance(length)
		d.state = pick(d.state, 7, 10)
		if d.rep[0] == 1<<32-1 {
			if d.rc.short {
				return false, errInput
			}
			return true, nil
		}
	} else {
		length = d.repeat(position)
	}
	if d.rc.short {
		return false, errInput
	}
	distance := int64(d.rep[0]) + 1
	if distance > int64(d.out-d.base) {
		return false, errDistance
	}
	if limit-d.out < int(length) {
		return false, errTooLong
	}
	d.out, err = copyMatch(d.dst, d.out, int(distance), int(length))
	return false, err
}

// repeat decodes a match at one of the last four distances.
func (d *lzma) repeat(position uint32) (length uint32) {
	if d.rc.bit(&d.probs.rep0[d.state]) == 0 {
		if d.rc.bit(&d.probs.rep0Long[d.state][position]) == 0 {
			d.state = pick(d.state, 9, 11)
			return 1
		}
	} else {
		chosen := 1
		if d.rc.bit(&d.probs.rep1[d.state]) == 1 {
			chosen = 2 + int(d.rc.bit(&d.probs.rep2[d.state]))
		}
		distance := d.rep[chosen]
		copy(d.rep[1:chosen+1], d.rep[:chosen])
		d.rep[0] = distance
	}
	length = d.length(&d.probs.repLength, position)
	d.state = pick(d.state, 8, 11)
	return length
}

// pick returns the next state: low after a literal, else high.
func pick(state, low, high uint32) uint32 {
	if state < 7 {
		return low
	}
	return high
}

func (d *lzma) length(p *lengthProbs, position uint32) uint32 {
	switch {
	case d.rc.bit(&p.choice[0]) == 0:
		return minMatch + d.rc.tree(p.low[position][:])
	case d.rc.bit(&p.choice[1]) == 0:
		return minMatch + 8 + d.rc.tree(p.mid[position][:])
	}
	return minMatch + 16 + d.rc.tree(p.high[:])
}

// distance decodes the distance less one; all ones is the end marker.
func (d *lzma) distance(length uint32) uint32 {
	slot := d.rc.tree(d.probs.slot[min(length-minMatch, 3)][:])
	if slot < 4 {
		return slot
	}
	n := uint(slot/2 - 1)
	v := (2 | slot&1) << n
	if slot < 14 {
		return v + d.rc.reverse(d.probs.special[v-slot:], n)
	}
	v += d.rc.direct(n-4) << 4
	return v + d.rc.reverse(d.probs.align[:], 4)
}

func (d *lzma) literal(limit int) error {
	if d.out >= limit {
		return errTooLong
	}
	var before byte
	at := d.out - d.base
	if at > 0 {
		before = d.dst[d.out-1]
	}
	index := uint32(at)&(1<<d.lp-1)<<d.lc + uint32(before)>>(8-d.lc)
	probs := &d.probs.literal[index&(1<<maxLiterals-1)]
	var b uint32
	if d.state < 7 {
		b = d.rc.tree(probs[:0x100])
	} else {
		// After a match the byte it would have gone on with is a hint.
		distance := int64(d.rep[0]) + 1
		if distance > int64(at) {
			return errDistance
		}
		b = d.hinted(probs, uint32(d.dst[d.out-int(distance)]))
	}
	if d.rc.short {
		return errInput
	}
	d.dst[d.out] = byte(b)
	d.out++
	switch {
	case d.state < 4:
		d.state = 0
	case d.state < 10:
		d.state -= 3
	default:
		d.state -= 6
	}
	return nil
}

func (d *lzma) hinted(probs *[0x300]uint16, hint uint32) uint32 {
	m, same := uint32(1), uint32(0x100)
	for m < 0x100 {
		hint <<= 1
		bit := hint & same
		b := d.rc.bit(&probs[same+bit+m])
		m = m<<1 | b
		if b == 1 {
			same &= bit
		} else {
			same &^= bit
		}
	}
	return m & 0xff
}
