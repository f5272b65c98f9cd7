package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// imagePasses are what is done with all files of an image.
var imagePasses = []struct{ name, script string }{
	{"find", `find "$1" -size -9 | grep -c .`},
	{"cat", `find "$1" -type f -exec cat {} + | wc -c`},
}

// imageMount is one way to see the image's files; unmount takes it away.
type imageMount struct {
	name  string
	mount func(ctx context.Context) (dir string, unmount func(context.Context) error, err error)
}

// benchImages reads all of a compressed squashfs through the mount, through the
// kernel and through squashfuse: on a new mount, of which the kernel knows
// nothing, with the image still on the disk (cold) or its bytes at hand (warm),
// and once more (hot). Readers in Go are compared with ours, without a mount.
func benchImages(ctx context.Context, b *bench) error {
	image, err := b.sampleImage(ctx)
	if err != nil {
		return err
	}
	ways := []imageMount{{"ours", func(ctx context.Context) (string, func(context.Context) error, error) { return b.ourImage(ctx, image) }}}
	for _, peer := range []struct {
		name    string
		command []string
	}{{"squashfs", []string{"mount", "-t", "squashfs", "-o", "loop,ro"}}, {"squashfuse", []string{"squashfuse_ll"}}} {
		w := imageMount{peer.name, func(ctx context.Context) (string, func(context.Context) error, error) {
			return b.peerImage(ctx, peer.command, image)
		}}
		_, unmount, err := w.mount(ctx)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			b.report.miss(peer.name, err.Error())
			continue
		}
		if err := unmount(ctx); err != nil {
			return err
		}
		ways = append(ways, w)
	}
	readers := b.buildReaders(ctx)
	for _, pass := range imagePasses {
		err := b.imagePass(ctx, pass.name, pass.script, image, ways)
		if err == nil && len(readers) > 0 {
			err = b.readerRows(ctx, pass.name, image, readers)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", pass.name, err)
		}
	}
	return nil
}

// The temperatures of a pass.
const (
	cold = iota
	warm
	hot
)

// imageRates are how often a second a pass would end, by temperature.
type imageRates [hot + 1][]float64

func (r *imageRates) add(figures [hot + 1]float64) {
	for i, f := range figures {
		r[i] = append(r[i], f)
	}
}

// imagePass makes the rows of one pass. The ways take turns; the first round
// does not count.
func (b *bench) imagePass(ctx context.Context, name, script, image string, ways []imageMount) error {
	rates := make([]imageRates, len(ways))
	for round := range b.rounds(3, 7) {
		for i, w := range ways {
			figures, err := b.measureImage(ctx, script, image, w)
			if err != nil {
				return fmt.Errorf("on %s: %w", w.name, err)
			}
			if round > 0 {
				rates[i].add(figures)
			}
		}
	}
	for i, w := range ways[1:] {
		aims := [...]float64{cold: 1, warm: 1, hot: 1} // faster than squashfuse
		if w.name == "squashfs" {
			aims = [...]float64{cold: 0.5, warm: 0.5, hot: 0.9}
		}
		b.imageRows(name+" image", w.name, rates[0], rates[i+1], aims)
	}
	return nil
}

// imageRows makes the rows for which there are figures of the peer's.
func (b *bench) imageRows(name, peer string, ours, theirs imageRates, aims [hot + 1]float64) {
	for t, temperature := range []string{"cold", "warm", "hot"} {
		if len(theirs[t]) > 0 {
			b.add(name+" "+temperature, "/s").ours(ours[t]...).against(peer, theirs[t]...).aim(atLeast("ratio", aims[t]))
		}
	}
}

// measureImage runs script on a new mount of an image that has to be read from
// the disk, on another one, and there three times more.
func (b *bench) measureImage(ctx context.Context, script, image string, w imageMount) (figures [hot + 1]float64, err error) {
	if err := evict(image); err != nil {
		return figures, err
	}
	for _, first := range []int{cold, warm} {
		dir, unmount, err := w.mount(ctx)
		if err != nil {
			return figures, err
		}
		figures[first], err = b.passes(ctx, script, dir, 1)
		if err == nil && first == warm {
			figures[hot], err = b.passes(ctx, script, dir, 3)
		}
		if err := errors.Join(err, unmount(ctx)); err != nil {
			return figures, err
		}
	}
	return figures, nil
}

// evict has the kernel forget a file's bytes.
func evict(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// passes runs script on dir n times and returns how often a second it would end.
func (b *bench) passes(ctx context.Context, script, dir string, n int) (float64, error) {
	started := time.Now()
	for range n {
		if _, err := b.run(ctx, "/bin/sh", "-ec", script, "sh", dir); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(started).Seconds(), nil
}

// sampleImage makes a folder with an image in it, compressed as apptainer does.
func (b *bench) sampleImage(ctx context.Context) (string, error) {
	size := 64 << 20
	if b.quick {
		size = 16 << 20
	}
	source, folder := filepath.Join(b.scratch, "source"), filepath.Join(b.scratch, "shelf")
	if _, err := b.hotTree(source, size); err != nil {
		return "", err
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", err
	}
	image := filepath.Join(folder, "sample_1.0.sqsh")
	if _, err := b.run(ctx, "mksquashfs", source, image, "-comp", "gzip", "-no-progress"); err != nil {
		// the account may not write there
		if _, err := b.runSelf(ctx, "mksquashfs", source, image, "-comp", "gzip", "-no-progress"); err != nil {
			return "", err
		}
	}
	return image, os.Chmod(image, 0o644)
}

// ourImage mounts the image's folder.
func (b *bench) ourImage(ctx context.Context, image string) (string, func(context.Context) error, error) {
	m, err := b.mountSources(ctx, nil, "", fmt.Sprintf("[[source]]\nkind = \"dir\"\npath = %q\n", filepath.Dir(image)))
	if err != nil {
		return "", nil, err
	}
	// We may not look into the account's mount: who runs follows the link. A look
	// opens the image, as the others do when they mount.
	dir := filepath.Join(m.dir, "apps/sample/1.0/rootfs") + "/."
	if _, err := b.run(ctx, "stat", dir); err != nil {
		return "", nil, err
	}
	return dir, func(ctx context.Context) error {
		_, err := m.healthy(ctx)
		return errors.Join(err, m.drop(ctx))
	}, nil
}

// peerImage mounts the image with another program.
func (b *bench) peerImage(ctx context.Context, command []string, image string) (string, func(context.Context) error, error) {
	b.mounts++
	dir := filepath.Join(b.scratch, fmt.Sprintf("peer%d", b.mounts))
	if err := b.makeDir(dir); err != nil {
		return "", nil, err
	}
	run := b.run
	if command[0] == "mount" {
		if os.Geteuid() != 0 {
			return "", nil, errors.New("only root can mount it")
		}
		run = b.runSelf
	}
	_, err := run(ctx, command[0], append(command[1:], image, dir)...)
	return dir, func(ctx context.Context) error { return unmount(ctx, dir) }, err
}
