package squashfs

// lzoDecode decodes an LZO1X stream as Documentation/staging/lzo.rst of the
// kernel describes it: instructions that copy a match of earlier output, each
// followed by 0 to 3 literals whose count stands in its last two bits, and runs
// of literals of their own. What an instruction below 16 means depends on the
// number of literals before it.
func lzoDecode(dst, src []byte) (int, error) {
	d := lzo{dst: dst, src: src}
	if len(src) == 0 {
		return 0, errInput
	}
	if first := src[0]; first > 17 {
		// 18..20 are 1 to 3 literals, 21.. are a run of 4 and more.
		d.in = 1
		n := int(first) - 17
		if err := d.literals(n); err != nil {
			return d.out, err
		}
		d.before = min(n, 4)
	}
	for {
		end, err := d.instruction()
		if err != nil {
			return d.out, err
		}
		if end {
			if d.in != len(src) {
				return d.out, errTrailing
			}
			return d.out, nil
		}
	}
}

type lzo struct {
	dst, src []byte
	in, out  int
	before   int // literals copied by the last instruction, 4 for a longer run
}

// instruction carries out the next one; end is true for the end of the stream.
func (d *lzo) instruction() (end bool, err error) {
	t, err := d.byte()
	if err != nil {
		return false, err
	}
	var length, distance, trailing int
	switch {
	case t >= 64: // 0 0 L L D D D S S with L of 1..7 here: 3..8 bytes within 2 KiB
		h, err := d.byte()
		if err != nil {
			return false, err
		}
		length, distance, trailing = t>>5+1, h<<3+t>>2&7+1, t&3
	case t >= 32: // 3.. bytes within 16 KiB
		if length, err = d.prolonged(t&31, 31); err != nil {
			return false, err
		}
		w, err := d.word()
		if err != nil {
			return false, err
		}
		length, distance, trailing = length+2, w>>2+1, w&3
	case t >= 16: // 3.. bytes from 16 to 48 KiB back, or the end
		if length, err = d.prolonged(t&7, 7); err != nil {
			return false, err
		}
		w, err := d.word()
		if err != nil {
			return false, err
		}
		length, distance, trailing = length+2, t&8<<11+w>>2+1<<14, w&3
		if distance == 1<<14 {
			if length != 3 || trailing != 0 {
				return false, errInput
			}
			return true, nil
		}
	case d.before == 0: // a run of 4 and more literals
		if length, err = d.prolonged(t, 15); err != nil {
			return false, err
		}
		d.before = 4
		return false, d.literals(length + 3)
	default: // 2 bytes within 1 KiB, or 3 within 3 KiB after a run
		h, err := d.byte()
		if err != nil {
			return false, err
		}
		length, distance, trailing = 2, h<<2+t>>2+1, t&3
		if d.before == 4 {
			length, distance = 3, distance+2048
		}
	}
	if d.out, err = copyMatch(d.dst, d.out, distance, length); err != nil {
		return false, err
	}
	d.before = trailing
	return false, d.literals(trailing)
}

func (d *lzo) byte() (int, error) {
	if d.in >= len(d.src) {
		return 0, errInput
	}
	d.in++
	return int(d.src[d.in-1]), nil
}

func (d *lzo) word() (int, error) {
	if len(d.src)-d.in < 2 {
		return 0, errInput
	}
	d.in += 2
	return int(d.src[d.in-2]) | int(d.src[d.in-1])<<8, nil
}

// prolonged returns a length whose field holds n: zero means that it is most
// plus 255 for each zero byte that follows plus the first other byte.
func (d *lzo) prolonged(n, most int) (int, error) {
	if n > 0 {
		return n, nil
	}
	n = most
	for {
		b, err := d.byte()
		if err != nil {
			return 0, err
		}
		if b > 0 {
			return n + b, nil
		}
		if n += 255; n > maxBlockSize {
			return 0, errTooLong
		}
	}
}

func (d *lzo) literals(n int) error {
	if n > len(d.src)-d.in {
		return errInput
	}
	if n > len(d.dst)-d.out {
		return errTooLong
	}
	copy(d.dst[d.out:], d.src[d.in:d.in+n])
	d.in, d.out = d.in+n, d.out+n
	return nil
}
