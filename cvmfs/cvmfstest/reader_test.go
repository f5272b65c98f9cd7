package cvmfstest

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

func mustInflate(t *testing.T, b []byte) []byte {
	t.Helper()
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustOpen(t *testing.T, s fs.FS, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(s, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sharedKeys spare most tests the making of keys.
var sharedKeys = func() *Keys {
	k, err := NewKeys()
	if err != nil {
		panic(err)
	}
	return k
}()

func mustPublish(t *testing.T, o Options, tree *Tree, tags ...string) (*Repository, *Revision) {
	t.Helper()
	if o.Keys == nil {
		o.Keys = sharedKeys
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := r.Publish(t.Context(), tree, tags...)
	if err != nil {
		t.Fatal(err)
	}
	return r, rev
}

// A reader is a minimal client: it believes nothing that is not signed or hashed.
type reader struct {
	t        *testing.T
	base     string // URL
	external string
	files    map[string]catalog.Row // by path
	text     map[string]string      // by path: what a row says, in words
	catalogs map[string]hash.Hash
}

// readRepository checks the chain and reads everything below the root catalog.
func readRepository(t *testing.T, s *Server, repo *Repository) (*trust.Manifest, *reader) {
	t.Helper()
	r := &reader{t: t, base: s.RepositoryURL(repo.FQRN), external: s.RepositoryURL(repo.FQRN + ".external"),
		files: make(map[string]catalog.Row), text: make(map[string]string), catalogs: make(map[string]hash.Hash)}
	p, err := repo.Keys.MasterPEM()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ParseKeys(p)
	if err != nil {
		t.Fatal(err)
	}
	e := trust.Evidence{Manifest: mustGet(t, r.base+"/.cvmfspublished"), Whitelist: mustGet(t, r.base+"/.cvmfswhitelist")}
	m, err := trust.ParseManifest(e.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	e.Certificate = mustInflate(t, r.object(m.Certificate, hash.Certificate))
	if m, err = trust.Verify(e, trust.Policy{FQRN: repo.FQRN, Keys: keys, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	r.catalog("", m.RootCatalog, m.RootSize)
	return m, r
}

func (r *reader) object(h hash.Hash, s hash.Suffix) []byte {
	r.t.Helper()
	b := mustGet(r.t, r.base+"/"+h.Path(s))
	if hash.Sum(h.Algorithm, b) != h {
		r.t.Errorf("object %s has another hash", h.Path(s))
	}
	return b
}

func (r *reader) catalog(path string, h hash.Hash, size int64) {
	t := r.t
	t.Helper()
	raw := mustInflate(t, r.object(h, hash.Catalog))
	if int64(len(raw)) != size {
		t.Errorf("catalog %q has %d bytes, told were %d", path, len(raw), size)
	}
	c, err := catalog.OpenBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Prefix() != path {
		t.Errorf("catalog of %q says it is of %q", path, c.Prefix())
	}
	r.catalogs[path] = h
	root, err := c.Root(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if path != "" && !root.IsNestedRoot() {
		t.Errorf("catalog %q: its top is not marked", path)
	}
	r.row(c, path, root)
	nested, err := c.Nested(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r.below(c, path, nested)
}

func (r *reader) below(c *catalog.Catalog, path string, nested []catalog.Nested) {
	var rows []catalog.Row
	err := c.Children(context.Background(), catalog.HashPath(path), math.MinInt64, func(row catalog.Row) bool {
		rows = append(rows, row)
		return true
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, row := range rows {
		p := path + "/" + row.Name
		r.row(c, p, row)
		switch {
		case row.IsNestedMount():
			for _, n := range nested {
				if n.Path == p {
					r.catalog(p, n.Hash, n.Size)
				}
			}
			if _, ok := r.catalogs[p]; !ok {
				r.t.Errorf("%q is a mountpoint without catalog", p)
			}
		case row.IsDir():
			r.below(c, p, nested)
		}
	}
}

// row notes what a row says, with the hash of the content.
func (r *reader) row(c *catalog.Catalog, path string, row catalog.Row) {
	t := r.t
	r.files[path] = row
	xattrs, err := c.Xattrs(context.Background(), row.ID)
	if err != nil {
		t.Fatal(err)
	}
	x := make(map[string]string)
	for _, a := range xattrs {
		x[a.Name] = string(a.Value)
	}
	var content []byte
	if row.IsRegular() {
		content = r.content(c, path, row)
		if int64(len(content)) != row.Size {
			t.Errorf("%q has %d bytes, the catalog says %d", path, len(content), row.Size)
		}
	}
	r.text[path] = describe(row.Mode, row.UID, row.GID, row.Nlink(), time.Unix(row.MTime, int64(row.MTimeNsec)), row.Symlink, row.Rdev(), x, content)
}

func (r *reader) content(c *catalog.Catalog, path string, row catalog.Row) []byte {
	if row.IsExternal() {
		b := mustGet(r.t, r.external+(&url.URL{Path: path}).EscapedPath())
		if !row.Hash.IsZero() && hash.Sum(row.Hash.Algorithm, b) != row.Hash {
			r.t.Errorf("external %q has another hash", path)
		}
		return b
	}
	chunks, err := c.Chunks(context.Background(), row)
	if err != nil {
		r.t.Fatal(err)
	}
	if chunks == nil {
		return r.plain(row, r.object(row.Hash, hash.File))
	}
	var all []byte
	for _, k := range chunks {
		b := r.plain(row, r.object(k.Hash, hash.Chunk))
		if k.Offset != int64(len(all)) || k.Size != int64(len(b)) {
			r.t.Errorf("%q: chunk at %d has %d bytes, want %d", path, k.Offset, len(b), k.Size)
		}
		all = append(all, b...)
	}
	return all
}

func (r *reader) plain(row catalog.Row, stored []byte) []byte {
	if row.Compression == catalog.None {
		return stored
	}
	return mustInflate(r.t, stored)
}

// describe puts in words what must be the same on both sides.
func describe(mode, uid, gid, nlink uint32, mtime time.Time, target string, rdev uint64, xattrs map[string]string, content []byte) string {
	if strings.HasPrefix(fmt.Sprintf("%o", mode), "4") {
		nlink = 0 // of directories it depends on the file system
	}
	return fmt.Sprintf("%o %d:%d n%d %d %q %d %q %x", mode, uid, gid, nlink, mtime.UnixNano(), target, rdev, xattrs, sha256.Sum256(content))
}
