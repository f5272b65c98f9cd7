package cvmfs

import (
	"context"
	"fmt"
	"net/url"
	"sort"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// maxFiles is how many files' rows and chunk lists are remembered, since READ
// names nothing but the row. A chunk list of a 26 GB image has about 4,000
// chunks of 48 bytes.
const maxFiles = 2048

// fileKey is a Ref without what is no part of its identity.
type fileKey struct {
	catalog hash.Hash
	mount   string // an external file's URL depends on it
	row     int64
}

// file is what reading needs of a regular file.
type file struct {
	row    catalog.Row
	chunks []catalog.Chunk // in order, from 0 to the file's size
	url    string          // external data

	readers streams // who goes through it from front to back
}

// file looks up the row and the chunks of a regular file.
func (r *Repository) file(ctx context.Context, ref Ref) (*file, error) {
	key := fileKey{ref.Hash, ref.Mount, ref.Row}
	if f, ok := r.files.Get(key); ok {
		observe(ctx, catalogObject(ref.Hash, ref.Size))
		return f, nil
	}
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return nil, err
	}
	defer c.release()
	row, err := c.ByID(ctx, ref.Row)
	if err != nil {
		return nil, fmt.Errorf("cvmfs: entry %d of catalog %s: %w", ref.Row, ref.Hash, err)
	}
	if !row.IsRegular() {
		return nil, fmt.Errorf("cvmfs: %q is no regular file: %w", row.Name, catalog.ErrUnsupported)
	}
	f := &file{row: row}
	if row.IsChunked() {
		f.chunks, err = c.Chunks(ctx, row)
	} else if row.Size > 0 {
		f.chunks = []catalog.Chunk{{Offset: 0, Size: row.Size, Hash: row.Hash}}
	}
	if err == nil && row.IsExternal() {
		f.url, err = r.externalURL(ctx, c, ref, row)
	}
	if err != nil {
		return nil, fmt.Errorf("cvmfs: %q: %w", row.Name, err)
	}
	r.files.Add(key, f)
	return f, nil
}

// externalURL is where the bytes of an external file lie: the path in the
// repository below the configured URL.
func (r *Repository) externalURL(ctx context.Context, c *openCatalog, ref Ref, row catalog.Row) (string, error) {
	if r.opts.ExternalURL == "" {
		return "", fmt.Errorf("its bytes lie outside the repository: set external_url for %s in the configuration", r.opts.FQRN)
	}
	path, err := c.PathOf(ctx, row)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(r.opts.ExternalURL, "/") + escape(ref.place(c, path)), nil
}

// escape percent-escapes a path of any bytes and leaves the slashes.
func escape(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// object says how chunk i of f is fetched.
func (f *file) object(i int) object {
	c := f.chunks[i]
	o := object{hash: c.Hash, compression: f.row.Compression, size: c.Size}
	switch {
	case f.row.IsExternal():
		o.url = f.url
		if f.row.IsChunked() {
			o.span = &[2]int64{c.Offset, c.Size}
		}
	case f.row.IsChunked():
		o.suffix = hash.Chunk
	}
	return o
}

// ReadAt fills p from offset off of the regular file at ref. It fetches the
// chunks that the range touches and no others. Fewer than len(p) bytes without
// an error mean that the file ends there.
func (r *Repository) ReadAt(ctx context.Context, ref Ref, p []byte, off int64) (int, error) {
	f, err := r.file(ctx, ref)
	if err != nil {
		return 0, err
	}
	if off < 0 || off >= f.row.Size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), f.row.Size-off)]
	first := sort.Search(len(f.chunks), func(i int) bool { return f.chunks[i].Offset+f.chunks[i].Size > off })
	done := 0
	for i := first; done < len(p) && i < len(f.chunks); i++ {
		n, err := r.readChunk(ctx, f, i, p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (r *Repository) readChunk(ctx context.Context, f *file, i int, p []byte, off int64) (int, error) {
	if f.chunks[i].Hash.IsZero() {
		return 0, fmt.Errorf("cvmfs: %q: %w: no content hash", f.row.Name, catalog.ErrCorrupt)
	}
	inner := off - f.chunks[i].Offset
	p = p[:min(int64(len(p)), f.chunks[i].Size-inner)]
	r.lookAhead(ctx, f, i, off, int64(len(p)))
	h, err := r.objects.get(ctx, f.object(i))
	if err != nil {
		return 0, fmt.Errorf("%w (file %q)", err, f.row.Name)
	}
	defer h.release()
	return h.ReadAt(p, inner)
}

// ReadFile returns the whole content of a small file, at most limit bytes.
func (r *Repository) ReadFile(ctx context.Context, e Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("cvmfs: %q has %d bytes; at most %d are read", e.Name, e.Size, limit)
	}
	b := make([]byte, e.Size)
	n, err := r.ReadAt(ctx, e.Ref, b, 0)
	return b[:n], err
}

// Readlink returns the target of the symbolic link at ref, with its variables
// replaced from the environment.
func (r *Repository) Readlink(ctx context.Context, ref Ref) (string, error) {
	e, err := r.Stat(ctx, ref)
	if err != nil {
		return "", err
	}
	if !e.IsSymlink() {
		return "", ErrNotLink
	}
	return r.Expand(e.Symlink), nil
}

// Expand replaces $(NAME) and $(NAME:-default) in a link's text.
func (r *Repository) Expand(link string) string { return catalog.Expand(link, r.opts.Getenv) }

// Xattrs returns the extended attributes that are stored with ref.
func (r *Repository) Xattrs(ctx context.Context, ref Ref) ([]catalog.Xattr, error) {
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return nil, err
	}
	defer c.release()
	return c.Xattrs(ctx, ref.Row)
}

// LinkLeader returns the row that stands for all names of e's hard link group,
// so that they share one inode; e's own row where it has no group.
func (r *Repository) LinkLeader(ctx context.Context, e Entry) (int64, error) {
	if e.LinkGroup() == 0 {
		return e.Ref.Row, nil
	}
	c, err := r.catalogs.get(ctx, e.Ref.Hash, e.Ref.Size)
	if err != nil {
		return 0, err
	}
	defer c.release()
	return c.FirstOfGroup(ctx, e.LinkGroup())
}
