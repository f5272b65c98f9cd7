package image

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// catalogPrefix begins the key of a catalog volume.
const catalogPrefix = "catalog"

// view is one way in which a repository's catalogs are shown. A directory has
// one place only, so the same catalog in two views is two volumes.
type view struct {
	repo    *cvmfs.Repository
	name    string                    // "" for the raw view, else the image's content hash
	volumes sync.Map                  // cvmfs.CatalogRef -> *catalogVolume
	process Process                   // of the raw view: for its magic attributes
	watch   *watch                    // of an image
	ahead   atomic.Pointer[foresight] // of an image, once its root was found
}

// catalogVolume is one catalog at one place of one view. Its entries are row
// numbers, so nothing about it ever changes.
type catalogVolume struct {
	view *view
	ref  cvmfs.CatalogRef
	key  string
}

// at returns the volume of ref in this view.
func (v *view) at(ref cvmfs.CatalogRef) *catalogVolume {
	if c, ok := v.volumes.Load(ref); ok {
		return c.(*catalogVolume)
	}
	key := strings.Join([]string{catalogPrefix, v.repo.FQRN(), v.name, ref.Hash.String(), strconv.FormatInt(ref.Size, 10), ref.Mount}, "\x00")
	c, _ := v.volumes.LoadOrStore(ref, &catalogVolume{view: v, ref: ref, key: key})
	return c.(*catalogVolume)
}

// parseCatalogKey takes a key apart: repository, view and catalog.
func parseCatalogKey(key string) (fqrn, view string, ref cvmfs.CatalogRef, err error) {
	f := strings.SplitN(key, "\x00", 6)
	if len(f) != 6 || f[0] != catalogPrefix {
		return "", "", ref, fmt.Errorf("volume %q: %w", key, volume.ErrStale)
	}
	ref.Mount = f[5]
	if ref.Hash, err = hash.Parse(f[3]); err == nil {
		ref.Size, err = strconv.ParseInt(f[4], 10, 64)
	}
	return f[1], f[2], ref, err
}

// Key implements volume.Volume.
func (c *catalogVolume) Key() string { return c.key }

// Guarded implements volume.Guarded. Images are not: what runs in a container
// may have any name, and nobody finds them who may not list them.
func (c *catalogVolume) Guarded(uint64) bool { return c.view.name == "" }

func (c *catalogVolume) at(entry uint64) cvmfs.Ref {
	return cvmfs.Ref{CatalogRef: c.ref, Row: int64(entry)}
}

// Lookup implements volume.Volume.
func (c *catalogVolume) Lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	ctx = c.view.watch.over(ctx)
	e, err := c.view.repo.Lookup(ctx, c.at(dir), name)
	if err != nil {
		return volume.Child{Valid: volume.Forever}, translate(err)
	}
	return c.view.child(ctx, e)
}

// ReadDir implements volume.Volume.
func (c *catalogVolume) ReadDir(ctx context.Context, dir, cookie uint64, fn func(volume.Child) bool) error {
	return c.view.readDir(c.view.watch.over(ctx), c.at(dir), cookie, c.view.child, fn)
}

// readDir lists a directory of the repository through make.
func (v *view) readDir(ctx context.Context, dir cvmfs.Ref, cookie uint64,
	make func(context.Context, cvmfs.Entry) (volume.Child, error), fn func(volume.Child) bool) error {
	page := []cvmfs.Entry{} // made into children after the catalog is free again
	for {
		page = page[:0]
		err := v.repo.ReadDir(ctx, dir, int64(cookie), func(e cvmfs.Entry) bool {
			page = append(page, e)
			return len(page) < 128
		})
		if err != nil {
			return translate(err)
		}
		for _, e := range page {
			c, err := make(ctx, e)
			if err != nil {
				return err
			}
			c.Cookie = uint64(e.Ref.Row)
			if !fn(c) {
				return nil
			}
			cookie = c.Cookie
		}
		if len(page) < 128 {
			return nil
		}
	}
}

