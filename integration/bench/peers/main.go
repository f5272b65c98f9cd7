// Command peers reads all of a squashfs image with other people's readers in
// Go. It is a module of its own, so that theirs are no dependencies of ours:
//
//	peers go-diskfs|sylabs/squashfs find|cat IMAGE PASSES
//
// opens the image, makes that many passes over all names and their sizes, or
// over the content of all files, and prints how often a second the last of them
// would end; the first includes the opening. No kernel and no other process is
// in between.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/squashfs"
	"github.com/sylabs/squashfs"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: peers go-diskfs|sylabs/squashfs find|cat IMAGE PASSES")
	}
	passes, err := strconv.Atoi(args[3])
	if err != nil || passes < 1 {
		return fmt.Errorf("%q is no number of passes", args[3])
	}
	started := time.Now()
	image, err := os.Open(args[2])
	if err != nil {
		return err
	}
	defer image.Close()
	tree, err := open(args[0], image)
	if err != nil {
		return err
	}
	rate := 0.0
	for range passes {
		if err := pass(tree, args[1] == "cat"); err != nil {
			return err
		}
		rate, started = 1/time.Since(started).Seconds(), time.Now()
	}
	fmt.Println(rate)
	return nil
}

func open(reader string, image *os.File) (fs.FS, error) {
	if reader == "sylabs/squashfs" {
		return squashfs.NewReader(image)
	}
	info, err := image.Stat()
	if err != nil {
		return nil, err
	}
	return diskfs.Read(file.New(image, true), info.Size(), 0, 0)
}

// pass reads all names and sizes, or all content. To have found nothing is an error.
func pass(tree fs.FS, content bool) error {
	found := int64(0)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || !content || !info.Mode().IsRegular() {
			found++
			return err
		}
		f, err := tree.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(io.Discard, f)
		found += n
		if err == nil && n != info.Size() {
			err = fmt.Errorf("%s: %d of %d bytes", name, n, info.Size())
		}
		return err
	})
	if err == nil && found == 0 {
		err = errors.New("nothing was found")
	}
	return err
}
