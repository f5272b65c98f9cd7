package cvmfstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Options say what a repository is like. Only FQRN must be set.
type Options struct {
	FQRN      string
	Keys      *Keys          // default: new ones
	Store     *Store         // where objects go; default: a new one in memory
	External  *Store         // where the bytes of external files go; default: a new one in memory
	Algorithm hash.Algorithm // default: SHA-1 (MD5 names no object)
	Plain     bool           // store files as they are; catalogs are zlib streams all the same
	Level     int            // of zlib, 1 to 9; default 6
	ChunkSize int64          // bytes; larger files are cut in chunks of this size; default 0: never
	Bulk      bool           // store chunked files as one object too, as old servers did
	TTL       time.Duration  // default 240 s
	MetaInfo  []byte         // JSON; default: a few lines
	Expires   time.Time      // of the whitelist; default: 30 days from now
	AltPath   bool           // the manifest says A yes
	Collect   bool           // the manifest says G yes

	AllExternal bool             // every regular file is external
	Now         func() time.Time // default: time.Now

	// Alter, if set, changes rows, and Forge databases, before they are hashed and
	// signed for: that is a hostile publisher.
	Alter func(e *catalog.Entry)
	Forge func(path string, database []byte) []byte
}

// A Repository is published step by step. Safe for concurrent use.
type Repository struct {
	FQRN            string
	Keys            *Keys
	Store, External *Store
	Certificate     []byte // PEM

	opt  Options
	cert hash.Hash
	meta hash.Hash

	mu        sync.Mutex // guards all below
	revisions []*Revision
	tags      []catalog.Tag
	objects   map[objectKey]object
	catalogs  map[string]built // the newest by path
}

// A Revision is what one Publish made.
type Revision struct {
	Number   uint64
	Root     hash.Hash // root catalog
	RootSize int64     // bytes, inflated
	History  hash.Hash
	Manifest []byte

	paths map[string][]string
}

// Objects are the names, below the web root, of the objects that hold the file
// at path (in order, if it is chunked). Of a directory at which a catalog starts
// ("" is the root) it is the catalog. External files have none.
func (r *Revision) Objects(path string) []string { return r.paths[strings.Trim(path, "/")] }

// New makes a repository without any revision: a client sees it from the first
// Publish on.
func New(opt Options) (*Repository, error) {
	if opt.FQRN == "" || strings.ContainsAny(opt.FQRN, "/\n") {
		return nil, fmt.Errorf("cvmfstest: %q is no name of a repository", opt.FQRN)
	}
	opt.setDefaults()
	if opt.Keys == nil {
		k, err := NewKeys()
		if err != nil {
			return nil, err
		}
		opt.Keys = k
	}
	r := &Repository{
		FQRN: opt.FQRN, Keys: opt.Keys, Store: opt.Store, External: opt.External, opt: opt,
		objects: make(map[objectKey]object), catalogs: make(map[string]built),
	}
	var err error
	if r.Certificate, err = opt.Keys.Certificate(opt.FQRN); err != nil {
		return nil, err
	}
	if r.cert, _, err = r.Store.Put(r.Certificate, r.format(hash.Certificate)); err != nil {
		return nil, err
	}
	if r.meta, _, err = r.Store.Put(opt.MetaInfo, r.format(hash.MetaInfo)); err != nil {
		return nil, err
	}
	return r, r.SignWhitelist(opt.Expires)
}

func (o *Options) setDefaults() {
	if o.Store == nil {
		o.Store = NewStore()
	}
	if o.External == nil {
		o.External = NewStore()
	}
	if o.Algorithm == hash.MD5 {
		o.Algorithm = hash.SHA1
	}
	if o.TTL == 0 {
		o.TTL = 240 * time.Second
	}
	if o.MetaInfo == nil {
		o.MetaInfo = []byte("{\n  \"administrator\" : \"cvmfstest\",\n  \"description\" : \"a repository for tests\"\n}\n")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Expires.IsZero() {
		o.Expires = o.Now().AddDate(0, 0, 30)
	}
}

// format is how catalogs and their like are stored.
func (r *Repository) format(s hash.Suffix) Format {
	return Format{Algorithm: r.opt.Algorithm, Suffix: s, Level: r.opt.Level}
}

// SignWhitelist puts a new whitelist in the store.
func (r *Repository) SignWhitelist(expires time.Time) error {
	w, err := r.Keys.Whitelist(r.FQRN, r.opt.Algorithm, r.Certificate, r.opt.Now(), expires)
	if err != nil {
		return err
	}
	return r.Store.WriteFile(".cvmfswhitelist", w)
}

// Publish makes t the next revision, from 1, and names it by tags as well. What
// earlier revisions need stays in the store. A nested catalog in which nothing
// changed keeps its hash.
func (r *Repository) Publish(ctx context.Context, t *Tree, tags ...string) (*Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rev, err := r.publish(ctx, t, tags)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: publish %s: %w", r.FQRN, err)
	}
	r.revisions = append(r.revisions, rev)
	return rev, nil
}

