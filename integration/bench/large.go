package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// benchLarge reads a large file that deflates well, from an empty cache and a
// near server. The peer is one core that fetches, verifies and inflates the same
// objects, and does nothing else with them.
func benchLarge(ctx context.Context, b *bench) error {
	const chunk = 8 << 20
	size := int64(256 << 20)
	switch {
	case b.full:
		size = 1 << 30
	case b.quick:
		size = 64 << 20
	}
	tree := cvmfstest.NewTree()
	tree.FileFrom("large.dat", size, 0o644, func() (io.ReadCloser, error) {
		var parts []io.Reader
		text := prose(3, chunk)
		for i := range size / chunk {
			// each chunk is another object: what comes before the text is its number
			head := fmt.Appendf(nil, "%16d", i)
			parts = append(parts, bytes.NewReader(head), bytes.NewReader(text[len(head):]))
		}
		return io.NopCloser(io.MultiReader(parts...)), nil
	})
	s, revision, err := b.publish(ctx, tree, cvmfstest.Options{FQRN: "large.example.org", ChunkSize: chunk}, "none")
	if err != nil {
		return err
	}
	var paths []string
	for _, o := range revision.Objects("large.dat") {
		paths = append(paths, "/cvmfs/"+s.fqrn+"/"+strings.TrimPrefix(o, "/"))
	}
	rate := func(seconds float64) float64 { return float64(size) / 1e6 / seconds }
	var counts cvmfstest.Stats
	ways := []way{
		{"ours", func(ctx context.Context) (float64, error) {
			took, stats, err := b.readCold(ctx, s, "large.dat")
			counts = stats
			return rate(took), err
		}},
		{"one core", func(ctx context.Context) (float64, error) {
			took, err := b.fetchOneByOne(ctx, s.server.Addr(), paths)
			return rate(took), err
		}},
	}
	if b.hasReference() {
		ways = append(ways, way{"cvmfs2", func(ctx context.Context) (float64, error) {
			took, err := b.referenceRun(ctx, s, s.server.Addr(), func(dir string) (float64, error) {
				return b.ask(ctx, "read", filepath.Join(dir, "large.dat"))
			})
			return rate(took), err
		}})
	}
	figures, err := interleave(ctx, false, b.rounds(2, 3), ways)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("read %d MB", size>>20)
	for i := range ways[1:] {
		b.add(name, "MB/s").ours(figures[0]...).against(ways[i+1].name, figures[i+1]...).
			fetched(counts.Bytes, int64(counts.Requests)).aim(atLeast("ratio", 2))
	}
	return nil
}

// readCold reads a file from an empty cache in seconds.
func (b *bench) readCold(ctx context.Context, s *site, path string) (float64, cvmfstest.Stats, error) {
	m, err := b.mount(ctx, s, mountOptions{})
	if err != nil {
		return 0, cvmfstest.Stats{}, err
	}
	s.server.Reset()
	took, err := b.ask(ctx, "read", m.raw(path))
	if err != nil {
		return 0, cvmfstest.Stats{}, err
	}
	counts := s.server.Stats()
	if _, err := m.healthy(ctx); err != nil {
		return 0, counts, err
	}
	return took, counts, m.drop(ctx)
}

// fetchOneByOne has a worker fetch paths from the server, on one core.
func (b *bench) fetchOneByOne(ctx context.Context, server string, paths []string) (float64, error) {
	var urls strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&urls, "http://%s%s\n", server, p)
	}
	file := filepath.Join(b.scratch, "urls")
	if err := os.WriteFile(file, []byte(urls.String()), 0o644); err != nil {
		return 0, err
	}
	return b.askWith(ctx, []string{"GOMAXPROCS=1"}, "fetch", file)
}
