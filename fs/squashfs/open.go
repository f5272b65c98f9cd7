package squashfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Source is what an image is read from. ReadAt is as in io.ReaderAt, with a
// context; it is called from several goroutines. Fewer bytes than asked for,
// with io.EOF or without an error, mean that the source ends there.
type Source interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// Options says how an image is read.
type Options struct {
	// Cache may be shared by many images. Nil: one of its own, with the
	// default limits.
	Cache *Cache
	// Parallel is how many blocks of one ReadAt are inflated at once.
	// 0: as many as there are cores; 1: one after the other.
	Parallel int
}

// Counters say what an image cost so far.
type Counters struct {
	Metadata atomic.Int64 // metadata blocks inflated
	Data     atomic.Int64 // data and fragment blocks inflated
	Reads    atomic.Int64 // requests to the source
	Bytes    atomic.Int64 // bytes asked of the source
}

// FS is an image. Its nodes are numbered: a number has at most 40 bits, is
// never 0, is the same whenever the same image is opened, and is shared by hard
// links. Safe for concurrent use. It has no goroutines and nothing to close;
// Forget gives back its part of a shared cache.
type FS struct {
	src    Source
	offset int64 // of the image in src, bytes
	super  Superblock
	head   int64 // bytes of superblock and options

	cache    *Cache
	image    uint64 // in the cache's keys
	decode   decoder
	parallel int
	count    Counters

	inodes, dirs region
	numbered     bool // entries are inode numbers, not places
	ids          atomic.Pointer[[]uint32]
	xattrs       atomic.Pointer[xattrTable]
	// Method values, made once.
	metaLoader, dataLoader, fragmentLoader func(context.Context, *block) error
}

// Open reads the superblock and compression options of the image of size bytes
// at offset in src: one request of 128 bytes. Tables then tells what else is
// worth having; nothing of it is read before it is needed. Errors are
// ErrCorrupt, ErrUnsupported or the source's.
func Open(ctx context.Context, src Source, offset, size int64, o Options) (*FS, error) {
	if offset < 0 || size < 0 || offset+size < 0 {
		return nil, corruptf("%d bytes at %d", size, offset)
	}
	if o.Cache == nil {
		o.Cache = NewCache(Limits{})
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	f := &FS{src: src, offset: offset, head: superblockSize, cache: o.Cache, image: o.Cache.newImage(), parallel: o.Parallel}
	f.metaLoader, f.dataLoader, f.fragmentLoader = f.loadMeta, f.loadData, f.loadFragment
	f.super.BytesUsed = uint64(size) // until it is known
	if err := f.readHead(ctx, size); err != nil {
		return nil, fmt.Errorf("squashfs: open: %w", err)
	}
	var err error
	if f.decode, err = f.cache.decoder(f.super.Compression); err != nil {
		return nil, err
	}
	f.inodes = region{"inode", int64(f.super.InodeTable), int64(f.super.DirectoryTable)}
	f.dirs = region{"directory", int64(f.super.DirectoryTable), int64(f.super.BytesUsed)}
	for _, t := range []uint64{f.super.FragmentTable, f.super.ExportTable, f.super.IDTable, f.super.XattrTable} {
		if t >= f.super.DirectoryTable && t < uint64(f.dirs.end) {
			f.dirs.end = int64(t)
		}
	}
	return f, f.chooseNumbers(maxPacked)
}

func (f *FS) readHead(ctx context.Context, size int64) error {
	var p [128]byte
	head := p[:min(size, int64(len(p)))]
	if err := f.readFull(ctx, head, 0); err != nil {
		return err
	}
	var err error
	if f.super, err = parseSuperblock(head, size); err != nil || f.super.Flags&FlagOptions == 0 {
		return err
	}
	// The options are a metadata block that is never compressed.
	options := head[superblockSize:]
	if len(options) < 2 {
		return corruptf("no %s options", f.super.Compression)
	}
	header := binary.LittleEndian.Uint16(options)
	n := int(header & 0x7fff)
	if header&0x8000 == 0 || n > len(options)-2 {
		return corruptf("%s options with header %#x", f.super.Compression, header)
	}
	f.head += 2 + int64(n)
	return checkOptions(f.super.Compression, options[2:2+n])
}

// readFull fills p from pos, bytes from the start of the image.
func (f *FS) readFull(ctx context.Context, p []byte, pos int64) error {
	if pos < 0 || pos > int64(f.super.BytesUsed) || int64(len(p)) > int64(f.super.BytesUsed)-pos {
		return corruptf("%d bytes at %d, behind the end at %d", len(p), pos, f.super.BytesUsed)
	}
	f.count.Reads.Add(1)
	f.count.Bytes.Add(int64(len(p)))
	n, err := f.src.ReadAt(ctx, p, f.offset+pos)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corruptf("image ends at %d of %d", pos+int64(n), f.super.BytesUsed)
	}
	return fmt.Errorf("squashfs: read %d bytes at %d: %w", len(p), pos, err)
}

