// Package cvmfs reads signed CVMFS repositories over HTTP.
//
// A Repository is opened at one revision: the manifest names the root catalog
// by its hash, catalogs name nested catalogs and files by theirs, so all that
// follows is immutable. Entries are addressed by Ref, a row of a catalog at the
// place where it is attached; a Ref stays good whatever becomes of the
// repository's revision.
//
// Every byte is verified where it enters: master key, whitelist, certificate,
// manifest (cvmfs/trust), then content hashes. What fails is not stored.
//
// LOCK ORDER: catalogs.mu before objects.mu; neither is held during I/O other
// than opening a local file. shelf.mu is a leaf.
package cvmfs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

// Memo remembers small derived data from one run to the next. It may forget at
// any time. Safe for concurrent use.
type Memo interface {
	Get(bucket, key string) ([]byte, bool)
	// Put keeps a value; nil removes it.
	Put(bucket, key string, value []byte)
}

// Options say which repository, and what it is read through.
type Options struct {
	FQRN          string // its name, as in the manifest
	Keys          trust.Keys
	BlacklistFile string // the site's; read at each look at the manifest; "": none
	// BlacklistMayLack says nothing where that file is not there.
	BlacklistMayLack bool
	Net              *fetch.Client // the servers' URLs end in the FQRN
	Store            cache.Store
	Quota            int64 // of the store, bytes, of which open objects take a part at most; 0: none
	// Sharing is how many repositories share the store and the process's descriptors,
	// this one included: each keeps its part of them open. Default 1.
	Sharing int
	// Claim keeps other processes that share the store from fetching a key, until
	// the function that it returns is called. Nil: there are none.
	Claim func(ctx context.Context, key string) (release func(), err error)
	Memo  Memo
	Tiers []*tier.Tier // shared directories, asked before the network
	Fill  *tier.Tier   // one of Tiers, which takes what the network brings; nil: none does
	// AllowExpired takes a whitelist whose date is over, for sites that no
	// network reaches. Its signature and all else must hold.
	AllowExpired bool

	// At most one pin: a tag's name, a tagged revision, the newest tag of the
	// trunk that is not after a time, or the root catalog's hash, which is then
	// all that is trusted.
	Tag      string
	Revision uint64
	Date     time.Time
	RootHash string

	// Resume is the head that an earlier process showed: it is shown again, and
	// nothing is fetched for it. Nil: the newest is.
	Resume *Head

	ExternalURL string                      // where external data lie
	Getenv      func(string) (string, bool) // for variant symlinks; default os.LookupEnv
	Now         func() time.Time            // default time.Now
	Logger      *slog.Logger

	// Serial fetches nothing before it is asked for, as the reference client
	// does: what look-ahead and prefetch are measured against.
	Serial bool
}

// Repository is a repository that was opened. Safe for concurrent use.
type Repository struct {
	opts     Options
	log      *slog.Logger
	objects  *objects
	catalogs *catalogs
	files    *lru.Cache[fileKey, *file]
	head     atomic.Pointer[Head]
	expired  atomic.Pointer[time.Time] // the date of the whitelist that was verified last, if it is over

	refreshing  sync.Mutex // held by the one look at the manifest
	noBlacklist sync.Once  // warns of a blacklist that does not exist
}

// Open verifies the repository and loads its root catalog. It keeps asking
// servers until ctx ends.
func Open(ctx context.Context, o Options) (*Repository, error) {
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Sharing = max(o.Sharing, 1)
	files, err := lru.New[fileKey, *file](maxFiles)
	if err != nil {
		return nil, err
	}
	r := &Repository{opts: o, log: o.Logger, files: files}
	r.objects = newObjects(o)
	r.catalogs = newCatalogs(r.objects, o.Sharing)
	if err := r.start(ctx); err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: %w", o.FQRN, err)
	}
	return r, nil
}

