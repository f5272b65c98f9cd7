package catalog

import (
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

var (
	// ErrNotFound is returned when a catalog or history has no such entry.
	ErrNotFound = errors.New("no such entry")
	// ErrCorrupt is returned when a file breaks a rule of the format. The file
	// is of no use; another copy of it may be.
	ErrCorrupt = errors.New("damaged catalog")
	// ErrUnsupported is returned for what a newer CVMFS may write and this
	// version cannot read.
	ErrUnsupported = errors.New("not supported by this version of neurodeskfs")
)

// PathHash names a path: the two halves of its MD5, little-endian.
type PathHash struct{ A, B int64 }

// HashPath hashes an absolute path as CVMFS does: "" is the root, others have
// a leading and no trailing slash.
func HashPath(path string) PathHash {
	var buf [512]byte
	return hashBytes(append(buf[:0], path...))
}

func hashBytes(path []byte) PathHash {
	sum := md5.Sum(path)
	return PathHash{
		A: int64(binary.LittleEndian.Uint64(sum[:8])),
		B: int64(binary.LittleEndian.Uint64(sum[8:])),
	}
}

// Flags is a row's flags column as stored.
type Flags uint32

// The flags of CVMFS 2.12 (cvmfs/catalog_sql.h). Bits 8 to 10 hold the hash
// algorithm less one, bits 11 to 13 the compression.
const (
	FlagDir         Flags = 1 << 0
	FlagNestedMount Flags = 1 << 1 // in the parent catalog
	FlagFile        Flags = 1 << 2
	FlagLink        Flags = 1 << 3
	FlagSpecial     Flags = 1 << 4
	FlagNestedRoot  Flags = 1 << 5 // in the nested catalog
	FlagChunked     Flags = 1 << 6
	FlagExternal    Flags = 1 << 7
	FlagBindMount   Flags = 1 << 14
	FlagHidden      Flags = 1 << 15
	FlagDirectIO    Flags = 1 << 16

	hashShift     = 8
	compressShift = 11
	threeBits     = 7
)

func (f Flags) algorithm() hash.Algorithm {
	return hash.Algorithm(f>>hashShift&threeBits) + hash.SHA1
}

// Compression says how a file's objects are stored.
type Compression uint8

// The known kinds; rows of another kind are refused with ErrUnsupported.
const (
	Zlib Compression = 0
	None Compression = 1
)

// File types of a mode, as stat(2) has them.
const (
	modeType = 0o170000
	modeFIFO = 0o010000
	modeChr  = 0o020000
	modeDir  = 0o040000
	modeBlk  = 0o060000
	modeReg  = 0o100000
	modeLink = 0o120000
	modeSock = 0o140000
)

// Row is one directory entry. It is a value; changing it changes no catalog.
type Row struct {
	ID           int64 // rowid: > 0 save in odd files, stable for this catalog
	Path, Parent PathHash
	Name         string    // raw bytes; "" for the repository's root only
	Symlink      string    // raw target, variables unexpanded (see Expand)
	Hash         hash.Hash // zero when the row has none
	Compression  Compression
	Size         int64  // bytes, uncompressed; 0 for devices, see Rdev
	Mode         uint32 // type and permissions, as stat(2) has them
	MTime        int64  // seconds since 1970
	MTimeNsec    uint32 // nanoseconds, 0 when unknown
	UID, GID     uint32 // 0 when the catalog knows no owners, see HasOwners
	Hardlinks    uint64 // group << 32 | link count, as stored
	Flags        Flags
	HasXattr     bool

	rdev uint64
}

// IsDir reports whether the row is a directory.
func (r Row) IsDir() bool { return r.Mode&modeType == modeDir }

// IsRegular reports whether the row is a plain file.
func (r Row) IsRegular() bool { return r.Mode&modeType == modeReg }

// IsSymlink reports whether the row is a symbolic link.
func (r Row) IsSymlink() bool { return r.Mode&modeType == modeLink }

// IsSpecial reports whether the row is a FIFO, a socket or a device.
func (r Row) IsSpecial() bool { return !r.IsDir() && !r.IsRegular() && !r.IsSymlink() }

// IsChunked reports whether the content stands in chunks (see Chunks).
func (r Row) IsChunked() bool { return r.Flags&FlagChunked != 0 }

// IsExternal reports whether the content lies outside the repository.
func (r Row) IsExternal() bool { return r.Flags&FlagExternal != 0 }

// IsHidden reports whether listings leave the row out.
func (r Row) IsHidden() bool { return r.Flags&FlagHidden != 0 }

// IsNestedMount reports whether a nested catalog takes over below this directory.
func (r Row) IsNestedMount() bool { return r.Flags&FlagNestedMount != 0 }

// IsNestedRoot reports whether this is the top directory of a nested catalog.
func (r Row) IsNestedRoot() bool { return r.Flags&FlagNestedRoot != 0 }

// IsBindMount reports whether a catalog of another place takes over here.
func (r Row) IsBindMount() bool { return r.Flags&FlagBindMount != 0 }

// Nlink is the link count to show, at least 1.
func (r Row) Nlink() uint32 { return max(uint32(r.Hardlinks), 1) }

// LinkGroup is the hard link group, unique in the catalog; 0 is no group.
func (r Row) LinkGroup() uint32 { return uint32(r.Hardlinks >> 32) }

// Rdev is the Linux device number of a character or block device, else 0.
func (r Row) Rdev() uint64 { return r.rdev }

// Algorithm is the hash function of the row's chunks and content.
func (r Row) Algorithm() hash.Algorithm { return r.Flags.algorithm() }

// Supported returns an error that wraps ErrUnsupported when the row's content
// cannot be read: unknown compression or hash function. ByID, ByPath and Lookup
// call it; Children does not, so that a directory with such a file can still be
// listed.
func (r Row) Supported() error {
	switch {
	case !r.IsRegular():
		return nil
	case r.Compression > None:
		return fmt.Errorf("%w: file %.60q is compressed in an unknown way (%d)", ErrUnsupported, r.Name, r.Compression)
	case !r.Algorithm().Known():
		return fmt.Errorf("%w: file %.60q has an unknown hash function (%d)", ErrUnsupported, r.Name, r.Algorithm())
	}
	return nil
}

// check refuses what no CVMFS server writes and what a file system must not
// hand to a kernel.
func (r Row) check() error {
	const places = FlagNestedMount | FlagNestedRoot | FlagBindMount
	switch {
	case !knownType(r.Mode):
		return fmt.Errorf("%w: mode %#o", ErrCorrupt, r.Mode)
	case r.Size < 0:
		return fmt.Errorf("%w: size %d", ErrCorrupt, r.Size)
	case r.Flags&places != 0 && !r.IsDir():
		return fmt.Errorf("%w: catalog boundary that is no directory", ErrCorrupt)
	case r.IsChunked() && !r.IsRegular():
		return fmt.Errorf("%w: chunks of what is no file", ErrCorrupt)
	case strings.IndexByte(r.Symlink, 0) >= 0:
		return fmt.Errorf("%w: zero byte in a link", ErrCorrupt)
	case r.Name == "" && r.Parent == PathHash{} && r.Path == rootHash && r.IsDir():
		return nil
	case !validName(r.Name):
		return fmt.Errorf("%w: name %.60q", ErrCorrupt, r.Name)
	case r.Path == r.Parent:
		return fmt.Errorf("%w: %.60q is its own parent", ErrCorrupt, r.Name)
	}
	return nil
}

var rootHash = HashPath("")

func knownType(mode uint32) bool {
	switch mode & modeType {
	case modeFIFO, modeChr, modeDir, modeBlk, modeReg, modeLink, modeSock:
		return mode <= 0o177777
	}
	return false
}

// maxName is Linux's NAME_MAX.
const maxName = 255

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName &&
		!strings.ContainsAny(name, "/\x00")
}
