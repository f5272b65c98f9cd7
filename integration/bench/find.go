package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// benchFind walks over a large repository whose catalogs are in the cache, on a
// mount that the kernel knows nothing of: names only, and with attributes. After
// that the daemon's memory is looked at, when 100,000 of the files were read, too.
func benchFind(ctx context.Context, b *bench) error {
	entries := 100_000
	if b.full {
		entries = 1_000_000
	}
	s, _, err := b.publish(ctx, manyEntries(entries), cvmfstest.Options{FQRN: "find.example.org", Plain: true}, "none")
	if err != nil {
		return err
	}
	cache := filepath.Join(b.scratch, "cache-find")
	var counts cvmfstest.Stats
	ours := func(more ...string) way {
		return way{"ours", func(ctx context.Context) (float64, error) {
			m, err := b.mount(ctx, s, mountOptions{cache: cache})
			if err != nil {
				return 0, err
			}
			s.server.Reset()
			took, err := b.walk(ctx, entries, m.raw(""), more...)
			if err != nil {
				return 0, err
			}
			counts = s.server.Stats()
			if _, err := m.healthy(ctx); err != nil {
				return 0, err
			}
			return took, m.unmount(ctx)
		}}
	}
	for _, kind := range []struct {
		name string
		more []string
	}{{"names", nil}, {"attributes", []string{"-size", "-9"}}} {
		ways := []way{ours(kind.more...)}
		if b.hasReference() {
			ways = append(ways, way{"cvmfs2", func(ctx context.Context) (float64, error) {
				return b.referenceAt(ctx, s, s.server.Addr(), filepath.Join(b.scratch, "cache-reference"), func(dir string) (float64, error) {
					return b.walk(ctx, entries, dir, kind.more...)
				})
			}})
		}
		figures, err := interleave(ctx, true, b.rounds(2, 3), ways)
		if err != nil {
			return err
		}
		row := b.add(fmt.Sprintf("%dk %s", entries/1000, kind.name), "s").ours(figures[0]...).fetched(counts.Bytes, int64(counts.Requests))
		if len(ways) > 1 {
			row.against("cvmfs2", figures[1]...).aim(atMost("ratio", 1))
		}
		row.aim(atMost("ours", 2*float64(entries)/100_000))
	}
	return b.memoryAfter(ctx, s, entries, cache)
}

// memoryAfter is what a daemon holds that was asked for all of it, and for the
// content of 100,000 files.
func (b *bench) memoryAfter(ctx context.Context, s *site, entries int, cache string) error {
	m, err := b.mount(ctx, s, mountOptions{cache: cache})
	if err != nil {
		return err
	}
	if _, err := b.walk(ctx, entries, m.raw("")); err != nil {
		return err
	}
	if _, err := b.run(ctx, "/bin/sh", "-c", `find "$1" -type f | head -n 100000 | xargs cat >/dev/null`, "sh", m.raw("")); err != nil {
		return err
	}
	rss, err := m.healthy(ctx)
	if err != nil {
		return err
	}
	b.add("memory after it", "MB").ours(float64(rss) / 1e6).aim(atMost("ours", 100))
	return m.unmount(ctx)
}

// walk is how long find takes in dir, where it must find at least so many.
func (b *bench) walk(ctx context.Context, entries int, dir string, more ...string) (float64, error) {
	started := time.Now()
	out, err := b.run(ctx, "/bin/sh", append([]string{"-c", `find "$@" | grep -c .`, "sh", dir}, more...)...)
	took := time.Since(started).Seconds()
	if n, parseErr := strconv.Atoi(strings.TrimSpace(out)); err == nil && (parseErr != nil || n < entries) {
		err = fmt.Errorf("find %s found %q, fewer than %d", dir, out, entries)
	}
	return took, err
}
