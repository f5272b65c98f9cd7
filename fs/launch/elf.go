package launch

import (
	"encoding/binary"
	"encoding/hex"
	"path"
	"strconv"
	"strings"
)

// ELF machine numbers (ELF specification, e_machine).
var machines = map[uint16]string{
	3: "i386", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64",
}

// runsOn lists, for a machine by GOARCH, the e_machine values that its kernel executes.
var runsOn = map[string][]uint16{
	"amd64": {62, 3}, "arm64": {183, 40}, "ppc64le": {21}, "riscv64": {243}, "s390x": {22}, "loong64": {258}, "386": {3}, "arm": {40},
}

const (
	headBytes   = 256 // of a program: an ELF header, or a `#!` line as long as the kernel takes it
	maxScripts  = 4   // interpreters of interpreters, as the kernel has it (BINPRM_MAX_RECURSION)
	binfmtDir   = "/proc/sys/fs/binfmt_misc"
	maxBinfmts  = 256
	machineAt   = 18 // offset of e_machine
	bigEndian   = 2  // EI_DATA
	elfDataByte = 5
)

// architecture refuses a command that this machine cannot execute: by the ELF header of the program, or of the
// interpreter that a script names, never by the image's name.
func (p *planner) architecture() error {
	name := p.job.Command
	for range maxScripts + 1 {
		if !path.IsAbs(name) || p.b.covered(name) {
			return nil
		}
		at, fi, err := p.image.resolve(name)
		if err != nil || !fi.Mode().IsRegular() {
			return nil
		}
		head, err := p.host.ReadAt(path.Join(p.image.root, at), 0, headBytes)
		if err != nil {
			return nil
		}
		if !strings.HasPrefix(string(head), "#!") {
			return p.machine(head)
		}
		line, _, _ := strings.Cut(string(head[2:]), "\n")
		words := strings.Fields(line)
		if len(words) == 0 {
			return nil
		}
		name = words[0]
		if v, _ := p.image.program(name); v == notFound && path.IsAbs(name) && !p.b.covered(name) && !p.changesTree() {
			return &Exit{StatusNotExecutable, clip(p.cmd.Command) + ": its interpreter " + clip(name) + " is not in " + p.cmd.App + " " + p.cmd.Version +
				"; tell the image's author"}
		}
	}
	return nil
}

// machine refuses an ELF header of another architecture, unless binfmt_misc has an emulator for it.
func (p *planner) machine(head []byte) error {
	native := runsOn[p.host.Arch]
	if len(native) == 0 || len(head) < machineAt+2 || string(head[:4]) != "\x7fELF" {
		return nil
	}
	number := binary.LittleEndian.Uint16(head[machineAt:])
	if head[elfDataByte] == bigEndian {
		number = binary.BigEndian.Uint16(head[machineAt:])
	}
	for _, n := range native {
		if n == number {
			return nil
		}
	}
	emulator, found := p.host.emulator(head)
	if found {
		if v, _ := p.image.program(emulator); emulator == "" || v != notFound {
			return nil
		}
	}
	name := machines[number]
	if name == "" {
		name = "machine type " + strconv.Itoa(int(number))
	}
	message := clip(p.cmd.Command) + ": " + p.cmd.App + " " + p.cmd.Version + " is built for " + name + ", this machine is " + machines[native[0]]
	if found {
		return &Exit{StatusNotExecutable, message + ", and the emulator " + clip(emulator) +
			" is not in the image; ask your administrator to register qemu with flag F (package qemu-user-static)"}
	}
	return &Exit{StatusNotExecutable, message + "; run it on such a machine, or ask your administrator for qemu-user-static (binfmt_misc)"}
}

// emulator looks for an entry of binfmt_misc (kernel: admin-guide/binfmt-misc.rst) that takes a file of this head. The
// program is "" where the kernel holds it open (flag F), so that it need not be in the image.
func (h *Host) emulator(head []byte) (program string, found bool) {
	if text, err := h.ReadAt(path.Join(binfmtDir, "status"), 0, 16); err != nil || !strings.HasPrefix(string(text), "enabled") {
		return "", false
	}
	entries, err := h.ReadDir(binfmtDir, maxBinfmts)
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		if e.Name() == "status" || e.Name() == "register" {
			continue
		}
		text, err := h.ReadAt(path.Join(binfmtDir, e.Name()), 0, 4096)
		if err != nil {
			continue
		}
		if b := parseBinfmt(string(text)); b.matches(head) {
			if strings.Contains(b.flags, "F") {
				return "", true
			}
			program, found = b.interpreter, true
		}
	}
	return program, found
}

// binfmt is one entry of binfmt_misc.
type binfmt struct {
	enabled            bool
	interpreter, flags string
	offset             int
	magic, mask        []byte
}

// parseBinfmt reads the text of an entry. What it does not understand matches nothing.
func parseBinfmt(text string) binfmt {
	var b binfmt
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch key {
		case "enabled":
			b.enabled = true
		case "interpreter":
			b.interpreter = value
		case "flags:":
			b.flags = value
		case "offset":
			b.offset, err = strconv.Atoi(value)
		case "magic":
			b.magic, err = hex.DecodeString(value)
		case "mask":
			b.mask, err = hex.DecodeString(value)
		}
		if err != nil {
			return binfmt{}
		}
	}
	return b
}

func (b binfmt) matches(head []byte) bool {
	if !b.enabled || len(b.magic) == 0 || b.offset < 0 || b.offset > len(head) || len(head)-b.offset < len(b.magic) {
		return false
	}
	for i, want := range b.magic {
		got := head[b.offset+i]
		if i < len(b.mask) {
			got &= b.mask[i]
		}
		if got != want {
			return false
		}
	}
	return true
}
