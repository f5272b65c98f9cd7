package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// symbol is one that the built file imports from libc.so.6.
type symbol struct{ name, version string }

// buildELF makes the smallest file that has what patch reads: .dynstr, .dynsym, .gnu.version and .gnu.version_r, with
// one need for each version in the order given, and the section names.
func buildELF(t testing.TB, versions []string, symbols []symbol) []byte {
	t.Helper()
	le := binary.LittleEndian
	table := []byte{0}
	add := func(s string) uint32 {
		off := uint32(len(table))
		table = append(append(table, s...), 0)
		return off
	}
	lib := add("libc.so.6")
	needs := le.AppendUint16(nil, 1)
	needs = le.AppendUint16(needs, uint16(len(versions)))
	for _, w := range []uint32{lib, needSize, 0} {
		needs = le.AppendUint32(needs, w)
	}
	for i, v := range versions {
		next := uint32(needSize)
		if i == len(versions)-1 {
			next = 0
		}
		needs = le.AppendUint32(needs, 0xabc0+uint32(i)) // any hash will do, it is only copied
		needs = le.AppendUint16(needs, 0)
		needs = le.AppendUint16(needs, uint16(i+2))
		needs = le.AppendUint32(le.AppendUint32(needs, add(v)), next)
	}
	syms, vers := make([]byte, symSize), make([]byte, 2)
	for _, s := range symbols {
		sym := make([]byte, symSize)
		le.PutUint32(sym, add(s.name))
		sym[4] = byte(elf.STB_GLOBAL)<<4 | byte(elf.STT_FUNC)
		syms = append(syms, sym...)
		vers = le.AppendUint16(vers, uint16(slices.Index(versions, s.version)+2))
	}
	return assemble(t, table, syms, vers, needs)
}

