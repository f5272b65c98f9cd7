package squashfs

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzSuperblock puts superblocks and compression options in front of real
// images, all of whose tables are in order.
func FuzzSuperblock(f *testing.F) {
	all := seeds(f)
	for i, m := range all {
		f.Add([]byte(m[:min(len(m), 128)]), uint8(i))
	}
	f.Fuzz(func(t *testing.T, p []byte, pick uint8) {
		m := bytes.Clone(all[int(pick)%len(all)])
		copy(m, p[:min(len(p), 128)])
		exploreImage(t, m)
	})
}

// FuzzFragment puts bytes where the table of fragments should be, of which the
// root, a file, wants one.
func FuzzFragment(f *testing.F) {
	entry := func(start uint64, size uint32) []byte { return numbers(nil, start, size, uint32(0)) }
	for _, m := range seeds(f) {
		fs := openSeed(f, m)
		for i := range min(fs.super.Fragments, 3) {
			start, word, err := fs.fragmentEntry(f, i)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(entry(start, word), uint32(0), uint32(10), uint32(100))
		}
	}
	f.Add(entry(superblockSize, 4096|plainBlock), uint32(0), uint32(0), uint32(4096))
	f.Add(entry(superblockSize, 4000), uint32(0), uint32(4095), uint32(1))
	f.Add(entry(1<<63, 1<<24-1), uint32(1<<32-2), uint32(1<<31), uint32(5000))
	f.Fuzz(func(t *testing.T, p []byte, fragment, offset, size uint32) {
		m := synth{inodes: numbers(header(2), uint32(96), fragment, offset, size, uint32(4096|plainBlock), uint32(0))}.image()
		block := len(m)
		m = appendStored(m, p)
		list := len(m)
		m = numbers(m, uint64(block))
		copy(m[16:], numbers(nil, uint32(max(len(p)/fragmentSize, 1))))
		copy(m[40:], numbers(nil, uint64(len(m))))
		copy(m[80:], numbers(nil, uint64(list)))
		exploreImage(t, m)
	})
}

// fragmentEntry is an entry of the table of fragments, as it stands there.
func (f *FS) fragmentEntry(t testing.TB, i uint32) (start uint64, size uint32, err error) {
	p, err := f.tableEntry(t.Context(), "fragment", int64(f.super.FragmentTable), fragmentSize, uint64(i), uint64(f.super.Fragments))
	if err != nil {
		return 0, 0, err
	}
	return binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:]), nil
}
