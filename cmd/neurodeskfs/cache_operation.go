package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// pinOwner is who pins what the command pin names.
const pinOwner = "user"

// cacheOperation carries out a request on an open cache, in the daemon or in the
// command itself.
type cacheOperation func(ctx context.Context, disk *cache.Disk, r controlRequest, progress func(step)) (controlAnswer, error)

var cacheOperations = map[string]cacheOperation{
	"cache list":     listCache,
	"cache verify":   verifyCache,
	"cache prune":    pruneCache,
	"cache clear":    clearCache,
	"cache pin":      pinObject,
	"cache unpin":    unpinObject,
	"cache evidence": listEvidence,
}

// CacheListing is what cache list --json prints. Sizes are bytes of content.
type CacheListing struct {
	Dir     string         `json:"dir"`
	Quota   int64          `json:"quota_bytes"`
	Used    int64          `json:"used_bytes"` // on disk, trailers included
	Objects []CachedObject `json:"objects"`    // most recently used first
	Pins    []CachePins    `json:"pins"`
}

// CachedObject is one object of a CacheListing.
type CachedObject struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size_bytes"`
	LastUsed time.Time `json:"last_used"`
	InUse    bool      `json:"in_use"`
	Owners   []string  `json:"pinned_by,omitempty"`
}

// CachePins sums up the pins of one owner.
type CachePins struct {
	Owner   string `json:"owner"`
	Objects int    `json:"objects"` // that are there
	Bytes   int64  `json:"bytes"`
	Absent  int    `json:"absent"`
}

func listCache(ctx context.Context, disk *cache.Disk, _ controlRequest, _ func(step)) (controlAnswer, error) {
	if err := cmp.Or(disk.Writable(), disk.Settle(ctx)); err != nil {
		return controlAnswer{}, err
	}
	stats := disk.Stats()
	l := CacheListing{Dir: stats.Dir, Quota: stats.QuotaBytes, Used: stats.UsedBytes, Objects: []CachedObject{}, Pins: []CachePins{}}
	sizes := make(map[string]int64)
	for _, e := range disk.List() {
		l.Objects = append(l.Objects, CachedObject{e.Key, e.Size, e.LastUsed.UTC(), e.InUse, e.Owners})
		sizes[e.Key] = e.Size
	}
	for _, p := range disk.Pins() {
		i := slices.IndexFunc(l.Pins, func(o CachePins) bool { return o.Owner == p.Owner })
		if i < 0 {
			i = len(l.Pins)
			l.Pins = append(l.Pins, CachePins{Owner: p.Owner})
		}
		if size, ok := sizes[p.Key]; ok {
			l.Pins[i].Objects++
			l.Pins[i].Bytes += size
		} else {
			l.Pins[i].Absent++
		}
	}
	slices.SortFunc(l.Pins, func(a, b CachePins) int { return strings.Compare(a.Owner, b.Owner) })
	return answerWith("", l)
}

// paced lets through what is worth a line on a screen: ten a second, and the last.
func paced(progress func(step)) func(step) {
	var next time.Time
	return func(p step) {
		if now := time.Now(); progress != nil && (now.After(next) || p.Checked == p.Objects) {
			next = now.Add(100 * time.Millisecond)
			progress(p)
		}
	}
}

func pruneCache(ctx context.Context, disk *cache.Disk, r controlRequest, _ func(step)) (controlAnswer, error) {
	if r.Target < 0 {
		return controlAnswer{}, fmt.Errorf("prune: the size %d is negative", r.Target)
	}
	if err := disk.Settle(ctx); err != nil {
		return controlAnswer{}, err
	}
	removed, err := disk.Prune(ctx, r.Target)
	return afterRemoval(disk, removed, err)
}

func clearCache(ctx context.Context, disk *cache.Disk, r controlRequest, _ func(step)) (controlAnswer, error) {
	if err := disk.Settle(ctx); err != nil {
		return controlAnswer{}, err
	}
	removed, err := disk.Clear(ctx, r.All)
	return afterRemoval(disk, removed, err)
}

// CacheRemoval is what cache prune and clear print with --json. Bytes are on disk.
type CacheRemoval struct {
	Removed      int   `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	Left         int   `json:"left"`
	LeftBytes    int64 `json:"left_bytes"`
	InUse        int   `json:"in_use"`
	Pinned       int   `json:"pinned"`
}

func afterRemoval(disk *cache.Disk, removed cache.Removed, err error) (controlAnswer, error) {
	if err != nil {
		return controlAnswer{}, fmt.Errorf("stopped after %d objects, %s: %w", removed.Objects, bytesText(removed.Bytes), err)
	}
	s := disk.Stats()
	text := fmt.Sprintf("removed %d objects, %s; %d objects, %s, are left", removed.Objects, bytesText(removed.Bytes), s.Objects, bytesText(s.UsedBytes))
	return answerWith(text, CacheRemoval{removed.Objects, removed.Bytes, s.Objects, s.UsedBytes, s.Open, s.Pinned})
}

func pinObject(_ context.Context, disk *cache.Disk, r controlRequest, _ func(step)) (controlAnswer, error) {
	if err := disk.Pin(r.Key, pinOwner); err != nil {
		return controlAnswer{}, keyError(err)
	}
	if !slices.ContainsFunc(disk.Pins(), func(p cache.Pinned) bool { return p.Key == r.Key && p.Present }) {
		return controlAnswer{Text: "pinned; the object is not in the cache yet"}, nil
	}
	return controlAnswer{Text: "pinned"}, nil
}

func unpinObject(_ context.Context, disk *cache.Disk, r controlRequest, _ func(step)) (controlAnswer, error) {
	if err := disk.Unpin(r.Key, pinOwner); err != nil {
		return controlAnswer{}, keyError(err)
	}
	return controlAnswer{Text: "not pinned any more"}, nil
}

func keyError(err error) error {
	if errors.Is(err, cache.ErrKey) {
		return fmt.Errorf("%w: neurodeskfs cache list --json shows the keys", err)
	}
	return err
}

// listEvidence returns the manifests and whitelists that were verified last, by
// repository, as cvmfs keeps them.
func listEvidence(_ context.Context, disk *cache.Disk, _ controlRequest, _ func(step)) (controlAnswer, error) {
	found := make(map[string]json.RawMessage)
	err := disk.ForEachMeta(cvmfs.EvidenceBucket, func(fqrn string, value []byte) error {
		if json.Valid(value) {
			found[fqrn] = value
		}
		return nil
	})
	if err != nil {
		return controlAnswer{}, err
	}
	return answerWith("", found)
}

func answerWith(text string, data any) (controlAnswer, error) {
	b, err := json.Marshal(data)
	return controlAnswer{Text: text, Data: b}, err
}

// answerOr is answerWith for what may have failed.
func answerOr(data any, err error) (controlAnswer, error) {
	if err != nil {
		return controlAnswer{}, err
	}
	return answerWith("", data)
}