// child is e as this view shows it. The names of a hard link group are one node.
func (v *view) child(ctx context.Context, e cvmfs.Entry) (volume.Child, error) {
	row, err := v.repo.LinkLeader(ctx, e)
	if err != nil {
		return volume.Child{}, err
	}
	return volume.Child{
		Node:  volume.Node{Volume: v.at(e.Ref.CatalogRef), Entry: uint64(row)},
		Name:  e.Name,
		Attr:  v.attr(e),
		Valid: volume.Forever,
	}, nil
}

// attr is what stat(2) shows of e: all as stored, links as long as they expand to.
func (v *view) attr(e cvmfs.Entry) volume.Attr {
	a := volume.Attr{
		Mode: e.Mode, Nlink: e.Nlink(), UID: e.UID, GID: e.GID,
		Size: uint64(e.Size), MTime: e.MTime, MTimeNsec: e.MTimeNsec,
	}
	switch {
	case e.IsSymlink():
		a.Size = uint64(len(v.repo.Expand(e.Symlink)))
	case e.IsSpecial():
		a.Size, a.Rdev = 0, uint32(e.Rdev())
	}
	return a
}

// Stat implements volume.Volume.
func (c *catalogVolume) Stat(ctx context.Context, entry uint64) (volume.Attr, error) {
	e, err := c.view.repo.Stat(c.view.watch.over(ctx), c.at(entry))
	if err != nil {
		return volume.Attr{}, translate(err)
	}
	return c.view.attr(e), nil
}

// Readlink implements volume.Volume.
func (c *catalogVolume) Readlink(ctx context.Context, entry uint64) (string, error) {
	target, err := c.view.repo.Readlink(c.view.watch.over(ctx), c.at(entry))
	return target, translate(err)
}

// ReadAt implements volume.Volume.
func (c *catalogVolume) ReadAt(ctx context.Context, entry uint64, p []byte, off int64) (int, error) {
	if f := c.view.ahead.Load(); f != nil && off == 0 && !fetch.IsPrefetch(ctx) && !c.view.repo.IsHere(ctx, c.at(entry)) {
		f.read(c.at(entry), !c.view.watch.foretold.Load())
	}
	n, err := c.view.repo.ReadAt(c.view.watch.over(ctx), c.at(entry), p, off)
	return n, translate(err)
}

// Xattr implements volume.Volume.
func (c *catalogVolume) Xattr(ctx context.Context, entry uint64, name string) ([]byte, error) {
	return c.view.xattr(ctx, c.at(entry), name)
}

// Xattrs implements volume.Volume.
func (c *catalogVolume) Xattrs(ctx context.Context, entry uint64) ([]string, error) {
	return c.view.xattrs(ctx, c.at(entry))
}

func (v *view) xattr(ctx context.Context, ref cvmfs.Ref, name string) ([]byte, error) {
	if v.name == "" {
		value, ok, err := v.magic(ctx, ref, name)
		if ok || err != nil {
			return value, translate(err)
		}
	}
	list, err := v.repo.Xattrs(ctx, ref)
	if err != nil {
		return nil, translate(err)
	}
	for _, x := range list {
		if x.Name == name {
			return x.Value, nil
		}
	}
	return nil, volume.ErrNoXattr
}

func (v *view) xattrs(ctx context.Context, ref cvmfs.Ref) ([]string, error) {
	list, err := v.repo.Xattrs(ctx, ref)
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = x.Name
	}
	return names, translate(err)
}

// translate turns the repository's errors into the mount's.
func translate(err error) error {
	switch {
	case errors.Is(err, cvmfs.ErrNotDir):
		return fmt.Errorf("%w: %w", volume.ErrNotDir, err)
	case errors.Is(err, cvmfs.ErrNotLink):
		return fmt.Errorf("%w: %w", volume.ErrNotLink, err)
	}
	return err
}
