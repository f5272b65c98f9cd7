// Package image shows what storage holds as read-only volumes: a repository in
// its raw view, and each container image as one root tree.
//
// An image is a directory in CVMFS, or a single file, in CVMFS, on the host or on
// object storage, that holds a squashfs: a SIF, a bare squashfs, or one behind a
// `#!` line.
//
// An image's identity is the hash of its content: of its own catalog for a
// directory in CVMFS, the file's own for a file there, one over the list of its
// chunks if it stands in chunks; for a file of the host, one over what stat(2)
// tells of it; on object storage, over its URL, length and ETag. Its tree is addressed by catalog and row alone, so that
// it never changes under a container that runs from it, whatever revision the
// repository moves to.
package image

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Spec says where an image's root tree is. It is derived from the repository
// and good for ever.
type Spec struct {
	Kind    string `json:"kind,omitempty"`
	FQRN    string `json:"fqrn,omitempty"`
	Catalog string `json:"catalog,omitempty"` // content hash
	Size    int64  `json:"size"`              // bytes: of the catalog, KindHostFile: of the file
	Mount   string `json:"mount,omitempty"`
	Row     int64  `json:"row,omitempty"`   // 0: the catalog's root
	Host    string `json:"host,omitempty"`  // KindHostFile: absolute path
	Dev     uint64 `json:"dev,omitempty"`   // KindHostFile
	Inode   uint64 `json:"inode,omitempty"` // KindHostFile
	MTime   int64  `json:"mtime,omitempty"` // KindHostFile: nanoseconds since 1970

	Blob blob.File `json:"blob,omitzero"` // KindBlob; FQRN is the bucket's name
}

// What an image is.
const (
	KindDirectory = ""     // a directory in a repository
	KindFile      = "file" // a file in a repository
	KindHostFile  = "host" // a file of the host
	KindBlob      = "blob" // a file on object storage
)

// Images opens image trees and raw views. Safe for concurrent use.
type Images struct {
	repos  map[string]*cvmfs.Repository // by FQRN
	raws   map[string]*Raw
	blobs  map[string]*blob.Bucket // by name
	table  volume.Table
	points func() []string
	views  sync.Map // image id and FQRN -> *view

	watches  sync.Map        // image id -> *watch
	squashes sync.Map        // key -> *squash
	blocks   *squashfs.Cache // of all squashes
	verifier *verifier       // nil: signatures are not looked at
	log      *slog.Logger

	hostFiles *lru.Cache[Spec, *hostHandle] // open images of the host
	places    sync.Map                      // Spec.identity of an image of the host -> its path
	contents  sync.Map                      // Spec.identity of an image of the host -> its SHA-256
	hashing   chan struct{}                 // holds who makes one
	memo      cvmfs.Memo                    // nil: neither is kept
}

// New makes the images of repos. points lists the top-level names that the
// host's root directory has; see BindPoints.
func New(repos []*cvmfs.Repository, table volume.Table, points func() []string) *Images {
	s := &Images{repos: map[string]*cvmfs.Repository{}, raws: map[string]*Raw{}, blobs: map[string]*blob.Bucket{}, table: table, points: points, blocks: squashfs.NewCache(squashfs.Limits{}), hostFiles: newHostFiles(), hashing: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler)}
	for _, r := range repos {
		s.repos[r.FQRN()] = r
		s.raws[r.FQRN()] = NewRaw(r, table)
	}
	return s
}

// Tell has log told what people should know of images. It is to be called before
// anything is opened.
func (s *Images) Tell(log *slog.Logger) { s.log = log }

// BlockBytes is how much of single-file images is kept inflated, in bytes.
func (s *Images) BlockBytes() int64 {
	metadata, data := s.blocks.Bytes()
	return metadata + data
}

// Close closes the host's files and ends what runs in the background. Nothing may be read any more.
func (s *Images) Close() {
	s.verifier.close()
	s.hostFiles.Purge()
}

// Holds reports whether the place that spec names is among the sources still.
func (s *Images) Holds(spec Spec) bool {
	switch spec.Kind {
	case KindHostFile:
		return true
	case KindBlob:
		return s.blobs[spec.FQRN] != nil
	}
	return s.repos[spec.FQRN] != nil
}

// Repository returns the one that an image lies in; nil for one of the host.
func (s *Images) Repository(spec Spec) *cvmfs.Repository { return s.repos[spec.FQRN] }

// Raw returns the raw view of a repository, nil if there is none of that name.
func (s *Images) Raw(fqrn string) *Raw { return s.raws[fqrn] }

// Identify names the image whose root directory, or file, is e, by content. It fetches
// nothing that finding e did not.
func (s *Images) Identify(ctx context.Context, repo *cvmfs.Repository, e cvmfs.Entry) (id string, spec Spec, err error) {
	if e.IsRegular() {
		return identifyFile(ctx, repo, e)
	}
	ref, ok, err := repo.Attached(ctx, e)
	if err != nil {
		return "", spec, err
	}
	spec.FQRN = repo.FQRN()
	if ok {
		spec.Catalog, spec.Size, spec.Mount = ref.Hash.String(), ref.Size, ref.Mount
		return spec.Catalog, spec, nil
	}
	spec.Catalog, spec.Size, spec.Mount, spec.Row = e.Ref.Hash.String(), e.Ref.Size, e.Ref.Mount, e.Ref.Row
	sum := sha1.Sum([]byte(spec.Catalog + "\x00" + strconv.FormatInt(spec.Row, 10)))
	return hex.EncodeToString(sum[:]), spec, nil
}

