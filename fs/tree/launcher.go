package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// The launcher is part of the program, and a newer program brings another one
// under the same name. Whoever has the old one open, or is just starting it,
// must still be able to read it. So its bytes stand in the node table too, in
// parts, since a record is of limited size.

const launcherPart = 1 << 20 // bytes

// Launcher is an ELF file that starts commands.
type Launcher struct {
	elf  []byte
	hash string
}

// NewLauncher names the file by its content.
func NewLauncher(elf []byte) Launcher {
	sum := sha256.Sum256(elf)
	return Launcher{elf, hex.EncodeToString(sum[:])}
}

// launcher is the child that is the launcher of this program.
func (t *Tree) launcher() (volume.Child, error) {
	t.launcherOnce.Do(func() { t.launcherRecord, t.launcherErr = t.keepLauncher() })
	if t.launcherErr != nil {
		return volume.Child{}, t.launcherErr
	}
	n, err := t.o.Table.Intern(t.launcherRecord)
	if err != nil {
		return volume.Child{}, err
	}
	attr, err := launcherAttr(t.launcherRecord)
	return volume.Child{Node: volume.Node{Volume: t, Entry: n}, Attr: attr, Valid: volume.Forever}, err
}

// keepLauncher writes the launcher's bytes into the table and returns its record.
func (t *Tree) keepLauncher() (string, error) {
	record := []string{string(recordLauncher), t.o.Launcher.hash, strconv.Itoa(len(t.o.Launcher.elf))}
	for off := 0; off < len(t.o.Launcher.elf); off += launcherPart {
		part := t.o.Launcher.elf[off:min(off+launcherPart, len(t.o.Launcher.elf))]
		n, err := t.o.Table.Intern(string(recordPart) + "\x00" + string(part))
		if err != nil {
			return "", err
		}
		record = append(record, strconv.FormatUint(n, 10))
	}
	return strings.Join(record, "\x00"), nil
}

func launcherAttr(record string) (volume.Attr, error) {
	_, size, _, err := parseLauncher(record)
	return volume.Attr{Mode: unix.S_IFREG | 0o755, Nlink: 1, Size: uint64(size)}, err
}

// parseLauncher takes a launcher's record apart.
func parseLauncher(record string) (hash string, size int64, parts []string, err error) {
	f := strings.Split(record, "\x00")
	if len(f) > 2 {
		size, err = strconv.ParseInt(f[2], 10, 64)
	}
	if len(f) < 3 || err != nil || size < 0 || int64(len(f)-3) != (size+launcherPart-1)/launcherPart {
		return "", 0, nil, fmt.Errorf("launcher %.80q: %w", record, volume.ErrStale)
	}
	return f[1], size, f[3:], nil
}

// readLauncher reads the launcher of that record, this program's or an older one's.
func (t *Tree) readLauncher(record string, p []byte, off int64) (n int, err error) {
	hash, size, parts, err := parseLauncher(record)
	if err != nil || off < 0 || off >= size {
		return 0, err
	}
	if hash == t.o.Launcher.hash {
		return copy(p, t.o.Launcher.elf[off:]), nil
	}
	for n < len(p) && off+int64(n) < size {
		at := off + int64(n)
		entry, err := strconv.ParseUint(parts[at/launcherPart], 10, 64)
		if err != nil {
			return n, fmt.Errorf("launcher %s: %w", hash, volume.ErrStale)
		}
		part, err := t.record(entry)
		if err != nil {
			return n, err
		}
		got := copyAt(p[n:], part[2:], at%launcherPart)
		if got == 0 {
			return n, fmt.Errorf("launcher %s: %w", hash, volume.ErrStale)
		}
		n += got
	}
	return n, nil
}
