package squashfs

// The probabilities of LZMA have 11 bits and adapt by a 32nd.
const (
	probBits  = 11
	probStart = 1 << (probBits - 1)
	probMove  = 5
	rangeTop  = 1 << 24
)

// rangeDecoder reads the bits of an LZMA stream. Behind the end of src it reads
// zeros and notes it in short, so that a check for each symbol is enough.
type rangeDecoder struct {
	src   []byte
	in    int
	rng   uint32
	code  uint32
	short bool
}

// start reads the five bytes in front of the bits.
func (r *rangeDecoder) start(src []byte) error {
	if len(src) < 5 {
		return errInput
	}
	if src[0] != 0 {
		return errStream
	}
	*r = rangeDecoder{src: src, in: 5, rng: 1<<32 - 1,
		code: uint32(src[1])<<24 | uint32(src[2])<<16 | uint32(src[3])<<8 | uint32(src[4])}
	return nil
}

func (r *rangeDecoder) refill() {
	r.rng <<= 8
	r.code <<= 8
	if r.in < len(r.src) {
		r.code |= uint32(r.src[r.in])
		r.in++
	} else {
		r.short = true
	}
}

func (r *rangeDecoder) bit(p *uint16) uint32 {
	if r.rng < rangeTop {
		r.refill()
	}
	prob := uint32(*p)
	bound := r.rng >> probBits * prob
	if r.code < bound {
		r.rng = bound
		*p = uint16(prob + (1<<probBits-prob)>>probMove)
		return 0
	}
	r.rng -= bound
	r.code -= bound
	*p = uint16(prob - prob>>probMove)
	return 1
}

// tree reads len(probs)/2 leaves' worth of bits, the highest first. The length
// of probs is a power of two; the result lies below it.
func (r *rangeDecoder) tree(probs []uint16) uint32 {
	rng, code := r.rng, r.code
	m, size := uint32(1), uint32(len(probs))
	for m < size {
		if rng < rangeTop {
			r.rng, r.code = rng, code
			r.refill()
			rng, code = r.rng, r.code
		}
		prob := uint32(probs[m])
		bound := rng >> probBits * prob
		if code < bound {
			rng = bound
			probs[m] = uint16(prob + (1<<probBits-prob)>>probMove)
			m <<= 1
		} else {
			rng -= bound
			code -= bound
			probs[m] = uint16(prob - prob>>probMove)
			m = m<<1 | 1
		}
	}
	r.rng, r.code = rng, code
	return m - size
}

// reverse reads n bits, the lowest first, with the tree of 2^n probabilities
// at the start of probs.
func (r *rangeDecoder) reverse(probs []uint16, n uint) uint32 {
	m, v := uint32(1), uint32(0)
	for i := range n {
		b := r.bit(&probs[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

// direct reads n bits that have no probability, the highest first.
func (r *rangeDecoder) direct(n uint) uint32 {
	v := uint32(0)
	for range n {
		if r.rng < rangeTop {
			r.refill()
		}
		r.rng >>= 1
		r.code -= r.rng
		below := 0 - r.code>>31 // all ones if the bit is 0
		r.code += r.rng & below
		v = v<<1 + below + 1
	}
	return v
}