// identifyFile is Identify of a file.
func identifyFile(ctx context.Context, repo *cvmfs.Repository, e cvmfs.Entry) (id string, spec Spec, err error) {
	spec = Spec{Kind: KindFile, FQRN: repo.FQRN(), Catalog: e.Ref.Hash.String(), Size: e.Ref.Size, Mount: e.Ref.Mount, Row: e.Ref.Row}
	if !e.IsChunked() {
		return e.Hash.String(), spec, nil
	}
	chunks, err := repo.Chunks(ctx, e.Ref)
	if err != nil {
		return "", spec, err
	}
	sum := sha1.New()
	for _, c := range chunks {
		fmt.Fprintf(sum, "%s %d %d\n", c.Hash, c.Offset, c.Size)
	}
	return hex.EncodeToString(sum.Sum(nil)), spec, nil
}

// place says where in which repository an image is.
func (s *Images) place(spec Spec) (*cvmfs.Repository, cvmfs.CatalogRef, error) {
	repo, ok := s.repos[spec.FQRN]
	if !ok {
		return nil, cvmfs.CatalogRef{}, fmt.Errorf("no source is named %s any more", spec.FQRN)
	}
	h, err := hash.Parse(spec.Catalog)
	return repo, cvmfs.CatalogRef{Hash: h, Size: spec.Size, Mount: spec.Mount}, err
}

// Root opens the root tree of the image id. ErrRefused is returned for a file
// that holds none.
func (s *Images) Root(ctx context.Context, id string, spec Spec) (volume.Child, error) {
	if spec.Kind != KindDirectory {
		return s.squashRoot(ctx, id, spec)
	}
	repo, ref, err := s.place(spec)
	if err != nil {
		return volume.Child{}, fmt.Errorf("image %s: %w", id, err)
	}
	var e cvmfs.Entry
	if spec.Row == 0 {
		e, err = repo.Resolve(ctx, ref, ref.Mount)
	} else {
		e, err = repo.Stat(ctx, cvmfs.Ref{CatalogRef: ref, Row: spec.Row})
	}
	if err != nil {
		return volume.Child{}, fmt.Errorf("image %s: %w", id, err)
	}
	v := s.view(repo, id)
	r := newRoot(volume.Node{Volume: v.at(ref), Entry: uint64(e.Ref.Row)}, s.table, s.points)
	r.enter = v.foresee(cvmfs.Ref{CatalogRef: ref, Row: e.Ref.Row}).enter
	return volume.Child{Node: volume.Node{Volume: r, Entry: rootEntry}, Name: "rootfs", Attr: v.attr(e), Valid: volume.Forever}, nil
}

func (s *Images) view(repo *cvmfs.Repository, id string) *view {
	v, _ := s.views.LoadOrStore(repo.FQRN()+"\x00"+id, &view{repo: repo, name: id, watch: s.watch(id)})
	return v.(*view)
}

// Open makes the volume of a key that an earlier daemon gave a number.
func (s *Images) Open(key string) (volume.Volume, error) {
	if fqrn, ok := strings.CutPrefix(key, rawPrefix); ok {
		if raw := s.raws[fqrn]; raw != nil {
			return raw, nil
		}
		return nil, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
	}
	if rest, ok := strings.CutPrefix(key, rootPrefix); ok {
		entry, inner, _ := strings.Cut(rest, "\x00")
		n, err := strconv.ParseUint(entry, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
		}
		v, err := s.Open(inner)
		if err != nil {
			return nil, err
		}
		r := newRoot(volume.Node{Volume: v, Entry: n}, s.table, s.points)
		if c, ok := v.(*catalogVolume); ok {
			r.enter = c.view.foresee(c.at(n)).enter
		}
		return r, nil
	}
	if strings.HasPrefix(key, wholePrefix) {
		id, spec, err := takeApart(wholePrefix, key)
		if err != nil || !s.Holds(spec) {
			return nil, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
		}
		return newWhole(s, id, spec), nil
	}
	if strings.HasPrefix(key, squashPrefix) {
		id, spec, err := takeApart(squashPrefix, key)
		if err != nil || !s.Holds(spec) {
			return nil, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
		}
		return s.squash(id, spec), nil
	}
	fqrn, name, ref, err := parseCatalogKey(key)
	if err != nil {
		return nil, err
	}
	raw := s.raws[fqrn]
	switch {
	case raw == nil:
		return nil, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
	case name == "":
		return raw.view.at(ref), nil
	}
	return s.view(s.repos[fqrn], name).at(ref), nil
}

// Format writes a spec for keeping; ParseSpec reads it.
func (p Spec) Format() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of texts and numbers
	}
	return b
}

// ParseSpec reads what Format wrote.
func ParseSpec(b []byte) (p Spec, err error) {
	err = json.Unmarshal(b, &p)
	return p, err
}

// BindPoints lists the host's top-level directories, those behind links too.
// It looks at the root directory only, so that it wakes no automounter.
func BindPoints() []string {
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() || e.Type()&os.ModeSymlink != 0 {
			names = append(names, e.Name())
		}
	}
	return names
}
