package catalog

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// Chunk is a piece of a file: a range of its bytes, stored as an object of its own.
type Chunk struct {
	Offset, Size int64 // bytes of the uncompressed file
	Hash         hash.Hash
}

// maxChunks bounds the chunks of one file: 4 TiB at the default 4 MiB.
const maxChunks = 1 << 20

// Chunks are the pieces of the file r, ordered; they cover it without a gap. A
// row that IsChunked is not has none. Errors: ErrCorrupt, ErrUnsupported.
func (c *Catalog) Chunks(ctx context.Context, r Row) ([]Chunk, error) {
	if !r.IsChunked() {
		return nil, nil
	}
	chunks, err := c.readChunks(ctx, r)
	if err == nil {
		err = checkChunks(chunks, r.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("chunks of %.60q: %w", r.Name, err)
	}
	return chunks, nil
}

func (c *Catalog) readChunks(ctx context.Context, r Row) ([]Chunk, error) {
	if err := r.Supported(); err != nil {
		return nil, err
	}
	if err := c.db.lock(ctx); err != nil {
		return nil, err
	}
	defer c.db.mu.Unlock()
	stmt := c.stmts.chunks
	if stmt == nil {
		return nil, fmt.Errorf("%w: no table of chunks", ErrCorrupt)
	}
	defer stmt.Reset()
	stmt.BindInt64(1, r.Path.A)
	stmt.BindInt64(2, r.Path.B)
	var chunks []Chunk
	for {
		more, err := stmt.Step()
		if err != nil || !more {
			return chunks, dbError(err)
		}
		n := integers{stmt: stmt}
		next := Chunk{Offset: n.must(0, 0, math.MaxInt64), Size: n.must(1, 0, math.MaxInt64)}
		if n.err != nil {
			return nil, n.err
		}
		if len(chunks) == maxChunks || len(chunks) > 0 && next.Offset <= chunks[len(chunks)-1].Offset {
			return nil, fmt.Errorf("%w: too many, or two at one place", ErrCorrupt)
		}
		if next.Hash, err = scanHash(stmt, 2, r.Algorithm()); err != nil {
			return nil, err
		}
		chunks = append(chunks, next)
	}
}

// checkChunks makes sure that the chunks cover 0 to size, each byte once.
func checkChunks(chunks []Chunk, size int64) error {
	var end int64
	for i, c := range chunks {
		switch {
		case c.Hash.IsZero():
			return fmt.Errorf("%w: chunk %d has no hash", ErrCorrupt, i)
		case c.Offset != end || c.Size < 0 || c.Size > size-end:
			return fmt.Errorf("%w: chunk %d is at %d+%d, expected at %d of %d", ErrCorrupt, i, c.Offset, c.Size, end, size)
		case c.Size == 0 && size > 0:
			return fmt.Errorf("%w: chunk %d is empty", ErrCorrupt, i)
		}
		end += c.Size
	}
	if end != size || len(chunks) == 0 {
		return fmt.Errorf("%w: %d chunks end at %d of %d", ErrCorrupt, len(chunks), end, size)
	}
	return nil
}

// Xattr is one extended attribute; both parts are raw bytes.
type Xattr struct {
	Name  string
	Value []byte
}

// Xattrs are the stored attributes of the row with that ID, as the catalog
// orders them. Errors: ErrNotFound (no such row), ErrCorrupt.
func (c *Catalog) Xattrs(ctx context.Context, id int64) ([]Xattr, error) {
	blob, err := c.xattrBlob(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("attributes of entry %d: %w", id, err)
	}
	attrs, err := ParseXattrs(blob)
	if err != nil {
		return nil, fmt.Errorf("attributes of entry %d: %w", id, err)
	}
	return attrs, nil
}

func (c *Catalog) xattrBlob(ctx context.Context, id int64) ([]byte, error) {
	if c.stmts.xattrs == nil {
		_, err := c.ByID(ctx, id)
		return nil, err
	}
	if err := c.db.lock(ctx); err != nil {
		return nil, err
	}
	defer c.db.mu.Unlock()
	stmt := c.stmts.xattrs
	defer stmt.Reset()
	stmt.BindInt64(1, id)
	found, err := stmt.Step()
	if err != nil {
		return nil, dbError(err)
	}
	if !found {
		return nil, ErrNotFound
	}
	if kind := stmt.ColumnType(0); kind != sqlite.TypeBlob && kind != sqlite.TypeNull {
		return nil, fmt.Errorf("%w: stored as %v", ErrCorrupt, kind)
	}
	blob := make([]byte, stmt.ColumnLen(0))
	return blob[:stmt.ColumnBytes(0, blob)], nil
}

// The versions of attribute lists (cvmfs/xattr.cc). CVMFS writes large ones from
// 2.14 on, for a file of which one value has more than 255 bytes.
const (
	xattrSmall = 1 // a byte for a value's length
	xattrLarge = 2 // two bytes, little-endian
)

// ParseXattrs reads an attribute list: a version byte, a count byte, then for
// each attribute a byte for the name's length, one or two for the value's, the name
// and the value. No bytes are no attributes. Values alias blob. Errors: ErrCorrupt,
// ErrUnsupported.
func ParseXattrs(blob []byte) ([]Xattr, error) {
	if len(blob) == 0 {
		return nil, nil
	}
	head := 1 + int(blob[0]) // bytes of the two lengths
	if blob[0] != xattrSmall && blob[0] != xattrLarge {
		return nil, fmt.Errorf("%w: attribute list of version %d", ErrUnsupported, blob[0])
	}
	if len(blob) < 2 {
		return nil, fmt.Errorf("%w: attribute list of one byte", ErrCorrupt)
	}
	attrs, rest := make([]Xattr, 0, blob[1]), blob[2:]
	seen := make(map[string]bool, blob[1])
	for range blob[1] {
		if len(rest) < head {
			return nil, fmt.Errorf("%w: attribute list is cut short", ErrCorrupt)
		}
		begin := head + int(rest[0]) // of the value
		end := begin + int(rest[1])
		if blob[0] == xattrLarge {
			end += int(rest[2]) << 8
		}
		if len(rest) < end {
			return nil, fmt.Errorf("%w: attribute list is cut short", ErrCorrupt)
		}
		name, value := string(rest[head:begin]), rest[begin:end:end]
		rest = rest[end:]
		if !validXattrName(name) || seen[name] {
			return nil, fmt.Errorf("%w: attribute name %.60q", ErrCorrupt, name)
		}
		seen[name] = true
		attrs = append(attrs, Xattr{name, value})
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the attribute list", ErrCorrupt, len(rest))
	}
	return attrs, nil
}

// validXattrName keeps zero bytes out: they part the names in listxattr's answer.
func validXattrName(name string) bool {
	for i := range len(name) {
		if name[i] == 0 {
			return false
		}
	}
	return name != ""
}

// packXattrs is the inverse of ParseXattrs.
func packXattrs(attrs []Xattr) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	if len(attrs) > math.MaxUint8 {
		return nil, fmt.Errorf("%d attributes: at most 255 can be stored", len(attrs))
	}
	version := byte(xattrSmall)
	if slices.ContainsFunc(attrs, func(a Xattr) bool { return len(a.Value) > math.MaxUint8 }) {
		version = xattrLarge
	}
	blob := []byte{version, byte(len(attrs))}
	for _, a := range attrs {
		if !validXattrName(a.Name) || len(a.Name) > math.MaxUint8 || len(a.Value) > math.MaxUint16 {
			return nil, fmt.Errorf("attribute %.60q of %d bytes: a name holds 255 bytes at most, a value 65,535", a.Name, len(a.Value))
		}
		blob = append(blob, byte(len(a.Name)), byte(len(a.Value)))
		if version == xattrLarge {
			blob = append(blob, byte(len(a.Value)>>8))
		}
		blob = append(blob, a.Name...)
		blob = append(blob, a.Value...)
	}
	return blob, nil
}
