// Package catalog reads and writes the SQLite files in which CVMFS keeps a
// repository's directory tree (file catalogs) and its named snapshots (the
// history database). No other package of this module imports SQLite.
//
// # What a catalog holds
//
//	properties        key, value: schema, revision, TTL, root_prefix, …
//	catalog           one row for each file, directory, link or device; found by
//	                  the MD5 of its path, or by its parent's
//	chunks            the pieces of large files
//	nested_catalogs   where the tree goes on in another catalog, and its hash
//	bind_mountpoints  where another catalog, of another place, shows up
//	statistics        counters for this catalog and for all below it
//
// Rows are named by their rowid, which is stable since a catalog never changes
// under its hash; so the rowid serves as inode number and as directory offset.
// Paths inside a catalog begin with its root_prefix; a catalog that is bound to
// another mountpoint still speaks of its own paths.
//
// # Trust
//
// A catalog's bytes were verified against a signed manifest before they come
// here. All the same nothing in them may crash, hang or bloat the reader: what
// breaks a rule of the format ends in ErrCorrupt, what a newer CVMFS may have
// written in ErrUnsupported. Schemas 0.9 to 2.5 are read; which columns a file
// has is asked of the file, not derived from its version.
//
// # Cost
//
// A Catalog is one SQLite connection with prepared statements behind one mutex
// (there is no lock order: no method calls out while it holds it). A context
// ends a call before it starts and between the pages of a long scan. An open
// catalog takes some 175 kB of memory, up to 0.7 MB once all of it was read; it is
// SQLite's own, outside Go's heap and its limit, so that cvmfs bounds how many are open.
// Measured with 200,000 rows on one core of a 2-core virtual machine
// (go test -bench .):
//
//	Open                             370 us
//	Lookup, anywhere / one directory 6.3 / 2.2 us
//	ByID, anywhere                   3.4 us
//	Children, per entry              2.0 us, in any page of a flat directory
//	Writer, per row                  6 us; a million rows in 7 s
//
// That is what is kept: prepared statements, one query for 128 entries of a
// directory, no rows kept decoded. A B-tree walk of our own over a map of the file
// found a row in 1.0 us against 4.7, but would be a second parser of hostile bytes for
// what the kernel asks once an hour; an LRU of decoded directories would be hit only by
// what the kernel has just forgotten.
//
// # Where a walk spends its time
//
// find(1) over a million entries in 100 catalogs that are in the cache (mount --pprof)
// asks 20,202 READDIRPLUS, two for each folder of 99 files. Of the daemon's processor
// time, before the LIMIT was written into the text:
//
//	sqlite3_step                   52 %  of it half to prepare the same statement again
//	read(2), write(2) of /dev/fuse 22 %
//	runtime.asyncPreempt           14 %  a machine with ten others on its two cores
//	malloc of SQLite                9 %  of the preparing
//	rows to children, fs/image      6 %  copies
//
// Of the heap, 7 MB, the launcher that was embedded has 2.7, each of the next four
// 0.5: remembered paths, the cache's index, SQLite's threads, base64's tables. The
// process had 112 MB: 128 catalogs were kept open then; with 48 it has 63.
package catalog
