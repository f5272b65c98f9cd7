// Package cache keeps immutable objects, each under an opaque key, on disk
// (Disk) or in memory (Memory). It knows nothing of what it keeps: who commits
// an object has verified it, and a key never names two contents.
//
// # On disk
//
//	VERSION           layout number; a newer one is refused
//	lock              flock of the one process that writes here, and its pid
//	index.db          bbolt: sizes, last use, pins, and small derived values of others
//	objects/ab/REST   one object; the first two characters of its key make the folder
//	tmp/              objects being written; emptied at start
//
// An object's file is its content and a trailer of 64 bytes, all little-endian:
//
//	0        8        16       20       24               40            60     64
//	| magic  | length | CRC-32C| CRC-32 | SHA-256 of key | zero bytes  | CRC  |
//	|        | uint64 | content| content| first 16 bytes |             | of 0-60
//
// So truncation, a renamed file and bit rot are found from the file alone. The
// two CRCs of the content (Castagnoli and IEEE, 64 bits together) guard against
// accidents only: the content was checked against its cryptographic hash where
// it entered, and who can forge a file here can forge any sum beside it. Both
// run at several GB/s, SHA-256 at 0.6, which would cost the cold path more
// than inflating does.
//
// Bit rot is looked for by Verify, and where a power loss makes it likely, but not
// at each opening: the sums of a chunk of 8 MiB take 46 times as long as the read
// of 128 KiB that it is opened for (3.5 ms to 0.075 ms, on one machine), and those
// of a file of 64 KiB still add a fifth to it, where 5 % would be bearable. A read
// that the disk itself refuses is an error in any case.
//
// # What a crash leaves
//
// Objects are written to tmp/, completed by their trailer and renamed. kill -9
// leaves a whole object or a file in tmp/. There is no fsync for each object:
// on a cold start of a few hundred objects it would cost more than the network.
// After a power loss a file may be short (its trailer is missing then) or hold
// blocks of zeros: objects written less than ten minutes before the last sign
// of life of another boot are therefore read in full and compared with their
// sums when they are first opened. The index is a cache of the directory and
// of the last-use times. It is flushed every few seconds, of objects once a
// minute, with a sync; a crash loses the last minute of last-use times and the
// last seconds of derived values, never a pin (Pin flushes) and never an object,
// since objects that the index does not know are adopted when they are opened and
// by the look at the folders at each start. Lost or damaged, it is made anew from
// the files; pins and derived values are lost with it.
//
// # Memory
//
// Disk holds about 100 bytes for each object (key, size, last use), so that
// neither a hit nor a miss needs a database transaction.
//
// # Lock order
//
//	Disk.flushMu -> Disk.stripes[i] -> Disk.mu -> Memory.mu
//
// A stripe is held across the file operations on one key's final name (open
// and read the trailer, rename, unlink), never across the writing of content.
// No two stripes are held at once. Disk.mu and Memory.mu are never held across
// file operations. Transactions of bbolt run under none but flushMu.
package cache
