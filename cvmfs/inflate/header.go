package inflate

// preOrder is the order in which the lengths of the code length code are sent
// (RFC 1951, section 3.2.7).
var preOrder = [numPre]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// header reads the codes of a dynamic block into d.dyn.
func (d *decoder) header() fault {
	d.refill()
	if d.nb < 14 {
		return faultTruncated
	}
	nlit := int(d.bb&31) + 257
	ndist := int(d.bb>>5&31) + 1
	npre := int(d.bb>>10&15) + 4
	d.drop(14)
	if nlit > maxNumLit {
		return faultNumLit
	}
	if ndist > maxNumDist {
		return faultNumDist
	}
	var pre [numPre]uint8
	for _, at := range preOrder[:npre] {
		if d.nb < 3 {
			if d.refill(); d.nb < 3 {
				return faultTruncated
			}
		}
		pre[at] = uint8(d.bb & 7)
		d.drop(3)
	}
	if !build(d.pre[:], preBits, pre[:], preSyms[:], litSpec) {
		return faultPreCode
	}
	if f := d.lengths(nlit + ndist); f != ok {
		return f
	}
	if !build(d.dyn.lit[:], litBits, d.lens[:nlit], litSyms[:], litSpec) {
		return faultLitTree
	}
	if !build(d.dyn.dist[:], distBits, d.lens[nlit:nlit+ndist], distSyms[:], distSpec) {
		return faultDistTree
	}
	return ok
}

// lengths reads n code lengths into d.lens.
func (d *decoder) lengths(n int) fault {
	lens := d.lens[:n]
	for i := 0; i < len(lens); {
		if d.nb < 14 { // a code and its repeat count have at most 7 bits each
			d.refill()
		}
		e := d.pre[d.bb&(preSize-1)]
		if !d.drop(uint(e & 63)) {
			return faultTruncated
		}
		if e&litSpec != 0 {
			return faultLenCode
		}
		sym := uint8(e >> 16)
		if sym < 16 {
			lens[i] = sym
			i++
			continue
		}
		extra, rep, v := uint(7), 11, uint8(0)
		switch sym {
		case 16:
			if i == 0 {
				return faultRepeat
			}
			extra, rep, v = 2, 3, lens[i-1]
		case 17:
			extra, rep = 3, 3
		}
		rep += int(d.bb & (1<<extra - 1))
		if !d.drop(extra) {
			return faultTruncated
		}
		if rep > len(lens)-i {
			return faultRepeat
		}
		for range rep {
			lens[i] = v
			i++
		}
	}
	return ok
}
