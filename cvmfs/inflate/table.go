package inflate

import "math/bits"

// Limits of the format (RFC 1951, sections 3.2.5 to 3.2.7).
const (
	maxCodeLen = 15
	numLit     = 288 // symbols of the fixed code; a dynamic one has at most 286
	maxNumLit  = 286
	numDist    = 32 // symbols of the fixed code; a dynamic one has at most 30
	maxNumDist = 30
	numPre     = 19
	endOfBlock = 256
	maxMatch   = 258
)

// First-level widths. With 11 and 8 bits the tables of any complete code need
// at most 2342 and 402 entries, second level included; the arrays are rounded
// up to powers of two, so that a mask proves an index in range.
const (
	litBits  = 11
	distBits = 8
	preBits  = 7
	litSize  = 4096
	distSize = 512
	preSize  = 1 << preBits
	litMask  = 1<<litBits - 1
	distMask = 1<<distBits - 1
)

// An entry of a table is one word, so that a symbol costs one load. The low
// byte and the one above it are used as shift counts, of which the processor
// takes six bits:
//
//	bits  0-5   bits to consume: the code and the extra bits behind it
//	bits  8-13  bits of the code alone (subtable link: index width)
//	bits 16-    literal, or base of the length or distance (link: start)
//
// and for literals and lengths (uint32)
//
//	bits 25-29  mask of the extra bits
//	bit  30     no length: end of block, link or invalid
//	bit  31     literal
//
// for distances (uint64)
//
//	bits 32-44  mask of the extra bits
//	bit  62     no distance: link or invalid
//
// The links of both are marked by linkFlag, the end of a block by endFlag, an
// invalid code by neither.
const (
	linkFlag  = 1 << 14
	endFlag   = 1 << 15
	litSpec   = 1 << 30
	litFlag   = 1 << 31
	distSpec  = 1 << 62
	entryStep = 0x101 // adds one to both bit counts
)

// tables decodes one block.
type tables struct {
	lit  [litSize]uint32
	dist [distSize]uint64
}

// What each symbol means, as an entry whose code has no bits yet.
var (
	litSyms  = makeLitSyms()
	distSyms = makeDistSyms()
	preSyms  = makePreSyms()
	fixed    = makeFixed()
)

func makeLitSyms() (s [numLit]uint32) {
	for i := range endOfBlock {
		s[i] = litFlag | uint32(i)<<16
	}
	s[endOfBlock] = litSpec | endFlag
	base := uint32(3)
	for i := endOfBlock + 1; i < 285; i++ {
		extra := uint32(max(0, (i-261)/4))
		s[i] = base<<16 | (1<<extra-1)<<25 | extra
		base += 1 << extra
	}
	s[285] = maxMatch << 16
	s[286], s[287] = litSpec, litSpec
	return s
}

func makeDistSyms() (s [numDist]uint64) {
	base := uint64(1)
	for i := range maxNumDist {
		extra := uint64(max(0, (i-2)/2))
		s[i] = base<<16 | (1<<extra-1)<<32 | extra
		base += 1 << extra
	}
	s[30], s[31] = distSpec, distSpec
	return s
}

// makePreSyms gives the symbols of the code length code: no flags, and no
// extra bits in the count, as they are few and read apart.
func makePreSyms() (s [numPre]uint32) {
	for i := range s {
		s[i] = uint32(i) << 16
	}
	return s
}

func makeFixed() *tables {
	var lens [numLit]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	t := new(tables)
	build(t.lit[:], litBits, lens[:], litSyms[:], litSpec)
	for i := range numDist {
		lens[i] = 5
	}
	build(t.dist[:], distBits, lens[:numDist], distSyms[:], distSpec)
	return t
}

// build fills table for the canonical code with the given lengths; syms holds
// what each symbol means and special the flag of links and invalid entries. It
// reports whether the code is one that the format allows: complete, or a
// single code of one bit, or empty. The last two leave invalid entries behind,
// as zlib and the standard library do, which matter only if they are met.
func build[E uint32 | uint64](table []E, width int, lens []uint8, syms []E, special E) bool {
	count := countLengths(lens)
	var next [maxCodeLen + 2]uint16 // where the symbols of each length start
	left := 1                       // codes not yet given out
	for n := 1; n <= maxCodeLen; n++ {
		next[n+1] = next[n] + count[n]
		left = left<<1 - int(count[n])
		if left < 0 {
			return false
		}
	}
	used := int(next[maxCodeLen+1])
	if left > 0 {
		if used > 1 || used != int(count[1]) {
			return false
		}
		sparse(table[:1<<width], lens, syms, special)
		return true
	}
	var sorted [numLit]uint16 // symbols by length, then by value
	for i, n := range lens {
		if n != 0 {
			at := next[n&15]
			next[n&15]++
			if int(at) < len(sorted) {
				sorted[at] = uint16(i)
			}
		}
	}
	fill(table, width, &count, sorted[:used], syms, special)
	return true
}

