package cvmfstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A publication is one revision in the making.
type publication struct {
	repo *Repository // its mutex is held
	ctx  context.Context
	tmp  string // for databases
	now  time.Time
	rev  *Revision
}

// An objectKey tells what was stored before. An external file is another thing
// for each of its paths.
type objectKey struct {
	node *Node
	path string // of external files only
}

// An object is how the content of a file is stored.
type object struct {
	hash   hash.Hash // zero if there are only chunks
	chunks []catalog.Chunk
}

// names are the object's files in the store.
func (o object) names() []string {
	if len(o.chunks) == 0 {
		return []string{o.hash.Path(hash.File)}
	}
	var all []string
	for _, c := range o.chunks {
		all = append(all, c.Hash.Path(hash.Chunk))
	}
	return all
}

// key is what n at path is known by.
func (p *publication) key(path string, n *Node) objectKey {
	if p.external(n) {
		return objectKey{n, path}
	}
	return objectKey{node: n}
}

func (p *publication) external(n *Node) bool { return n.External || p.repo.opt.AllExternal }

// storeFiles stores the content of all regular files that no revision before has
// stored, on all processors.
func (p *publication) storeFiles(root *Node) error {
	todo := make(map[objectKey]string)
	p.missing(todo, "", root)
	var mu sync.Mutex // guards repo.objects
	g, ctx := errgroup.WithContext(p.ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for key, path := range todo {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			o, err := p.storeFile(path, key.node)
			if err != nil {
				return fmt.Errorf("store %q: %w", path, err)
			}
			mu.Lock()
			defer mu.Unlock()
			p.repo.objects[key] = o
			return nil
		})
	}
	return g.Wait()
}

func (p *publication) missing(todo map[objectKey]string, at string, dir *Node) {
	for name, n := range dir.children {
		path := at + "/" + name
		if n.isDir() {
			p.missing(todo, path, n)
		} else if key := p.key(path, n); n.isRegular() {
			if _, ok := p.repo.objects[key]; !ok {
				todo[key] = path
			}
		}
	}
}

func (p *publication) storeFile(path string, n *Node) (o object, err error) {
	if n.content.open == nil {
		return o, errors.New("a regular file without content")
	}
	r, err := n.content.open()
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	opt, size, external := p.repo.opt, n.content.size, p.external(n)
	piece, suffix := size, hash.File
	if opt.ChunkSize > 0 && size > opt.ChunkSize {
		piece, suffix = opt.ChunkSize, hash.Chunk
	}
	var whole []byte // only where it is needed as one
	keep := external || opt.Bulk && suffix == hash.Chunk
	for offset, done := int64(0), false; !done; offset += piece {
		b := make([]byte, min(piece, size-offset))
		if _, err := io.ReadFull(r, b); err != nil {
			return o, fmt.Errorf("it is shorter than the %d bytes it should have: %w", size, err)
		}
		h, err := p.storePiece(b, suffix, external)
		if err != nil {
			return o, err
		}
		if suffix == hash.File {
			o.hash = h
		} else {
			o.chunks = append(o.chunks, catalog.Chunk{Offset: offset, Size: int64(len(b)), Hash: h})
		}
		if keep {
			whole = append(whole, b...)
		}
		done = offset+piece >= size // an empty file is one empty piece
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 || err != io.EOF {
		return o, fmt.Errorf("it is longer than the %d bytes it should have (%w)", size, err)
	}
	switch {
	case external:
		err = p.repo.External.WriteFile(strings.TrimPrefix(path, "/"), whole)
	case keep:
		o.hash, err = p.storePiece(whole, hash.File, false)
	}
	return o, err
}

// storePiece stores a file or a chunk. Of external ones only the hash is taken,
// over the plain bytes.
func (p *publication) storePiece(b []byte, s hash.Suffix, external bool) (hash.Hash, error) {
	opt := p.repo.opt
	if external {
		return hash.Sum(opt.Algorithm, b), nil
	}
	h, _, err := p.repo.Store.Put(b, Format{Algorithm: opt.Algorithm, Suffix: s, Plain: opt.Plain, Level: opt.Level})
	return h, err
}
