package cache

import (
	"errors"
	"fmt"
)

// Store keeps objects. Disk and Memory implement it; all methods may be
// called concurrently.
type Store interface {
	// Open returns the object under key, or an error that wraps ErrNotCached,
	// ErrKey or ErrClosed. An object that is there but damaged counts as not cached.
	Open(key string) (*Object, error)
	// Recheck is Open for who was told a moment ago that the object is not there
	// and has the right to fetch it by now: it counts no second miss.
	Recheck(key string) (*Object, error)
	// Create starts an object of size bytes, -1 when that is not known. Nothing
	// is visible under key before Commit. It fails for a bad key or a closed
	// store only: without a usable disk the object is kept in memory.
	Create(key string, size int64) (*Writer, error)
}

var (
	_ Store = (*Disk)(nil)
	_ Store = (*Memory)(nil)
)

// Sentinels. All are matched with errors.Is.
var (
	// ErrNotCached is returned when no valid object is under a key, and by
	// GetMeta when there is no such value.
	ErrNotCached = errors.New("not in the cache")
	// ErrKey is returned for a key that is not [a-z0-9][a-z0-9._-]{7,127}.
	ErrKey = errors.New("not a cache key")
	// ErrLocked is returned by Open when another process holds the directory.
	ErrLocked = errors.New("cache is in use")
	// ErrLayout is returned by Open and Info for a directory that is no cache, or is
	// one of a newer layout.
	ErrLayout = errors.New("not a usable cache directory")
	// ErrSize is returned when an object gets more or fewer bytes than
	// announced, and for a value or label longer than allowed.
	ErrSize = errors.New("wrong size")
	// ErrNoRoom is returned by a Writer that has no disk and whose object is
	// too large for memory, and by PutMeta when too much waits for a failed disk.
	ErrNoRoom = errors.New("no room, on disk or in memory")
	// ErrClosed is returned by a store after Close.
	ErrClosed = errors.New("cache is closed")
)

// Stats describes a store. Sizes are bytes; counters run from Open.
type Stats struct {
	Dir         string // "" for Memory
	QuotaBytes  int64  // 0: no limit
	UsedBytes   int64  // on disk, trailers included; for Memory what counts against its bound
	MemoryBytes int64  // kept in memory because the disk could not take it
	Objects     int    // those that UsedBytes counts
	Pinned      int    // keys with at least one pin
	Open        int    // objects in use
	Hits        int64
	Misses      int64
	Evictions   int64 // objects removed for want of room
	Degraded    bool  // the disk fails; new objects go to memory
	Scanning    bool  // the look at the folders after start is under way; UsedBytes may still move
}

const (
	minKey = 8
	maxKey = 128
)

// CheckKey returns an error wrapping ErrKey unless key is a key:
// [a-z0-9][a-z0-9._-]{7,127}.
func CheckKey(key string) error {
	if len(key) < minKey || len(key) > maxKey {
		return fmt.Errorf("cache: key of %d bytes: %w", len(key), ErrKey)
	}
	for i := range len(key) {
		c := key[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("cache: key %q: %w", key, ErrKey)
		}
	}
	return nil
}