// start finds the head and loads what it names.
func (r *Repository) start(ctx context.Context) error {
	if r.opts.Resume != nil {
		head := *r.opts.Resume
		if head.AltRoot {
			r.objects.alt.Store(&head.Root.Hash)
		}
		r.head.Store(&head)
		return nil
	}
	head, err := r.locate(ctx)
	if err == nil {
		err = r.load(ctx, head)
	}
	if err != nil {
		return err
	}
	if err := r.keep(ctx, head); err != nil {
		return err
	}
	r.head.Store(head)
	return nil
}

// load fetches and checks the root catalog of head, and that the revision is not
// forbidden, which for a pin no manifest tells.
func (r *Repository) load(ctx context.Context, head *Head) error {
	root, err := r.catalogs.get(ctx, head.Root.Hash, head.Root.Size)
	if err != nil {
		return fmt.Errorf("root catalog: %w", err)
	}
	defer root.release()
	if _, err := root.Root(ctx); err != nil {
		return fmt.Errorf("root catalog %s: %w", head.Root.Hash, err)
	}
	if ttl := root.TTL(); ttl > 0 {
		head.TTL = ttl // the catalog's goes before the manifest's
	}
	if head.Revision == 0 {
		head.Revision = root.Revision()
	}
	return r.permitted(head)
}

// At opens the revision whose root catalog is h, besides the one that is shown. All that is found from there is verified
// by hashes, down from h, but nothing says that h was ever signed: it is as trustworthy as whoever named it. Of a revision
// that the blacklist forbids an error is returned that wraps ErrBlacklisted; of one that no server has, fetch.ErrNotFound.
func (r *Repository) At(ctx context.Context, h hash.Hash) (Head, error) {
	head := Head{Root: CatalogRef{Hash: h}, Pinned: true, Checked: r.opts.Now()}
	if err := r.load(ctx, &head); err != nil {
		return Head{}, fmt.Errorf("%s: %w", r.opts.FQRN, err)
	}
	return head, nil
}

// Head returns the revision that is shown. The value is not changed any more.
func (r *Repository) Head() Head { return *r.head.Load() }

// FQRN returns the repository's name.
func (r *Repository) FQRN() string { return r.opts.FQRN }

// Root returns the root directory's entry at the revision that is shown.
func (r *Repository) Root(ctx context.Context) (Entry, error) {
	return r.Resolve(ctx, r.Head().Root, "")
}

// Entries counts all entries of the repository, as its root catalog says.
func (r *Repository) Entries(ctx context.Context) (uint64, error) {
	head := r.Head()
	root, err := r.catalogs.get(ctx, head.Root.Hash, head.Root.Size)
	if err != nil {
		return 0, err
	}
	defer root.release()
	stats, err := root.Statistics(ctx)
	return uint64(max(0, stats.Self.Entries()+stats.Subtree.Entries())), err
}

// Stats returns the network's counters.
func (r *Repository) Stats() fetch.Stats { return r.opts.Net.Stats() }

// Held is what a repository keeps in memory, or open.
type Held struct {
	Catalogs int   `json:"catalogs"`         // open; at most 48 of up to 0.7 MiB
	Objects  int   `json:"open_objects"`     // descriptors; at most 512
	InMemory int64 `json:"in_memory_bytes"`  // open objects that the failing disk does not take; at most 64 MiB
	Incoming int64 `json:"incoming_bytes"`   // of objects that are being read whole; at most 64 MiB
	Files    int   `json:"remembered_files"` // rows and chunk lists; at most 2,048
}

// Held counts what is in memory or open now.
func (r *Repository) Held() Held {
	r.objects.mu.Lock()
	inMemory := r.objects.inMemory
	r.objects.mu.Unlock()
	return Held{
		Catalogs: r.catalogs.open.Len(), Objects: r.objects.open.Len(), InMemory: inMemory,
		Incoming: r.objects.intake.stored.Load(), Files: r.files.Len(),
	}
}

// Idle closes what is only kept open for the next reader, so that the cache may
// let go of it. Requests under way are not disturbed.
func (r *Repository) Idle() {
	r.catalogs.close()
	r.objects.close()
}

// Close ends what is in the background and closes what is open. Of the requests
// under way, those end that wait for the network.
func (r *Repository) Close() {
	r.opts.Net.Close()
	r.catalogs.close()
	r.objects.close()
}
