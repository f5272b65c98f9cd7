package tree

import (
	"context"
	"errors"
	"hash/fnv"
	iofs "io/fs"
	"slices"
	"sort"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const (
	// keptListing is how many names a directory must have for its listing to be
	// kept: the kernel asks for some 25 at a time, and to list and order all of them
	// each time would cost the square of their number.
	keptListing = 256
	// maxListings is how many are kept, of directories that were listed last.
	maxListings = 4
)

// place is a name in a listing, and where to go on behind it.
type place struct {
	cookie uint64
	name   string
}

// listing is a directory's, as it was when somebody began to read it.
type listing struct {
	index  *index // what the tree showed then
	places []place
}

// listings keeps those that are being read, by the directory's entry.
type listings = lru.Cache[uint64, listing]

func newListings() *listings {
	c, err := lru.New[uint64, listing](maxListings)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}

// ReadDir implements volume.Volume. The order is that of the names' hashes, so
// that a cookie stays good while names come and go.
func (t *Tree) ReadDir(ctx context.Context, dir, cookie uint64, fn func(volume.Child) bool) error {
	x := t.index.Load()
	d, err := t.open(dir)
	if err != nil {
		return err
	}
	if d.begin != nil && cookie == 0 {
		if err := d.begin(ctx); err != nil {
			return err
		}
	}
	l, ok := t.listings.Get(dir)
	if !ok || cookie == 0 || l.index != x {
		names, err := d.names(ctx)
		if err != nil {
			return err
		}
		l = listing{x, placed(names)}
		if len(names) >= keptListing {
			t.listings.Add(dir, l)
		}
	}
	if d.listed == nil {
		d.listed = d.child
	}
	for _, s := range l.places[sort.Search(len(l.places), func(i int) bool { return l.places[i].cookie > cookie }):] {
		c, err := d.listed(ctx, s.name)
		if errors.Is(err, iofs.ErrNotExist) {
			continue // it went since the names were listed
		}
		if err != nil {
			return err
		}
		c.Name, c.Cookie = s.name, s.cookie
		if !fn(c) {
			return nil
		}
	}
	return nil
}

// placed gives names their places.
func placed(names []string) []place {
	places := make([]place, len(names))
	for i, name := range names {
		h := fnv.New64a()
		h.Write([]byte(name))
		places[i] = place{h.Sum64()>>20<<16 + 1, name} // 44 bits, room for equals, never 0
	}
	slices.SortFunc(places, func(a, b place) int {
		if a.cookie != b.cookie {
			return int(int64(a.cookie) - int64(b.cookie)) // below 2^61: no overflow
		}
		return strings.Compare(a.name, b.name)
	})
	for i := 1; i < len(places); i++ {
		if places[i].cookie <= places[i-1].cookie {
			places[i].cookie = places[i-1].cookie + 1
		}
	}
	return places
}