// Superblock returns what the image says of itself.
func (f *FS) Superblock() Superblock { return f.super }

// Counters returns what the image cost so far; they go on counting.
func (f *FS) Counters() *Counters { return &f.count }

// Forget drops what the cache keeps of the image, which stays usable.
func (f *FS) Forget() {
	f.cache.meta.forget(f.image)
	f.cache.data.forget(f.image)
}

// Range is a part of the source in bytes.
type Range struct{ Offset, Size int64 }

// Tables returns where in the source superblock and options stand, and where
// all tables: whoever fetches those at once can walk the whole tree and stat
// every file without another round trip.
func (f *FS) Tables() []Range {
	start := int64(f.super.InodeTable)
	return []Range{{f.offset, f.head}, {f.offset + start, int64(f.super.BytesUsed) - start}}
}

// maxPacked bounds the inode tables, in bytes, whose references fit in an entry
// number: 27 bits for the block, 13 for the place in it, all of it plus one.
const maxPacked = 1<<27 - 1

// rootNumbered is the root's entry in an image whose entries are inode numbers.
const rootNumbered = volume.MaxEntry

// chooseNumbers decides what entries are: the inode's place, or its number if
// the table is longer than limit and the image can look numbers up.
func (f *FS) chooseNumbers(limit int64) error {
	f.numbered = f.inodes.end-f.inodes.start > limit
	if f.numbered && f.super.ExportTable == absent {
		return unsupportedf("inode table of %d bytes without an export table (-no-exports)", f.inodes.end-f.inodes.start)
	}
	return nil
}

// entry returns the number of the inode with that reference and inode number.
func (f *FS) entry(ref uint64, number uint32) (uint64, error) {
	block, offset := ref>>16, ref&0xffff
	if block >= uint64(f.inodes.end-f.inodes.start) || offset >= metadataSize {
		return 0, corruptf("inode reference %#x", ref)
	}
	if f.numbered && number == 0 {
		return 0, corruptf("inode %#x has number 0", ref)
	}
	if f.numbered {
		return uint64(number), nil
	}
	return block<<13 + offset + 1, nil
}

// ref returns the inode reference of an entry.
func (f *FS) ref(ctx context.Context, entry uint64) (uint64, error) {
	if f.numbered {
		if entry == rootNumbered {
			return f.super.RootRef, nil
		}
		return f.exported(ctx, entry)
	}
	block, offset := (entry-1)>>13, (entry-1)&(metadataSize-1)
	if entry == 0 || block >= uint64(f.inodes.end-f.inodes.start) {
		return 0, fmt.Errorf("squashfs: entry %d: %w", entry, volume.ErrStale)
	}
	return block<<16 | offset, nil
}

// exported looks an inode number up in the export table.
func (f *FS) exported(ctx context.Context, number uint64) (uint64, error) {
	if f.super.ExportTable == absent || number == 0 || number > uint64(f.super.Inodes) {
		return 0, fmt.Errorf("squashfs: inode number %d: %w", number, volume.ErrStale)
	}
	p, err := f.tableEntry(ctx, "export", int64(f.super.ExportTable), exportSize, number-1, uint64(f.super.Inodes))
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(p), nil
}

// Root returns the entry of the root directory.
func (f *FS) Root() uint64 {
	if f.numbered {
		return rootNumbered
	}
	return f.super.RootRef>>16<<13 + f.super.RootRef&0xffff + 1
}

// Exported returns the entry of an inode number, by the image's export table,
// or volume.ErrStale if it has none or not that number.
func (f *FS) Exported(ctx context.Context, number uint32) (uint64, error) {
	ref, err := f.exported(ctx, uint64(number))
	if err != nil {
		return 0, err
	}
	return f.entry(ref, number)
}
