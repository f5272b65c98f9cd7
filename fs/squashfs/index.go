package squashfs

import (
	"context"
	"encoding/binary"
	"sort"
)

// indexPiece says where a large directory can be entered: a run that starts a
// metadata block.
type indexPiece struct {
	offset uint32 // into the listing, bytes
	start  uint32 // of the metadata block, bytes into the directory table
	name   uint32 // where the name of the run's first entry ends in names
}

const indexPieceSize = 12 // bytes in memory

// dirIndex is a directory's index; first stands for its start.
type dirIndex struct {
	first  indexPiece
	pieces []indexPiece
	names  []byte
}

// name returns the first name of piece i.
func (x *dirIndex) name(i int) string {
	from := uint32(0)
	if i > 0 {
		from = x.pieces[i-1].name
	}
	return string(x.names[from:x.pieces[i].name])
}

// before returns the last piece before the first one that is behind.
func (x *dirIndex) before(behind func(*indexPiece) bool) indexPiece {
	i := sort.Search(len(x.pieces), func(i int) bool { return behind(&x.pieces[i]) })
	if i == 0 {
		return x.first
	}
	return x.pieces[i-1]
}

// index returns a directory's index, empty if it has none.
func (f *FS) index(ctx context.Context, n *inode) (*dirIndex, error) {
	first := indexPiece{start: uint32(n.start)}
	if n.indexed == 0 {
		return &dirIndex{first: first}, nil
	}
	k := key{image: f.image, pos: int64(n.ref), kind: kindIndex}
	b, err := f.cache.meta.get(ctx, k, func(ctx context.Context, b *block) error {
		x, err := readIndex(ctx, n)
		if err != nil {
			return err
		}
		x.first = first
		b.object = x
		b.cost = blockOverhead + int64(cap(x.names)) + int64(cap(x.pieces))*indexPieceSize
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.object.(*dirIndex), nil
}

// readIndex decodes the index behind the inode. Its pieces must be in the
// order of the listing and lie within it.
func readIndex(ctx context.Context, n *inode) (*dirIndex, error) {
	x := &dirIndex{}
	c := n.rest
	last := int64(-1)
	for range n.indexed {
		p, err := c.take(ctx, 12)
		if err != nil {
			return nil, err
		}
		le := binary.LittleEndian
		piece := indexPiece{offset: le.Uint32(p), start: le.Uint32(p[4:])}
		size := le.Uint32(p[8:])
		if size >= maxName || int64(piece.offset) <= last || int64(piece.offset) >= int64(n.size)-emptyListing {
			return nil, corruptf("index piece at %d of %d, name of %d bytes", piece.offset, n.size, size)
		}
		last = int64(piece.offset)
		name, err := c.take(ctx, int(size)+1)
		if err != nil {
			return nil, err
		}
		x.names = append(x.names, name...)
		piece.name = uint32(len(x.names))
		x.pieces = append(x.pieces, piece)
	}
	return x, nil
}