// countLengths counts how often each length occurs. Most are the same, and to
// add to one counter has to wait for the last time: hence four of each.
func countLengths(lens []uint8) (count [maxCodeLen + 1]uint16) {
	var by [4][maxCodeLen + 1]uint16
	for ; len(lens) >= 4; lens = lens[4:] {
		by[0][lens[0]&15]++
		by[1][lens[1]&15]++
		by[2][lens[2]&15]++
		by[3][lens[3]&15]++
	}
	for _, n := range lens {
		by[0][n&15]++
	}
	for n := range count {
		count[n] = by[0][n] + by[1][n] + by[2][n] + by[3][n]
	}
	return count
}

// sparse fills table for a code of no symbol, or of one symbol with code 0. An
// invalid entry takes as many bits as must be seen to know it.
func sparse[E uint32 | uint64](table []E, lens []uint8, syms []E, special E) {
	even, odd := special, special
	for i, n := range lens {
		if n != 0 {
			even, odd = syms[i]+entryStep, special+entryStep
		}
	}
	for i := range table {
		table[i] = odd
		if i&1 == 0 {
			table[i] = even
		}
	}
}

// fill lays out a complete code whose symbols are sorted. Codes are sent with
// their first bit lowest, so code counts upwards bit-reversed. The first level
// grows with the length of the codes: as long as codes have n bits it holds
// 1<<n entries, and is doubled for the next length.
func fill[E uint32 | uint64](table []E, width int, count *[maxCodeLen + 1]uint16, sorted []uint16, syms []E, special E) {
	code, size := 0, 1
	for n := 1; n <= width; n++ {
		copy(table[size:2*size], table[:size])
		size *= 2
		k := int(count[n])
		for _, sym := range sorted[:k] {
			table[code] = syms[sym] + E(n)*entryStep
			code = nextCode(code, n)
		}
		sorted = sorted[k:]
	}
	var end, start = size, 0
	prefix := -1
	for n := width + 1; n <= maxCodeLen && len(sorted) > 0; n++ {
		for k := int(count[n]); k > 0; k-- {
			if p := code & (1<<width - 1); p != prefix {
				prefix, start = p, end
				sub := subWidth(n, width, k, count)
				end += 1 << sub
				table[p] = special | linkFlag | E(start)<<16 | E(sub)<<8 | E(width)
			}
			e := syms[sorted[0]] + E(n-width)*entryStep
			sorted = sorted[1:]
			for i := start + code>>width; i < end; i += 1 << (n - width) {
				table[i] = e
			}
			code = nextCode(code, n)
		}
	}
}

// nextCode counts the bit-reversed n-bit code up by one; the last becomes 0.
func nextCode(code, n int) int {
	zeros := code ^ (1<<n - 1)
	if zeros == 0 {
		return 0
	}
	top := 1 << (bits.Len(uint(zeros)) - 1)
	return code&(top-1) | top
}

// subWidth returns the index width of the subtable that starts with a code of
// n bits, of which k are left: wide enough for the longest code in it.
func subWidth(n, width, k int, count *[maxCodeLen + 1]uint16) int {
	sub := n - width
	for space := k; space < 1<<sub && width+sub < maxCodeLen; {
		sub++
		space = space<<1 + int(count[width+sub])
	}
	return sub
}

// litLink follows the link e; bb has lost the first level's bits.
func (t *tables) litLink(e uint32, bb uint64) uint32 {
	return t.lit[(uint64(e>>16&0xfff)+bb&(1<<(e>>8&63)-1))&(litSize-1)]
}

// distLink follows the link e; bb has lost the first level's bits.
func (t *tables) distLink(e, bb uint64) uint64 {
	return t.dist[(e>>16&0x1ff+bb&(1<<(e>>8&63)-1))&(distSize-1)]
}
