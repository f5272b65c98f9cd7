package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// hasReference tells whether the reference client is here. Without a file of
// settings it is not used: its defaults are for a machine that was set up.
func (b *bench) hasReference() bool {
	if !b.has("cvmfs2") {
		return false
	}
	if os.Getenv("BENCH_CVMFS2_CONFIG") == "" {
		b.report.miss("cvmfs2", "no $BENCH_CVMFS2_CONFIG, a file of settings (it may be empty)")
		return false
	}
	return true
}

// referenceConfig is the text of cvmfs2's configuration: the user's settings,
// then ours.
func referenceConfig(settings, fqrn, server, key, cache string) string {
	return fmt.Sprintf(`%s
CVMFS_SERVER_URL=http://%s/cvmfs/%s
CVMFS_PUBLIC_KEY=%s
CVMFS_CACHE_BASE=%s
CVMFS_RELOAD_SOCKETS=%s
CVMFS_HTTP_PROXY=DIRECT
CVMFS_USE_GEOAPI=no
CVMFS_SHARED_CACHE=no
CVMFS_CLAIM_OWNERSHIP=no
`, settings, server, fqrn, key, cache, cache)
}

// referenceRun mounts the site with cvmfs2 and an empty cache, has measure do
// its work there, and unmounts.
func (b *bench) referenceRun(ctx context.Context, s *site, server string, measure func(dir string) (float64, error)) (float64, error) {
	return b.referenceAt(ctx, s, server, "", measure)
}

// referenceAt is referenceRun with the cache of an earlier run, if it is named.
func (b *bench) referenceAt(ctx context.Context, s *site, server, cache string, measure func(dir string) (float64, error)) (float64, error) {
	b.mounts++
	dir := filepath.Join(b.scratch, fmt.Sprintf("r%d", b.mounts))
	if cache == "" {
		cache = dir + "-cache"
	}
	for _, d := range []string{dir, cache} {
		if err := b.makeDir(d); err != nil {
			return 0, err
		}
	}
	settings, err := os.ReadFile(os.Getenv("BENCH_CVMFS2_CONFIG"))
	if err != nil {
		return 0, err
	}
	config := dir + ".conf"
	if err := os.WriteFile(config, []byte(referenceConfig(string(settings), s.fqrn, server, s.key, cache)), 0o644); err != nil {
		return 0, err
	}
	if _, err := b.run(ctx, "cvmfs2", "-o", "config="+config, s.fqrn, dir); err != nil {
		return 0, err
	}
	took, err := measure(dir)
	if err != nil {
		return 0, err
	}
	_, err = b.run(ctx, "fusermount3", "-u", dir)
	return took, err
}