func (r *Repository) publish(ctx context.Context, t *Tree, tags []string) (_ *Revision, err error) {
	if t.err != nil {
		return nil, t.err
	}
	tmp, err := os.MkdirTemp("", "cvmfstest-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	p := &publication{
		repo: r, ctx: ctx, tmp: tmp, now: r.opt.Now(),
		rev: &Revision{Number: uint64(len(r.revisions)) + 1, paths: make(map[string][]string)},
	}
	if err := p.storeFiles(t.root); err != nil {
		return nil, err
	}
	root, err := p.catalog("", t.root)
	if err != nil {
		return nil, err
	}
	p.rev.Root, p.rev.RootSize = root.hash, root.size
	if err := p.history(tags); err != nil {
		return nil, err
	}
	if p.rev.Manifest, err = p.manifest(); err != nil {
		return nil, err
	}
	return p.rev, r.Store.WriteFile(".cvmfspublished", p.rev.Manifest)
}

// Serve makes an older revision the current one, as a server that lags behind or
// was restored shows it. The next Publish follows the newest all the same.
func (r *Repository) Serve(number uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number == 0 || number > uint64(len(r.revisions)) {
		return fmt.Errorf("cvmfstest: %s has no revision %d", r.FQRN, number)
	}
	return r.Store.WriteFile(".cvmfspublished", r.revisions[number-1].Manifest)
}

// history writes the tags: the named ones of all revisions, and trunk and
// trunk-previous as the real tool does.
func (p *publication) history(names []string) error {
	r := p.repo
	now := catalog.Tag{Hash: p.rev.Root, Revision: p.rev.Number, Timestamp: p.now.UTC().Truncate(time.Second), Size: p.rev.RootSize}
	named := r.tags[:len(r.tags):len(r.tags)]
	for _, n := range names {
		t := now
		t.Name, t.Description = n, "tag "+n
		named = append(named, t)
	}
	all := named[:len(named):len(named)]
	if old := p.previous(); old != nil {
		t := catalog.Tag{Name: "trunk-previous", Description: "default undo target", Hash: old.Root, Revision: old.Number, Timestamp: now.Timestamp, Size: old.RootSize}
		all = append(all, t)
	}
	now.Name, now.Description = "trunk", "current HEAD"
	file := filepath.Join(p.tmp, "history")
	if err := catalog.CreateHistory(file, r.FQRN, append(all, now)); err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	p.rev.History, _, err = r.Store.Put(b, r.format(hash.History))
	if err == nil {
		r.tags = named
	}
	return err
}

// previous is the revision before the one being made, or nil.
func (p *publication) previous() *Revision {
	if n := len(p.repo.revisions); n > 0 {
		return p.repo.revisions[n-1]
	}
	return nil
}

// manifest has the fields in the order in which the real tool writes them.
func (p *publication) manifest() ([]byte, error) {
	r := p.repo
	yes := map[bool]string{true: "yes", false: "no"}
	body := fmt.Appendf(nil, "C%s\nB%d\nR%s\nD%d\nS%d\nG%s\nA%s\nN%s\nX%s\nH%s\nT%d\nM%s\n",
		p.rev.Root, p.rev.RootSize, hash.Sum(hash.MD5, nil), int64(r.opt.TTL/time.Second), p.rev.Number,
		yes[r.opt.Collect], yes[r.opt.AltPath], r.FQRN, r.cert, p.rev.History, p.now.Unix(), r.meta)
	return r.Keys.SignManifest(r.opt.Algorithm, body)
}
