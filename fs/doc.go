// Package fs is the mount: go-fuse's RawFileSystem over volumes.
//
// # Node ids
//
// A node id says where the node lives: the volume's number in the upper 24
// bits, the entry's number in that volume in the lower 40. Number 0 is the
// synthetic tree; the others stand in the Table. So FORGET is free, memory does
// not grow with the files seen, and a restarted daemon understands every id
// that the kernel still holds.
//
// # What the kernel keeps
//
// OPEN, OPENDIR and FLUSH are answered ENOSYS once, after which the kernel asks
// no more; entries, attributes and absences are good for an hour
// (volume.Forever) unless the volume says less. A hot read asks nobody. READ
// carries no file handle, so an open file keeps the content it started with
// because its node does.
//
// # What a hot read costs
//
// A read that the kernel answers from its page cache costs what its pages cost,
// and no daemon can change that. FUSE on Linux 6.18 keeps a file in single pages,
// whatever the size of the READs; ext4 keeps it in large folios of up to 2 MiB.
// 256 MiB, read 15 times by read(2) of 1 MiB, the best of 15; the kind of page by
// /proc/kpageflags, and how many pages follow their neighbour in memory by
// /proc/self/pagemap; two busy AMD EPYC cores:
//
//	                GB/s       pages in large folios   next to each other
//	ext4            18 - 26    99 - 100 %              98 - 100 %
//	kernel squashfs 5.0 - 9.4  0                       51 - 56 %
//	squashfuse_ll   1.5 - 15.6 0                       7 - 85 %
//	ours            2.5 - 5.0  0                       20 - 68 %
//	ours, READs and read-ahead of 1 MiB: 0 large folios too
//
// What is read fastest is what happened to get memory in one piece: pages are
// taken one by one from what the machine has free, and squashfuse_ll with 85 % of
// them in a row reads at 15.6 GB/s, with 7 % at 1.5. The peers that have single
// pages (kernel squashfs, squashfuse_ll) are as far from ext4 as we are. Passthrough
// would read the cache's own file, in large folios, but takes CAP_SYS_ADMIN, excludes
// opening without a request, and needs one whole file behind each.
//
// # What a hot open costs
//
// open, read of some kB and close of files that the kernel has, which no request is
// sent for: 0.7 to 0.8 of ext4's rate. By perf (cpu-clock, Linux 6.18), of all time in
// the three calls:
//
//	                             ours    ext4
//	the file system's own open    6.3 %   1.3 %   fuse_open: the fuse_file, and what its RELEASE would need
//	its own close                12.1 %   0.9 %   fuse_release, fuse_flush: neither is sent, both are made ready
//	names and permissions         3.9 %   0       fuse_dentry_revalidate, fuse_permission
//
// All of it is the kernel's. No INIT flag and no mount option leaves it out;
// FOPEN_NOFLUSH would spare fuse_flush (2.6 %), but is part of an answer to OPEN, which
// costs a hundred times as much. A file system that does nothing else (integration/bench,
// least FUSE) is no faster. With mount.check_permissions each name costs more: without
// POSIX_ACL the kernel leaves its fast walk to ask for ACLs (posix_acl.c).
//
// # What a read of a compressed image costs
//
// cat of the 1,403 files of a squashfs image (gzip, 52 MB when inflated, in a folder
// of the host's) on a mount that knows nothing of it (mount --pprof). Of the daemon's
// processor time, 0.63 s on two cores that had much else to do:
//
//	inflating (cvmfs/inflate)      41 %  each block once; half of them are fragments,
//	                                     which many small files share
//	write(2) of /dev/fuse          21 %  the kernel's copy of the replies
//	Adler-32 of the blocks         16 %  the one sum that squashfs has
//	inodes, lists of blocks        11 %  metadata, inflated before
//	reading the image's file        3 %
//
// Of the heap, 25 MB, the cache of inflated blocks has 21.4, which is bounded; the
// launcher that was embedded 3.0, the list of what is in that cache 0.5.
//
// # Read-only
//
// The mount is read-only in the kernel, which answers EROFS before we are
// asked; what reaches us all the same is answered EROFS here too.
package fs
