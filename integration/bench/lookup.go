package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// benchLookup measures the first look-up of a name in M/bin of a repository as
// large as Neurodesk's, behind 100 ms: a name that is its app's own, then any
// other, both with an empty cache; then with the index in the cache.
func benchLookup(ctx context.Context, b *bench) error {
	const images = 384
	s, _, err := b.publish(ctx, manyImages(images), cvmfstest.Options{FQRN: "lookup.example.org"}, "neurodesk")
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name, command string
		aim           float64
	}{{"app's own name", appName(images / 2), 1.5}, {"any other name", otherCommand(images/2, 3), 6}} {
		var runs []float64
		var counts cvmfstest.Stats
		for range b.rounds(1, 3) {
			m, took, stats, err := b.lookUp(ctx, s, "", kind.command)
			if err != nil {
				return err
			}
			runs, counts = append(runs, took), stats
			if err := m.drop(ctx); err != nil {
				return err
			}
		}
		b.add(kind.name, "s").ours(runs...).fetched(counts.Bytes, int64(counts.Requests)).aim(atMost("ours", kind.aim))
	}
	return b.lookUpCached(ctx, s, otherCommand(images/3, 5))
}

// lookUp mounts behind 100 ms and looks a command up at once. The counts are
// what was asked from the mount's return to the answer.
func (b *bench) lookUp(ctx context.Context, s *site, cache, command string) (*mounted, float64, cvmfstest.Stats, error) {
	server, err := b.behind(s, aimedDelay)
	if err != nil {
		return nil, 0, cvmfstest.Stats{}, err
	}
	m, err := b.mount(ctx, s, mountOptions{server: server, cache: cache})
	if err != nil {
		return nil, 0, cvmfstest.Stats{}, err
	}
	s.server.Reset()
	took, err := b.timed(ctx, command, "ls", filepath.Join(m.dir, "bin", command))
	counts := s.server.Stats()
	if err == nil {
		_, err = m.healthy(ctx)
	}
	return m, took, counts, err
}

// lookUpCached fills a cache with the whole index, mounts again, and looks up.
func (b *bench) lookUpCached(ctx context.Context, s *site, command string) error {
	cache := filepath.Join(b.scratch, "cache-lookup")
	m, err := b.mount(ctx, s, mountOptions{cache: cache})
	if err != nil {
		return err
	}
	if err := m.indexed(ctx); err != nil {
		return err
	}
	if err := m.unmount(ctx); err != nil {
		return err
	}
	var runs []float64
	var counts cvmfstest.Stats
	for range b.rounds(1, 3) {
		m, took, stats, err := b.lookUp(ctx, s, cache, command)
		if err != nil {
			return err
		}
		runs, counts = append(runs, took), stats
		if err := m.unmount(ctx); err != nil {
			return err
		}
	}
	b.add("index in the cache", "s").ours(runs...).fetched(counts.Bytes, int64(counts.Requests)).aim(atMost("requests", 0))
	return os.RemoveAll(cache)
}
