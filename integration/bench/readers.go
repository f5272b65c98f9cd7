package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/squashfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// readers are other people's readers of squashfs in Go, as the module in peers
// knows them.
var readers = []string{"go-diskfs", "sylabs/squashfs"}

// buildReaders builds the module that has them, and returns the names of those
// that can be measured: all or none.
func (b *bench) buildReaders(ctx context.Context) []string {
	cmd := group(ctx, "go", "build", "-o", b.program("peers"), ".")
	cmd.Dir = filepath.Join(b.root, "integration/bench/peers")
	if _, err := capture(ctx, cmd); err != nil {
		for _, name := range readers {
			b.report.miss(name, "integration/bench/peers cannot be built: "+err.Error())
		}
		return nil
	}
	return readers
}

// readerRows compares readers with ours, each in a process of its own, without a
// mount: a new reader's first pass, and those that follow.
func (b *bench) readerRows(ctx context.Context, pass, image string, names []string) error {
	measure := func(program string, args ...string) (r imageRates, err error) {
		for t, passes := range map[int]string{warm: "1", hot: "2"} {
			out, err := b.run(ctx, b.program(program), append(args, pass, image, passes)...)
			if err != nil {
				return r, err
			}
			figure, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
			if err != nil {
				return r, err
			}
			r[t] = []float64{figure}
		}
		return r, nil
	}
	ours, err := measure("worker", workerWord, "image")
	if err != nil {
		return err
	}
	for _, name := range names {
		theirs, err := measure("peers", name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.imageRows(pass+" reader", name, ours, theirs, [...]float64{warm: 1, hot: 1})
	}
	return nil
}

// readImage is what peers does, with our reader: it makes passes and returns how
// often a second the last of them would end.
func readImage(ctx context.Context, pass, path, passes string) (rate float64, err error) {
	left, err := strconv.Atoi(passes)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	image, err := squashfs.Open(ctx, fileSource{file}, 0, info.Size(), squashfs.Options{})
	for ; left > 0 && err == nil; left-- {
		err = readAll(ctx, image, image.Root(), pass == "cat")
		rate, started = 1/time.Since(started).Seconds(), time.Now()
	}
	return rate, err
}

// fileSource is a file as a squashfs.Source.
type fileSource struct{ *os.File }

func (f fileSource) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(p, off)
}

// readAll reads all attributes below a directory, or the content of all files.
func readAll(ctx context.Context, image *squashfs.FS, dir uint64, content bool) error {
	var entries []squashfs.Entry
	err := image.ReadDir(ctx, dir, 0, func(e squashfs.Entry) bool { entries = append(entries, e); return true })
	buffer := make([]byte, 128<<10)
	for _, e := range entries {
		var a volume.Attr
		if err == nil {
			a, err = image.Stat(ctx, e.Entry)
		}
		switch {
		case err != nil:
			return err
		case a.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = readAll(ctx, image, e.Entry, content)
		case a.Mode&unix.S_IFMT == unix.S_IFREG && content:
			for n, off := 1, int64(0); n > 0 && err == nil; off += int64(n) {
				if n, err = image.ReadAt(ctx, e.Entry, buffer, off); err == nil && n == 0 && uint64(off) != a.Size {
					err = fmt.Errorf("%s: %d of %d bytes", e.Name, off, a.Size)
				}
			}
		}
	}
	return err
}
