package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"strings"
)

// errNotELF is returned for what is no ELF file, or one whose headers lie.
var errNotELF = errors.New("no usable ELF file")

// Bounds of what is believed of an ELF file.
const (
	maxSegments = 256
	maxDynamic  = 4096 // entries of the dynamic section
	maxString   = 4096 // bytes, PATH_MAX
	maxNeeded   = 1024 // libraries that one object names
)

// object is what the dynamic linker heeds of an ELF file (System V ABI, gABI
// chapter 5). It is read by program headers, as the kernel and ld.so do:
// sections may have been stripped.
type object struct {
	class, data byte // EI_CLASS, EI_DATA
	machine     uint16
	interpreter string // "": static, or a library
	needed      []string
	soname      string
	rpath       string // DT_RPATH; "" where there is a DT_RUNPATH, which has it ignored
	runpath     string
}

// segment is a program header.
type segment struct {
	kind               uint32
	offset, addr, size uint64 // size in the file
}

// elfReader reads the numbers of one file.
type elfReader struct {
	r     io.ReaderAt
	order binary.ByteOrder
	wide  bool // 64 bits
}

// bytes reads at most n bytes at off. A file that ends there is no error.
func (e elfReader) bytes(off uint64, n int) ([]byte, error) {
	if off > 1<<62 {
		return nil, errNotELF
	}
	p := make([]byte, n)
	got, err := e.r.ReadAt(p, int64(off))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:max(got, 0)], err
}

// word is a number of the file's own width at the beginning of p.
func (e elfReader) word(p []byte) uint64 {
	if e.wide {
		return e.order.Uint64(p)
	}
	return uint64(e.order.Uint32(p))
}

// readObject reads an ELF file. Errors are errNotELF or the reader's.
func readObject(r io.ReaderAt) (*object, error) {
	e := elfReader{r: r, order: binary.LittleEndian}
	head, err := e.bytes(0, 64)
	if err != nil {
		return nil, err
	}
	if len(head) < 52 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return nil, errNotELF
	}
	o := &object{class: head[elf.EI_CLASS], data: head[elf.EI_DATA]}
	e.wide = o.class == byte(elf.ELFCLASS64)
	if o.data == byte(elf.ELFDATA2MSB) {
		e.order = binary.BigEndian
	}
	if !e.wide && o.class != byte(elf.ELFCLASS32) || e.wide && len(head) < 64 {
		return nil, errNotELF
	}
	o.machine = e.order.Uint16(head[18:])
	segments, err := e.segments(head)
	for _, s := range segments {
		if err != nil {
			return nil, err
		}
		switch elf.ProgType(s.kind) {
		case elf.PT_INTERP:
			o.interpreter, err = e.text(s.offset, min(s.size, maxString))
		case elf.PT_DYNAMIC:
			err = e.dynamic(o, s, segments)
		}
	}
	return o, err
}

// segments reads the program headers.
func (e elfReader) segments(head []byte) ([]segment, error) {
	at, size, count := uint64(e.order.Uint32(head[28:])), 32, int(e.order.Uint16(head[44:]))
	if e.wide {
		at, size, count = e.order.Uint64(head[32:]), 56, int(e.order.Uint16(head[56:]))
	}
	if count > maxSegments {
		return nil, errNotELF
	}
	p, err := e.bytes(at, count*size)
	if err != nil || len(p) < count*size {
		return nil, errors.Join(err, errNotELF)
	}
	list := make([]segment, count)
	for i := range list {
		h := p[i*size:]
		list[i] = segment{kind: e.order.Uint32(h)}
		if e.wide {
			list[i].offset, list[i].addr, list[i].size = e.word(h[8:]), e.word(h[16:]), e.word(h[32:])
		} else {
			list[i].offset, list[i].addr, list[i].size = e.word(h[4:]), e.word(h[8:]), e.word(h[16:])
		}
	}
	return list, nil
}

// dynamic reads the dynamic section and the strings that it names.
func (e elfReader) dynamic(o *object, s segment, segments []segment) error {
	size := 8
	if e.wide {
		size = 16
	}
	p, err := e.bytes(s.offset, int(min(s.size, uint64(maxDynamic*size))))
	if err != nil {
		return err
	}
	var needed []uint64
	single := map[elf.DynTag]uint64{}
	for ; len(p) >= size; p = p[size:] {
		tag, value := elf.DynTag(e.word(p)), e.word(p[size/2:])
		if tag == elf.DT_NULL {
			break
		}
		if tag == elf.DT_NEEDED && len(needed) < maxNeeded {
			needed = append(needed, value)
		}
		single[tag] = value
	}
	names, ok := offsetIn(single[elf.DT_STRTAB], segments)
	text := func(tag elf.DynTag) string {
		value, there := single[tag]
		if !there || !ok || err != nil {
			return ""
		}
		var s string
		s, err = e.text(names+value, maxString)
		return s
	}
	o.soname, o.rpath, o.runpath = text(elf.DT_SONAME), text(elf.DT_RPATH), text(elf.DT_RUNPATH)
	if o.runpath != "" {
		o.rpath = ""
	}
	for _, at := range needed {
		single[elf.DT_NEEDED] = at
		if name := text(elf.DT_NEEDED); name != "" {
			o.needed = append(o.needed, name)
		}
	}
	return err
}

// offsetIn turns an address into an offset in the file.
func offsetIn(addr uint64, segments []segment) (uint64, bool) {
	for _, s := range segments {
		if elf.ProgType(s.kind) == elf.PT_LOAD && addr >= s.addr && addr-s.addr < s.size {
			return s.offset + addr - s.addr, true
		}
	}
	return 0, false
}

// text reads a string that ends with a zero, at most n bytes.
func (e elfReader) text(at, n uint64) (string, error) {
	const usual = 128
	for _, size := range []uint64{min(n, usual), n} {
		p, err := e.bytes(at, int(size))
		if err != nil {
			return "", err
		}
		if s, _, ended := bytes.Cut(p, []byte{0}); ended || size == n {
			return string(s), nil
		}
	}
	return "", nil
}

// fits reports whether the linker that runs o takes other for a library of it.
func (o *object) fits(other *object) bool {
	return o.class == other.class && o.data == other.data && o.machine == other.machine
}

// architecture names the machine as people do: x86_64, aarch64.
func (o *object) architecture() string {
	switch m := elf.Machine(o.machine); m {
	case elf.EM_386:
		return "i386"
	case elf.EM_PPC64:
		if o.data == byte(elf.ELFDATA2LSB) {
			return "ppc64le"
		}
		return "ppc64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_RISCV:
		return "riscv64"
	default:
		if name, known := strings.CutPrefix(m.String(), "EM_"); known {
			return strings.ToLower(name)
		}
		return "machine " + strconv.Itoa(int(m))
	}
}
