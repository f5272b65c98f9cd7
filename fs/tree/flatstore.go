package tree

import (
	"context"
	"path"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// flatStore is one directory of a repository, of any size, that holds nothing
// but images, each a single file: TOOL:VERSION--BUILD.
type flatStore struct{ repoStore }

func (s flatStore) list(ctx context.Context, fn func(container)) error {
	dir, err := s.repo.Resolve(ctx, s.head.Root, s.path)
	if err != nil {
		return err
	}
	return s.repo.ReadDir(ctx, dir.Ref, 0, func(e cvmfs.Entry) bool {
		app, version, ok := splitTag(e.Name)
		if ok && e.IsRegular() && e.Size > 0 {
			fn(&flatContainer{store: s, ref: e.Ref, app: app, version: version})
		}
		return true
	})
}

// splitTag takes NAME:VERSION apart. Both become names in the tree.
func splitTag(s string) (app, version string, ok bool) {
	app, version, ok = strings.Cut(s, ":")
	ok = ok && app != "" && version != "" && nameable(app) && nameable(version) && !strings.ContainsRune(version, '/')
	return app, version, ok
}

// flatContainer is an image that is a file of a repository. There may be 100,000.
type flatContainer struct {
	store        flatStore
	ref          cvmfs.Ref
	app, version string
}

func (c *flatContainer) about() about {
	name := c.app + ":" + c.version
	a := about{
		dir: name, app: c.app, version: c.version, silent: true, revision: c.store.head.Revision, published: c.store.published(),
		place: c.store.repo.FQRN() + ":" + path.Join(c.store.path, name),
		file:  path.Join("cvmfs", c.store.repo.FQRN(), c.store.path, name),
	}
	return a
}

func (c *flatContainer) text(_ context.Context, name string) ([]byte, error) {
	return nil, notExist(name)
}

func (c *flatContainer) rootfs(ctx context.Context) (r rootfs, err error) {
	e, err := c.store.repo.Stat(ctx, c.ref)
	if err != nil {
		return r, err
	}
	r.id, r.spec, err = c.store.images.Identify(ctx, c.store.repo, e)
	return r, err
}