func assemble(t testing.TB, table, syms, vers, needs []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	names := []byte("\x00.dynstr\x00.dynsym\x00.gnu.version\x00.gnu.version_r\x00.dynamic\x00.shstrtab\x00")
	dynamic := make([]byte, 16)
	parts := []struct {
		name string
		typ  elf.SectionType
		data []byte
		link uint32
		size uint64
	}{
		{".dynstr", elf.SHT_STRTAB, table, 0, 0}, {".dynsym", elf.SHT_DYNSYM, syms, 1, symSize},
		{".gnu.version", elf.SHT_GNU_VERSYM, vers, 2, 2}, {".gnu.version_r", elf.SHT_GNU_VERNEED, needs, 1, 0},
		{".dynamic", elf.SHT_DYNAMIC, dynamic, 1, 16}, {".shstrtab", elf.SHT_STRTAB, names, 0, 0},
	}
	body := make([]byte, 64)
	headers := make([]elf.Section64, 1)
	for i, p := range parts {
		info := uint32(0)
		if p.typ == elf.SHT_GNU_VERNEED {
			info = 1
		}
		headers = append(headers, elf.Section64{
			Name: uint32(bytes.Index(names, []byte("\x00"+p.name+"\x00")) + 1), Type: uint32(p.typ),
			Off: uint64(len(body)), Size: uint64(len(p.data)), Link: parts[i].link, Info: info, Entsize: p.size,
		})
		body = append(body, p.data...)
	}
	header := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(len(body)),
		Ehsize: 64, Shentsize: 64, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1),
	}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	for _, part := range []any{header, body[64:], headers} {
		if err := binary.Write(&out, le, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func imports(t testing.TB, raw []byte) []symbol {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var out []symbol
	for _, s := range list {
		out = append(out, symbol{s.Name, s.Version})
	}
	return out
}

var limit = version{2, 36}

func sample(t testing.TB) []byte {
	return buildELF(t, []string{"GLIBC_2.34", "GLIBC_2.38", "GLIBC_2.2.5"}, []symbol{
		{"__libc_start_main", "GLIBC_2.34"}, {"__isoc23_strtol", "GLIBC_2.38"}, {"malloc", "GLIBC_2.2.5"},
	})
}

func TestPatchRenames(t *testing.T) {
	raw := sample(t)
	size := len(raw)
	changes, err := patch(raw, limit)
	if err != nil {
		t.Fatal(err)
	}
	want := []symbol{{"__libc_start_main", "GLIBC_2.34"}, {"strtol", "GLIBC_2.2.5"}, {"malloc", "GLIBC_2.2.5"}}
	if got := imports(t, raw); !slices.Equal(got, want) {
		t.Errorf("imports are %v, want %v", got, want)
	}
	if len(changes) != 1 || len(raw) != size {
		t.Errorf("changes %q, size %d, want one change and size %d", changes, len(raw), size)
	}
	if bytes.Contains(raw, []byte("\xc1\xab\x00\x00")) {
		t.Error("the need of GLIBC_2.38 still has its hash")
	}
	if again, err := patch(raw, limit); err != nil || again != nil {
		t.Errorf("a second run gives %q, %v, want nothing to do", again, err)
	}
}

func TestPatchLeavesAlone(t *testing.T) {
	old := []string{"GLIBC_2.2.5", "GLIBC_2.36"}
	tests := map[string]struct {
		versions []string
		symbols  []symbol
		want     error
	}{
		"nothing newer":       {old, []symbol{{"malloc", "GLIBC_2.2.5"}}, nil},
		"another new name":    {append(old, "GLIBC_2.38"), []symbol{{"strlcpy", "GLIBC_2.38"}}, ErrNeedsNewer},
		"one of two":          {append(old, "GLIBC_2.38"), []symbol{{"__isoc23_scanf", "GLIBC_2.38"}, {"strlcat", "GLIBC_2.38"}}, ErrNeedsNewer},
		"no first glibc":      {[]string{"GLIBC_2.38"}, []symbol{{"__isoc23_strtol", "GLIBC_2.38"}}, ErrNeedsNewer},
		"a promise of ld.so":  {append(old, "GLIBC_ABI_DT_X"), nil, ErrNeedsNewer},
		"a new major version": {append(old, "GLIBC_3.0"), []symbol{{"open", "GLIBC_3.0"}}, ErrNeedsNewer},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			raw := buildELF(t, tt.versions, tt.symbols)
			before := bytes.Clone(raw)
			changes, err := patch(raw, limit)
			if !errors.Is(err, tt.want) || changes != nil {
				t.Errorf("patch gives %q, %v, want error %v", changes, err, tt.want)
			}
			if !bytes.Equal(raw, before) {
				t.Error("the file was changed")
			}
		})
	}
}

// Every prefix of a good file is refused or unchanged, and none panics.
func TestPatchDamaged(t *testing.T) {
	whole := sample(t)
	for n := range len(whole) {
		if _, err := patch(bytes.Clone(whole[:n]), limit); !errors.Is(err, ErrNotELF) {
			t.Fatalf("the first %d bytes: error %v, want ErrNotELF", n, err)
		}
	}
}

func TestPatchFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, sample(t), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := patchFile(name, limit); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(imports(t, raw), symbol{"strtol", "GLIBC_2.2.5"}) {
		t.Error("the file on disk was not patched")
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o700 {
		t.Errorf("mode %v, %v, want 0700 kept", info.Mode(), err)
	}
	if err := patchFile(name+".none", limit); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]version{"2.36": {2, 36}, "2.2.5": {2, 2}, "10.0": {10, 0}} {
		if got, err := parseVersion(in); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "2", "2.", "a.b", "ABI_DT_RELR"} {
		if got, err := parseVersion(in); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func FuzzPatch(f *testing.F) {
	f.Add(sample(f))
	f.Add(buildELF(f, []string{"GLIBC_2.38"}, []symbol{{"strlcpy", "GLIBC_2.38"}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		if changes, err := patch(raw, limit); (err != nil || changes == nil) && !bytes.Equal(raw, before) {
			t.Error("changed without saying so")
		}
	})
}
