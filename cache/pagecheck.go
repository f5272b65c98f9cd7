package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// bbolt trusts its file: a damaged page makes it panic, walk in circles until
// the stack ends, or fault outside its mapping, and not all of that can be
// recovered from. So the pages are looked at before bbolt sees them: every
// page that can be reached is in bounds, reached once, of the right kind and
// with its keys in order (format: go.etcd.io/bbolt/internal/common, version 2).

const (
	indexPage   = 4096 // fixed, so that an index may move between machines
	pageHeader  = 16
	elementSize = 16
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	flagBranch  = 0x01
	flagLeaf    = 0x02
	flagBucket  = 0x01 // of a leaf element
	maxDepth    = 24   // a tree of 4 KiB pages with two children each is past any disk by then
	maxRun      = 2 * (maxMetaValue / indexPage)
)

var errIndexDamaged = errors.New("index is damaged")

// checkIndexFile returns nil for an index that bbolt can be trusted with, and
// an error wrapping errIndexDamaged or fs.ErrNotExist otherwise.
func checkIndexFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < 2*indexPage || fi.Size()/indexPage > math.MaxInt32 {
		return damaged("%d bytes", fi.Size())
	}
	// Mapped, as bbolt maps it: to read 40,000 pages takes several times as long as
	// to look at them, and whoever takes over a mount waits for it.
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(guard(func() error { return checkPages(b) }), unix.Munmap(b))
}

type pageWalk struct {
	file []byte
	seen []bool // by page number
}

// keyRange bounds the keys below a branch; nil hi means no bound.
type keyRange struct{ lo, hi []byte }

func (k keyRange) holds(key []byte) bool {
	return bytes.Compare(key, k.lo) >= 0 && (k.hi == nil || bytes.Compare(key, k.hi) < 0)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errIndexDamaged)
}

// checkPages checks the content of an index, of two pages or more.
func checkPages(file []byte) error {
	root, high, err := newestMeta(file)
	if err != nil {
		return err
	}
	if pages := uint64(len(file) / indexPage); high > pages {
		return damaged("%d pages in a file of %d", high, pages)
	}
	w := &pageWalk{file: file, seen: make([]bool, high)}
	w.seen[0], w.seen[1] = true, true
	return w.page(root, keyRange{}, 0, false)
}

// newestMeta finds the meta page that bbolt will use.
func newestMeta(file []byte) (root, high uint64, err error) {
	var best uint64
	found := false
	le := binary.LittleEndian
	for b := range slices.Chunk(file[:2*indexPage], indexPage) {
		h := fnv.New64a()
		h.Write(b[16:72])
		if le.Uint32(b[16:]) != boltMagic || le.Uint32(b[20:]) != boltVersion ||
			le.Uint32(b[24:]) != indexPage || le.Uint64(b[72:]) != h.Sum64() {
			continue
		}
		if tx := le.Uint64(b[64:]); !found || tx > best {
			best, root, high, found = tx, le.Uint64(b[32:]), le.Uint64(b[56:]), true
			if le.Uint64(b[48:]) != math.MaxUint64 {
				return 0, 0, damaged("has a free list, which ours never has")
			}
		}
	}
	if !found || high < 3 {
		return 0, 0, damaged("no valid meta page")
	}
	return root, high, nil
}

// page checks page id and what is below it.
func (w *pageWalk) page(id uint64, in keyRange, depth int, inBucket bool) error {
	if depth > maxDepth || id >= uint64(len(w.seen)) || w.seen[id] {
		return damaged("page %d out of place", id)
	}
	b := w.file[id*indexPage:]
	over := uint64(binary.LittleEndian.Uint32(b[12:]))
	if binary.LittleEndian.Uint64(b) != id || over > maxRun || id+over >= uint64(len(w.seen)) {
		return damaged("header of page %d", id)
	}
	for i := id; i <= id+over; i++ {
		if w.seen[i] {
			return damaged("page %d used twice", i)
		}
		w.seen[i] = true
	}
	b = b[:(over+1)*indexPage]
	switch binary.LittleEndian.Uint16(b[8:]) {
	case flagBranch:
		return w.branch(b, in, depth, inBucket)
	case flagLeaf:
		return w.leaf(b, in, inBucket)
	}
	return damaged("kind of page %d", id)
}

func (w *pageWalk) branch(b []byte, in keyRange, depth int, inBucket bool) error {
	le := binary.LittleEndian
	n := int(le.Uint16(b[10:]))
	if n == 0 || pageHeader+n*elementSize > len(b) {
		return damaged("branch of %d", n)
	}
	keys := make([][]byte, n)
	for i := range n {
		at := pageHeader + i*elementSize
		k, err := span(b, at, n-i, uint64(le.Uint32(b[at:])), uint64(le.Uint32(b[at+4:])))
		if err != nil {
			return err
		}
		if !in.holds(k) || i > 0 && bytes.Compare(keys[i-1], k) >= 0 {
			return damaged("branch keys not in order")
		}
		keys[i] = k
	}
	for i := range n {
		sub := keyRange{lo: keys[i], hi: in.hi}
		if i+1 < n {
			sub.hi = keys[i+1]
		}
		if err := w.page(le.Uint64(b[pageHeader+i*elementSize+8:]), sub, depth+1, inBucket); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the elements of a leaf page; b is the page, or an inline bucket's.
func (w *pageWalk) leaf(b []byte, in keyRange, inBucket bool) error {
	le := binary.LittleEndian
	n := int(le.Uint16(b[10:]))
	if pageHeader+n*elementSize > len(b) {
		return damaged("leaf of %d", n)
	}
	var last []byte
	for i := range n {
		at := pageHeader + i*elementSize
		pos, ks, vs := uint64(le.Uint32(b[at+4:])), uint64(le.Uint32(b[at+8:])), uint64(le.Uint32(b[at+12:]))
		kv, err := span(b, at, n-i, pos, ks+vs)
		if err != nil {
			return err
		}
		k, v := kv[:ks], kv[ks:]
		if !in.holds(k) || i > 0 && bytes.Compare(last, k) >= 0 {
			return damaged("leaf keys not in order")
		}
		last = k
		// Ours: buckets at the top, values in them, nothing deeper.
		flags := le.Uint32(b[at:])
		if inBucket && flags != 0 || !inBucket && flags != flagBucket {
			return damaged("element flags %#x", flags)
		}
		if !inBucket {
			if err := w.bucket(v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *pageWalk) bucket(v []byte) error {
	if len(v) < 16 {
		return damaged("bucket of %d bytes", len(v))
	}
	if root := binary.LittleEndian.Uint64(v); root != 0 {
		return w.page(root, keyRange{}, 0, true)
	}
	v = v[16:]
	if len(v) < pageHeader || binary.LittleEndian.Uint16(v[8:]) != flagLeaf {
		return damaged("inline bucket")
	}
	return w.leaf(v, keyRange{}, true)
}

// span is the size bytes that element number (of those left) at offset at
// points to, relative to itself and behind all elements.
func span(b []byte, at, left int, pos, size uint64) ([]byte, error) {
	if pos < uint64(left*elementSize) || uint64(at)+pos+size > uint64(len(b)) {
		return nil, damaged("element out of bounds")
	}
	return b[uint64(at)+pos : uint64(at)+pos+size], nil
}
