package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	isoc23   = "__isoc23_"
	symSize  = 24 // Elf64_Sym; the name's offset is its first word
	needSize = 16 // Elf64_Verneed and Elf64_Vernaux alike
)

// ErrNotELF is returned for a file that is no little-endian 64-bit ELF with dynamic symbols, or a damaged one.
var ErrNotELF = errors.New("not a dynamic 64-bit little-endian ELF file")

// ErrNeedsNewer is returned for a file that needs more of a newer glibc than the C23 names.
var ErrNeedsNewer = errors.New("needs more of a newer glibc than its C23 names")

type version struct{ major, minor int }

func (v version) after(o version) bool {
	return v.major > o.major || v.major == o.major && v.minor > o.minor
}

// parseVersion reads "2.36", and "2.2.5" as 2.2: no limit that matters here has a third part.
func parseVersion(s string) (version, error) {
	major, rest, _ := strings.Cut(s, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil {
		return version{}, fmt.Errorf("%q is no version such as 2.36", s)
	}
	return version{a, b}, nil
}

// need is one entry (Elf64_Vernaux) of .gnu.version_r: a version of libc.so.6 that the file asks for.
type need struct {
	at    uint64 // where in the file
	hash  uint32 // ELF hash of the name
	name  uint32 // offset in .dynstr
	index uint16 // what .gnu.version calls it
	text  string
}

// image is an ELF file in memory with its four sections, all bounds checked, so that patching is plain indexing.
type image struct {
	raw                 []byte
	strings, syms, vers []byte // parts of raw
	needsAt             uint64
	needs               []byte // part of raw
	firstGlibc          string
	libcNeeds           []need
}

// patch changes raw in place and returns a line for each symbol that it renamed; none when nothing newer than limit is
// needed. On an error raw is as it was.
func patch(raw []byte, limit version) ([]string, error) {
	img, err := open(raw)
	if err != nil {
		return nil, err
	}
	newer, base := map[uint16]need{}, (*need)(nil)
	for i, n := range img.libcNeeds {
		if n.text == img.firstGlibc {
			base = &img.libcNeeds[i]
		}
		if v, err := parseVersion(strings.TrimPrefix(n.text, "GLIBC_")); err == nil && v.after(limit) {
			newer[n.index] = n
		} else if err != nil && n.text != "GLIBC_PRIVATE" {
			return nil, fmt.Errorf("%w: %s", ErrNeedsNewer, n.text) // GLIBC_ABI_DT_RELR and the like: promises of the loader
		}
	}
	if len(newer) == 0 {
		return nil, nil
	}
	if base == nil {
		return nil, fmt.Errorf("%w: it has no need of %s that could serve instead", ErrNeedsNewer, img.firstGlibc)
	}
	return img.rename(newer, *base)
}

// rename moves every symbol that belongs to one of the newer needs to base. It looks first and writes last.
func (img *image) rename(newer map[uint16]need, base need) ([]string, error) {
	type change struct{ sym, ver int }
	var todo []change
	var lines []string
	for i := 0; i < len(img.vers)/2 && (i+1)*symSize <= len(img.syms); i++ {
		n, ok := newer[binary.LittleEndian.Uint16(img.vers[2*i:])&0x7fff] // the top bit hides a symbol
		if !ok {
			continue
		}
		name := cstring(img.strings, binary.LittleEndian.Uint32(img.syms[i*symSize:]))
		if !strings.HasPrefix(name, isoc23) {
			return nil, fmt.Errorf("%w: %s of %s", ErrNeedsNewer, name, n.text)
		}
		todo = append(todo, change{i * symSize, 2 * i})
		lines = append(lines, fmt.Sprintf("%s of %s is now %s of %s", name, n.text, name[len(isoc23):], base.text))
	}
	if len(lines) == 0 { // a need without a symbol is still checked by the loader
		lines = append(lines, "a need without symbols is now one of "+base.text)
	}
	for _, c := range todo {
		at := img.syms[c.sym:]
		binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)+uint32(len(isoc23)))
		binary.LittleEndian.PutUint16(img.vers[c.ver:], base.index)
	}
	for _, n := range newer {
		binary.LittleEndian.PutUint32(img.raw[n.at:], base.hash)
		binary.LittleEndian.PutUint32(img.raw[n.at+8:], base.name)
	}
	return lines, nil
}

// open finds the sections and reads the needs.
func open(raw []byte) (*image, error) {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotELF, err)
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, ErrNotELF
	}
	img := &image{raw: raw, firstGlibc: "GLIBC_2.17"} // what most 64-bit architectures began with
	if f.Machine == elf.EM_X86_64 {
		img.firstGlibc = "GLIBC_2.2.5"
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NOBITS || s.Offset > uint64(len(raw)) || s.FileSize > uint64(len(raw))-s.Offset {
			continue
		}
		part := raw[s.Offset : s.Offset+s.FileSize]
		switch {
		case s.Type == elf.SHT_DYNSYM:
			img.syms = part
		case s.Type == elf.SHT_GNU_VERSYM:
			img.vers = part
		case s.Type == elf.SHT_GNU_VERNEED:
			img.needs, img.needsAt = part, s.Offset
		case s.Type == elf.SHT_STRTAB && s.Name == ".dynstr":
			img.strings = part
		}
	}
	if img.syms == nil || img.strings == nil {
		return nil, fmt.Errorf("%w: it has no dynamic symbols", ErrNotELF)
	}
	return img, img.readNeeds()
}

// readNeeds walks .gnu.version_r: a chain of Elf64_Verneed, one for each library, each with a chain of Elf64_Vernaux.
func (img *image) readNeeds() error {
	size := uint64(len(img.needs))
	for off := uint64(0); off < size; {
		if size-off < needSize {
			return fmt.Errorf("%w: .gnu.version_r ends within an entry", ErrNotELF)
		}
		lib := img.needs[off:]
		if cstring(img.strings, binary.LittleEndian.Uint32(lib[4:])) == "libc.so.6" {
			count, first := binary.LittleEndian.Uint16(lib[2:]), binary.LittleEndian.Uint32(lib[8:])
			if err := img.readVersions(off+uint64(first), count); err != nil {
				return err
			}
		}
		next := binary.LittleEndian.Uint32(lib[12:])
		if next == 0 {
			break
		}
		off += uint64(next)
	}
	return nil
}

func (img *image) readVersions(off uint64, count uint16) error {
	for range count {
		if size := uint64(len(img.needs)); off > size || size-off < needSize {
			return fmt.Errorf("%w: .gnu.version_r ends within an entry", ErrNotELF)
		}
		aux := img.needs[off:]
		n := need{
			at:    img.needsAt + off,
			hash:  binary.LittleEndian.Uint32(aux),
			index: binary.LittleEndian.Uint16(aux[6:]),
			name:  binary.LittleEndian.Uint32(aux[8:]),
		}
		n.text = cstring(img.strings, n.name)
		img.libcNeeds = append(img.libcNeeds, n)
		off += uint64(binary.LittleEndian.Uint32(aux[12:]))
	}
	return nil
}

// cstring returns the NUL-terminated string at off, "" beyond the table.
func cstring(table []byte, off uint32) string {
	if uint64(off) >= uint64(len(table)) {
		return ""
	}
	s := table[off:]
	if end := bytes.IndexByte(s, 0); end >= 0 {
		s = s[:end]
	}
	return string(s)
}
