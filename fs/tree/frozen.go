package tree

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Files that are different at each look-up, as status.json is, are frozen: a
// look-up makes a node whose content never changes. They lie in a file in memory
// that outlives the daemon, since the kernel may hold any of them. A node's
// number is the page at which it begins there, so that none is ever given twice;
// of the oldest the pages are given back.

const (
	frozenBase   = 1 << 39 // entries above are frozen files, below are table records
	keepFrozen   = 256     // how many frozen files can still be read
	frozenPage   = 4096
	frozenHeader = 24 // magic, length, modification time in ns since 1970
	frozenMagic  = 0x6e657a6f7266646e
	maxFrozen    = 64 << 20 // bytes of one file
)

// frozenFiles is that file. Safe for concurrent use.
type frozenFiles struct {
	file *os.File

	mu   sync.Mutex // guards what follows
	end  int64      // where the next begins
	kept []extent   // oldest first
}

type extent struct{ offset, length int64 }

// frozen is a file whose content is that of one look-up.
type frozen struct {
	content []byte
	mtime   time.Time
}

// openFrozen goes on with the frozen files of an earlier daemon; nil begins anew.
func openFrozen(f *os.File) (*frozenFiles, error) {
	if f == nil {
		fd, err := unix.MemfdCreate("neurodeskfs-frozen", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("tree: frozen files: %w", err)
		}
		f = os.NewFile(uintptr(fd), "frozen")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("tree: frozen files: %w", err)
	}
	z := &frozenFiles{file: f, end: pageUp(st.Size())}
	for offset := int64(0); offset < z.end; {
		data, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
		if err != nil {
			break // the rest was given back
		}
		offset = data &^ (frozenPage - 1)
		length := int64(frozenPage)
		if content, _, err := z.header(offset); err == nil {
			length = pageUp(frozenHeader + content)
			z.kept = append(z.kept, extent{offset, length})
		}
		offset += length
	}
	return z, nil
}

func pageUp(n int64) int64 { return (n + frozenPage - 1) &^ (frozenPage - 1) }

// header reads the length of the content and the time of the file at offset.
func (z *frozenFiles) header(offset int64) (length int64, mtime time.Time, err error) {
	var h [frozenHeader]byte
	if _, err := z.file.ReadAt(h[:], offset); err != nil {
		return 0, mtime, volume.ErrStale
	}
	length = int64(binary.LittleEndian.Uint64(h[8:]))
	if binary.LittleEndian.Uint64(h[:]) != frozenMagic || length < 0 || length > maxFrozen {
		return 0, mtime, volume.ErrStale // given back
	}
	return length, time.Unix(0, int64(binary.LittleEndian.Uint64(h[16:]))), nil
}

// freeze keeps content and returns its entry.
func (z *frozenFiles) freeze(content []byte, at time.Time) (entry uint64, err error) {
	if len(content) > maxFrozen {
		return 0, fmt.Errorf("tree: a frozen file of %d bytes is too long", len(content))
	}
	b := make([]byte, frozenHeader, frozenHeader+len(content))
	binary.LittleEndian.PutUint64(b, frozenMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(len(content)))
	binary.LittleEndian.PutUint64(b[16:], uint64(at.UnixNano()))
	b = append(b, content...)
	z.mu.Lock()
	defer z.mu.Unlock()
	offset := z.end
	z.end = pageUp(offset + int64(len(b))) // nor after a failure is it given again
	if _, err := z.file.WriteAt(b, offset); err != nil {
		return 0, fmt.Errorf("tree: frozen files: %w", err)
	}
	z.kept = append(z.kept, extent{offset, z.end - offset})
	for len(z.kept) > keepFrozen {
		old := z.kept[0]
		z.kept = z.kept[1:]
		// What cannot be given back stays in memory; it is no reason to fail.
		_ = unix.Fallocate(int(z.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, old.offset, old.length)
	}
	return frozenBase + uint64(offset/frozenPage), nil
}

// thaw returns what entry numbers.
func (z *frozenFiles) thaw(entry uint64) (f frozen, err error) {
	offset := int64(entry-frozenBase) * frozenPage
	length, mtime, err := z.header(offset)
	if err == nil {
		f = frozen{make([]byte, length), mtime}
		_, err = z.file.ReadAt(f.content, offset+frozenHeader)
	}
	if err != nil {
		return f, fmt.Errorf("entry %d of the tree: %w", entry, volume.ErrStale)
	}
	return f, nil
}

func (z *frozenFiles) close() { z.file.Close() }

func (f frozen) attr() volume.Attr {
	return volume.Attr{Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: uint64(len(f.content)), MTime: f.mtime.Unix(), MTimeNsec: uint32(f.mtime.Nanosecond())}
}

// freeze is a file whose content is that of this very look-up.
func (t *Tree) freeze(content []byte) (volume.Child, error) {
	f := frozen{content, time.Now()}
	n, err := t.frozen.freeze(content, f.mtime)
	return volume.Child{Node: volume.Node{Volume: t, Entry: n}, Attr: f.attr()}, err
}
