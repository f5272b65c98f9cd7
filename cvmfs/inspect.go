package cvmfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// maxMetaInfo bounds what is shown of a repository's description, bytes, as the
// reference client does.
const maxMetaInfo = 64 << 10

// ErrNoMetaInfo is returned for a repository that does not describe itself, or
// that is pinned to a root hash, which leads to no description.
var ErrNoMetaInfo = errors.New("the repository has no description")

// MetaInfo returns the repository's description, JSON by convention, at most
// 64 KiB, fetched if need be.
func (r *Repository) MetaInfo(ctx context.Context) ([]byte, error) {
	h := r.Head().MetaInfo
	if h.IsZero() {
		return nil, fmt.Errorf("%s: %w", r.opts.FQRN, ErrNoMetaInfo)
	}
	b, err := r.metadata(ctx, h, hash.MetaInfo, maxMetadata)
	if err == nil && len(b) > maxMetaInfo {
		err = fmt.Errorf("%s: its description has %d bytes, at most %d are read", r.opts.FQRN, len(b), maxMetaInfo)
	}
	return b, err
}

// Chunks lists the pieces of the regular file at ref: one, its whole content,
// where it is not cut. The slice is shared: do not change it.
func (r *Repository) Chunks(ctx context.Context, ref Ref) ([]catalog.Chunk, error) {
	f, err := r.file(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(f.chunks) == 0 { // an empty file is an object too
		return []catalog.Chunk{{Hash: f.row.Hash}}, nil
	}
	return f.chunks, nil
}

// LocalHash is the content hash of the local copy of e's whole content; ok is
// false when there is none. It fetches nothing. Content that is stored as it is
// is hashed anew. What is stored compressed is kept inflated here, so that its
// hash, which is over the compressed bytes, is the one it was verified by when
// it came in; that the copy is still what came in is for `cache verify` to say.
func (r *Repository) LocalHash(ctx context.Context, e Entry) (h hash.Hash, ok bool, err error) {
	o := object{hash: e.Hash, compression: e.Compression, size: e.Size}
	obj, err := r.objects.store.Open(o.key())
	if errors.Is(err, cache.ErrNotCached) {
		return h, false, nil
	}
	if err != nil {
		return h, false, err
	}
	defer obj.Close()
	if o.compression != catalog.None {
		return e.Hash, true, nil
	}
	digest := e.Hash.Algorithm.New()
	content := io.NewSectionReader(obj, 0, obj.Size())
	for { // in steps, so that a caller who goes away ends it
		n, err := io.CopyN(digest, content, 8<<20)
		if err == nil {
			err = ctx.Err()
		}
		if n == 0 && errors.Is(err, io.EOF) {
			return hash.Of(e.Hash.Algorithm, digest), true, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return h, false, err
		}
	}
}

// OpenCatalogs is how many catalogs are open.
func (r *Repository) OpenCatalogs() int { return r.catalogs.open.Len() }

// Tag returns the tag that the repository is pinned to by the configuration, "" for none.
func (r *Repository) Tag() string { return r.opts.Tag }

// ExternalURL is where external data are fetched from, "" when not configured.
func (r *Repository) ExternalURL() string { return r.opts.ExternalURL }

// Expires is how long the manifest is still believed; 0 when a look at it is
// due. It means nothing for a repository that is pinned.
func (r *Repository) Expires() time.Duration {
	head := r.Head()
	ttl := head.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	return max(0, head.Checked.Add(ttl).Sub(r.opts.Now()))
}
