package cvmfs

import (
	"context"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Damage is a set of objects whose copy in the cache turned out to be damaged.
type Damage struct{ digests map[string]bool }

// NewDamage makes the set of the objects that these keys of the cache name; other
// keys are left out.
func NewDamage(keys []string) Damage {
	d := Damage{map[string]bool{}}
	for _, key := range keys {
		if h, err := hash.Parse(strings.TrimSuffix(key, ".raw")); err == nil {
			d.digests[string(h.Digest())] = true
		}
	}
	return d
}

// Suspects lists the rows of a catalog whose content is, in part or whole, among
// the damaged; all of them if the catalog is. It is fetched if need be.
func (r *Repository) Suspects(ctx context.Context, ref CatalogRef, d Damage) ([]int64, error) {
	if len(d.digests) == 0 {
		return nil, nil
	}
	c, err := r.catalogs.get(ctx, ref.Hash, ref.Size)
	if err != nil {
		return nil, err
	}
	defer c.release()
	all := d.digests[string(ref.Hash.Digest())]
	return c.Holding(ctx, func(digest []byte) bool { return all || d.digests[string(digest)] })
}

// Suspect reports whether the content of the regular file at ref is, in part or
// whole, among the damaged.
func (r *Repository) Suspect(ctx context.Context, ref Ref, d Damage) (bool, error) {
	if len(d.digests) == 0 {
		return false, nil
	}
	chunks, err := r.Chunks(ctx, ref)
	for _, c := range chunks {
		if d.digests[string(c.Hash.Digest())] {
			return true, nil
		}
	}
	return false, err
}
