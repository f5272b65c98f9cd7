// Package hash holds the content hashes that name every CVMFS object.
//
// A CVMFS hash is taken over the bytes as they are stored on the server, that
// is after compression, and written as 40 hexadecimal digits, followed by the
// algorithm's name unless that is SHA-1: "…-rmd160", "…-shake128". MD5 names
// paths, never objects; it stands here for old manifests only. All values are
// immutable and safe for concurrent use.
package hash

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"fmt"
	stdhash "hash"
	"strings"

	//lint:ignore SA1019 repositories are signed with it; it is what their hashes are
	"golang.org/x/crypto/ripemd160"
)

// ErrSyntax is returned when a text is no hash of any known algorithm.
var ErrSyntax = errors.New("not a content hash")

// Algorithm is a hash function, numbered as the CVMFS client numbers them.
type Algorithm uint8

// The algorithms of CVMFS 2.12 (cvmfs/crypto/hash.h).
const (
	MD5 Algorithm = iota
	SHA1
	RMD160
	SHAKE128
)

var suffixes = [...]string{MD5: "", SHA1: "", RMD160: "-rmd160", SHAKE128: "-shake128"}

// Known reports whether a can be computed.
func (a Algorithm) Known() bool { return a <= SHAKE128 }

// Size is the digest's length in bytes: 16 for MD5, else 20.
func (a Algorithm) Size() int {
	if a == MD5 {
		return md5.Size
	}
	return sha1.Size
}

// New returns a running hash. It panics on an unknown algorithm, which Parse
// and the catalog reader refuse before.
func (a Algorithm) New() stdhash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case RMD160:
		return ripemd160.New()
	case SHAKE128:
		return shake{sha3.NewSHAKE128()}
	}
	panic(fmt.Sprintf("hash: unknown algorithm %d", a))
}

// shake is SHAKE-128 cut at 160 bits, as CVMFS uses it.
type shake struct{ *sha3.SHAKE }

func (s shake) Size() int { return sha1.Size }
func (s shake) Sum(b []byte) []byte {
	c := *s.SHAKE // reading turns the sponge; the copy leaves ours absorbing
	var d [sha1.Size]byte
	c.Read(d[:])
	return append(b, d[:]...)
}

// A Suffix is the letter behind an object's name that tells its kind. It is
// part of the object's path on the server and no part of the hash.
type Suffix byte

// The kinds of objects.
const (
	File        Suffix = 0 // a whole regular file
	Chunk       Suffix = 'P'
	Catalog     Suffix = 'C'
	History     Suffix = 'H'
	Certificate Suffix = 'X'
	MetaInfo    Suffix = 'M'
)

// Hash names one object. It is comparable; the zero value names nothing.
type Hash struct {
	Algorithm Algorithm
	digest    [sha1.Size]byte
}

// FromDigest makes a hash of raw digest bytes, as catalogs store them.
func FromDigest(a Algorithm, digest []byte) (Hash, error) {
	if !a.Known() || len(digest) != a.Size() {
		return Hash{}, fmt.Errorf("%w: %d bytes of algorithm %d", ErrSyntax, len(digest), a)
	}
	h := Hash{Algorithm: a}
	copy(h.digest[:], digest)
	return h, nil
}

// Sum hashes b.
func Sum(a Algorithm, b []byte) Hash {
	w := a.New()
	w.Write(b)
	return Of(a, w)
}

// Of is the hash of all that was written to w, which a.New made.
func Of(a Algorithm, w stdhash.Hash) Hash {
	h := Hash{Algorithm: a}
	copy(h.digest[:], w.Sum(nil))
	return h
}

// Parse reads the text form. A trailing kind letter is not accepted.
func Parse(s string) (Hash, error) {
	digits, id, _ := strings.Cut(s, "-")
	a := SHA1
	switch {
	case id == "rmd160" && len(digits) == 40:
		a = RMD160
	case id == "shake128" && len(digits) == 40:
		a = SHAKE128
	case id == "" && len(digits) == len(s) && len(digits) == 32:
		a = MD5
	case id == "" && len(digits) == len(s) && len(digits) == 40:
	default:
		return Hash{}, fmt.Errorf("%w: %.60q", ErrSyntax, s)
	}
	b, err := hex.DecodeString(digits)
	if err != nil || strings.ToLower(digits) != digits {
		return Hash{}, fmt.Errorf("%w: %.60q", ErrSyntax, s)
	}
	return FromDigest(a, b)
}

// IsZero reports whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

// Digest returns the raw bytes.
func (h Hash) Digest() []byte {
	d := h.digest
	return d[:h.Algorithm.Size()]
}

// String is the text form, the same that Parse reads.
func (h Hash) String() string {
	if !h.Algorithm.Known() {
		return "unknown"
	}
	return hex.EncodeToString(h.digest[:h.Algorithm.Size()]) + suffixes[h.Algorithm]
}

// Path is where the object lies below the repository's URL:
// data/ab/cdef…[-algorithm][suffix].
func (h Hash) Path(s Suffix) string {
	t := h.String()
	p := "data/" + t[:2] + "/" + t[2:]
	if s != File {
		p += string(rune(s))
	}
	return p
}

// MarshalText implements encoding.TextMarshaler; the zero hash is empty.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return nil, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	if *h = (Hash{}); len(b) > 0 {
		*h, err = Parse(string(b))
	}
	return err
}
