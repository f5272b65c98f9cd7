package main

import (
	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
)

// memo keeps derived data beside the cache's index.
type memo struct{ disk *cache.Disk }

func (m memo) Get(bucket, key string) ([]byte, bool) {
	b, err := m.disk.GetMeta(bucket, key)
	return b, err == nil
}

// Each calls fn for all of a bucket.
func (m memo) Each(bucket string, fn func(key string, value []byte)) {
	// What cannot be read is found again.
	_ = m.disk.ForEachMeta(bucket, func(key string, value []byte) error {
		fn(key, value)
		return nil
	})
}

// Put keeps a value; nil removes it.
func (m memo) Put(bucket, key string, value []byte) {
	if value == nil {
		_ = m.disk.DeleteMeta(bucket, key)
		return
	}
	// What cannot be kept is found again; the cache warns of a failing disk.
	_ = m.disk.PutMeta(bucket, key, value)
	if bucket == cvmfs.EvidenceBucket || bucket == blob.FileMemo {
		// A kill must not let an older revision in; and jobs that wait for what
		// another finds look at once.
		_ = m.disk.Flush()
	}
}
