// Package squashfs reads squashfs 4.0 images, as SIF files and Singularity 2
// images hold them: every type of inode, directories with and without index,
// fragments, holes, hard links, extended attributes, export table; compressed
// with gzip, zstd, xz (all branch filters but RISC-V), lz4, lzo or lzma, or not.
//
//	f, err := squashfs.Open(ctx, source, offset, size, squashfs.Options{Cache: shared})
//	e, err := f.Lookup(ctx, f.Root(), "bin")
//	err = f.ReadDir(ctx, e.Entry, 0, func(e squashfs.Entry) bool { ...; return true })
//	n, err := f.ReadAt(ctx, e.Entry, p, off)
//
// The format is that of Documentation/filesystems/squashfs.rst of the kernel
// and of its squashfs_fs.h. An image looks like this, all numbers little-endian:
//
//	0     superblock            96 bytes; says where all else is
//	96    compression options   if the superblock says so
//	      data blocks           of files and fragments; sizes are in the inodes
//	      inode table           \
//	      directory table        | metadata blocks: two bytes of header, up to
//	      fragment table         | 8 KiB of content when inflated; what follows
//	      export table           | does not heed their borders
//	      id table               |
//	      xattr table           /
//
// An inode is found by its reference: where its metadata block stands in the
// inode table, and the place in the inflated block. Packed into 40 bits, that
// is what Entry numbers are; so they need no table and outlive the process. If
// an inode table is longer than 128 MiB, they are inode numbers and are looked up
// in the export table. The last four tables are reached through a list of the
// positions of their blocks, which stands behind them and is read piece by piece.
//
// # Order of look-ups, and ranges
//
// Nothing is read before it is needed; Tables says what to fetch beforehand.
// ReadDir's cookies are places in the listing: in a large directory the index
// finds them, as it finds names. A large file gets marks in its list of block
// sizes, at most 4,096, so that a read at its end need not add up all of it.
//
// # Cost
//
// A Cache is bounded in bytes and may serve all images of a process. A block
// is inflated once however many wait for it; whoever waits may leave, and takes
// over if the one who loads it leaves. Blocks that are stored as they are bypass
// the cache. Measured on one core of a busy 2-core virtual machine (go test
// -bench .; 128 KiB blocks, files of machine code, image in memory):
//
//	Stat, metadata at hand                       0.11 us, 1 allocation
//	Lookup among 5,000 names                     5 us
//	ReadDir                                      27 ns an entry
//	walk and stat of 7,000 nodes, empty cache    0.26 us a node
//	read of 4 KiB anywhere in 32 MiB, cached     1.2 us
//	sequential read, nothing cached, MB/s        gzip 500 (two cores 880), zstd 430, lz4 770, lzo 460, xz and lzma 44
//
// # Foreign bytes
//
// An image may hold anything. Positions and lengths are compared with the
// superblock's before use, and the superblock's with the image's size; counts
// with what can stand where they point. Metadata are read forwards only, so all
// loops end. No block inflates to more than its place may hold. What the image
// says is wrong ends in ErrCorrupt, never in a panic. Directories may contain
// themselves: the reader never descends by itself, whoever does must count.
//
// LOCK ORDER: there is none. No goroutine holds two of the mutexes (Cache.mu,
// the two lru.mu, blockMap.mu), and none is held while something is read. Who
// loads a directory's index waits for metadata blocks, never the other way.
package squashfs
