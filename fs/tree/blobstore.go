package tree

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/fs/image"
)

// blobStore is a bucket of single-file images on object storage, of which a
// list gives the names.
type blobStore struct {
	bucket *blob.Bucket
	images *image.Images
}

func (s blobStore) name() string { return s.bucket.Name() }

func (s blobStore) list(ctx context.Context, fn func(container)) error {
	text, err := s.bucket.Index(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c, ok := listedImage(line, s.bucket.Listed()); ok {
			c.store = s
			_, c.known = s.bucket.Known(c.file)
			fn(&c)
		}
	}
	return nil
}

// document is the list itself, where Neurodesk's repositories have theirs: it
// may name categories.
func (s blobStore) document(ctx context.Context, path string) ([]byte, error) {
	if path != logFile {
		return nil, notExist(path)
	}
	text, err := s.bucket.Index(ctx)
	return []byte(text), err
}

// FirstListed is the first image's file in the list of a bucket, "" if there is
// none.
func FirstListed(text string, strict bool) string {
	for line := range strings.Lines(text) {
		if c, ok := listedImage(line, strict); ok {
			return c.file
		}
	}
	return ""
}

// maxListedName bounds a name in a list, bytes, as file systems do.
const maxListedName = 255

// listedImage reads one line of a list: the name of a file, with or without its
// suffix, and as in Neurodesk's log.txt what is behind the first blank. With
// strict, one without a suffix has to look like an image's name, NAME_VERSION
// or TOOL:VERSION, for other files may be in the list. Lines that begin with #
// say nothing.
func listedImage(line string, strict bool) (c blobContainer, ok bool) {
	file, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	file, _, _ = strings.Cut(file, "\t")
	file = strings.TrimPrefix(file, "./")
	if file == "" || len(file) > maxListedName || strings.ContainsRune(file, '/') || strings.ContainsAny(file[:1], "#.-") || !nameable(file) {
		return c, false
	}
	c.file, c.name = file, trimSuffix(file)
	c.app, c.version, ok = callImage(c.name)
	if strict && c.name == file && c.version == "latest" {
		ok = false
	}
	return c, ok
}

// blobContainer is an image on object storage. There may be 100,000.
type blobContainer struct {
	store        blobStore
	file         string // as the list has it
	name         string // without a suffix
	app, version string // "": name is NAME_VERSION_DATE
	known        bool   // the server was asked about it when it was listed
}

func (c *blobContainer) about() about {
	return about{
		dir: c.name, app: c.app, version: c.version, silent: true, remote: !c.known, unseen: true,
		place: c.store.bucket.Place(c.file), published: time.Unix(0, 0),
	}
}

func (c *blobContainer) text(_ context.Context, name string) ([]byte, error) {
	return nil, notExist(name)
}

func (c *blobContainer) rootfs(ctx context.Context) (r rootfs, err error) {
	r.id, r.spec, err = c.store.images.IdentifyBlob(ctx, c.store.bucket, c.file)
	if err != nil && !notThere(err) {
		err = fmt.Errorf("image %s of %s: %w", c.name, c.store.bucket.Name(), err)
	}
	return r, err
}
