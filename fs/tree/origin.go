package tree

import (
	"context"
	"errors"
	"fmt"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
)

// Origin is where an image's bytes come from: all that lies at and below Entry,
// or a file of a bucket; neither for one that lies in a folder of this machine.
type Origin struct {
	Build  string // NAME/VERSION_DATE
	Source string // its name
	Repo   *cvmfs.Repository
	Entry  cvmfs.Entry
	File   *blob.Reader
}

// ErrMounted is returned for an image whose bytes come by what the machine has
// mounted.
var ErrMounted = errors.New("its bytes do not come over our network")

// origins is a container that says where its bytes come from.
type origins interface {
	origin(ctx context.Context) (Origin, error)
}

func (c repoContainer) origin(context.Context) (Origin, error) {
	return Origin{Repo: c.repo, Entry: c.dir}, nil
}

func (c *flatContainer) origin(ctx context.Context) (Origin, error) {
	e, err := c.store.repo.Stat(ctx, c.ref)
	return Origin{Repo: c.store.repo, Entry: e}, err
}

func (c *unpackedContainer) origin(ctx context.Context) (Origin, error) {
	e, err := c.entry(ctx)
	return Origin{Repo: c.store.repo, Entry: e}, err
}

func (c *blobContainer) origin(ctx context.Context) (o Origin, err error) {
	f, err := c.store.bucket.Find(ctx, c.file)
	if err == nil {
		o.File = c.store.bucket.Open(f)
	}
	return o, err
}

func (c dirContainer) origin(context.Context) (Origin, error) { return Origin{}, nil }

// Origin finds an image by its app and a name as in M/apps/APP: a version, a
// build, "default". The error wraps fs.ErrNotExist or ErrMounted, or is the source's.
func (t *Tree) Origin(ctx context.Context, app, version string) (o Origin, err error) {
	x := t.index.Load()
	list, _, err := x.app(ctx, app)
	if err != nil {
		return o, err
	}
	links, build := x.pins.links(app, list), version
	for range 2 { // default -> version -> build
		if linked, ok := links[build]; ok {
			build = linked
		}
	}
	for _, m := range list {
		if m.build() != build {
			continue
		}
		if info, err := x.await(ctx, m); err == nil && info.Retired {
			return o, fmt.Errorf("%s is retired: the repository %s no longer holds its image", m.build(), m.source)
		}
		return m.origin(ctx)
	}
	return o, fmt.Errorf("version %q of app %q: %w", version, app, notExist(version))
}

// LockedOrigin is Origin of the image that is shown at M/.neurodeskfs/locked/PLACE.
func (t *Tree) LockedOrigin(ctx context.Context, place string) (Origin, error) {
	m, err := t.now().lockedImage(ctx, place)
	if err != nil {
		return Origin{}, err
	}
	return m.origin(ctx)
}

func (m *img) origin(ctx context.Context) (o Origin, err error) {
	name := m.app + "/" + m.build()
	if c, ok := m.container.(origins); ok {
		o, err = c.origin(ctx)
	} else {
		err = fmt.Errorf("%s of %s: %w", name, m.source, ErrMounted)
	}
	o.Build, o.Source = name, m.source
	return o, err
}

// Tried waits until each image that has a list of its commands was looked at once.
func (t *Tree) Tried(ctx context.Context) error { return wait(ctx, t.index.Load().tried) }
