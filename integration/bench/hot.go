package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// hotSite publishes the hot tree, with the same on disk, and mounts it.
func (b *bench) hotSite(ctx context.Context) (m *mounted, local string, err error) {
	local = filepath.Join(b.scratch, "local")
	size := 64 << 20
	if b.quick {
		size = 16 << 20
	}
	tree, err := b.hotTree(local, size)
	if err != nil {
		return nil, "", err
	}
	s, _, err := b.publish(ctx, tree, cvmfstest.Options{FQRN: "hot.example.org", ChunkSize: 8 << 20, Level: 1}, "none")
	if err != nil {
		return nil, "", err
	}
	m, err = b.mount(ctx, s, mountOptions{})
	return m, local, err
}

// place is where a file system shows the files that are asked for.
type place struct{ name, dir string }

// hotPeers mounts what dir holds by each peer that is here.
func (b *bench) hotPeers(ctx context.Context, local string) (places []place) {
	for i, peer := range []struct {
		name  string
		mount func(context.Context, string, string) error
	}{{"squashfs", b.kernelSquashfs}, {"squashfuse", b.squashfuse}, {"least FUSE", b.leastFUSE}} {
		dir := filepath.Join(b.scratch, fmt.Sprintf("peer%d", i))
		err := b.makeDir(dir)
		if err == nil {
			err = peer.mount(ctx, local, dir)
		}
		if err != nil {
			b.report.miss(peer.name, err.Error())
			continue
		}
		places = append(places, place{peer.name, dir})
	}
	return places
}

// benchHot compares what needs no byte from anywhere with the local file system,
// with both ways to mount a squashfs, and with the least FUSE file system.
func benchHot(ctx context.Context, b *bench) error {
	m, local, err := b.hotSite(ctx)
	if err != nil {
		return err
	}
	places := append([]place{{"ours", m.raw("")}, {b.report.Machine.FileSystem, local}}, b.hotPeers(ctx, local)...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	long := 500 * time.Millisecond
	if b.quick {
		long = 200 * time.Millisecond
	}
	for _, what := range []struct{ pass, path, unit string }{
		{"stat", "small", "/s"}, {"open", "small", "/s"}, {"readdir", "folder", "/s"}, {"sequential", "large", "MB/s"}, {"random", "large", "/s"},
	} {
		var ways []way
		for _, p := range places {
			ways = append(ways, way{what.pass + " on " + p.name, func(ctx context.Context) (float64, error) {
				f, err := b.ask(ctx, what.pass, filepath.Join(p.dir, what.path), long.String())
				if what.unit == "MB/s" {
					f /= 1e6
				}
				return f, err
			}})
		}
		figures, err := interleave(ctx, true, b.rounds(3, 5), ways)
		if err != nil {
			return err
		}
		reference := b.report.Machine.FileSystem
		if what.pass == "sequential" {
			// The peer whose page cache has single pages as FUSE's has: fs/doc.go
			// says why ext4's large folios are out of reach.
			reference = "squashfs"
		}
		for i, p := range places[1:] {
			w := b.add(what.pass, what.unit).ours(figures[0]...).against(p.name, figures[i+1]...)
			if p.name == reference {
				w.aim(atLeast("ratio", 0.9))
			}
		}
	}
	_, err = m.healthy(ctx)
	return err
}

// squash makes a squashfs of dir, once a case, and returns the file. It is not
// compressed: what is hot was inflated before.
func (b *bench) squash(ctx context.Context, dir string) (string, error) {
	file := filepath.Join(b.scratch, "local.squashfs")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	_, err := b.run(ctx, "mksquashfs", dir, file, "-noI", "-noD", "-noF", "-no-xattrs", "-no-progress")
	return file, err
}

func (b *bench) kernelSquashfs(ctx context.Context, local, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount it")
	}
	file, err := b.squash(ctx, local)
	if err == nil {
		_, err = b.runSelf(ctx, "mount", "-t", "squashfs", "-o", "loop,ro", file, dir)
	}
	return err
}

func (b *bench) squashfuse(ctx context.Context, local, dir string) error {
	file, err := b.squash(ctx, local)
	if err == nil {
		_, err = b.run(ctx, "squashfuse_ll", file, dir)
	}
	return err
}

// benchRequests counts what a second pass over 1,000 files asks of the daemon.
func benchRequests(ctx context.Context, b *bench) error {
	m, _, err := b.hotSite(ctx)
	if err != nil {
		return err
	}
	pass := func() error {
		_, err := b.run(ctx, "/bin/sh", "-c", fmt.Sprintf("find %s -type f -exec cat {} + >/dev/null", m.raw("small")))
		return err
	}
	if err := errors.Join(pass(), pass()); err != nil {
		return err
	}
	// The kernel may reclaim an idle page in one pass, hence the median of five. To
	// look costs requests too: what lies between two looks is taken off, the first
	// of which is unlike the others.
	if _, err := m.status(ctx); err != nil {
		return err
	}
	var counts []float64
	var looks [3]state
	for range 5 {
		for i := range looks {
			if i == 2 {
				if err := pass(); err != nil {
					return err
				}
			}
			if looks[i], err = m.status(ctx); err != nil {
				return err
			}
		}
		counts = append(counts, float64(looks[2].asked()-looks[1].asked())-float64(looks[1].asked()-looks[0].asked()))
	}
	if b.add("FUSE, find + cat", "").ours(counts...).aim(atMost("ours", 0)).missed() {
		b.partly("which requests", fmt.Errorf("before %v, after %v", looks[1].Fuse.Requests, looks[2].Fuse.Requests))
	}
	_, err = m.healthy(ctx)
	return err
}
