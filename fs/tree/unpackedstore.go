package tree

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

const (
	maxUnpackedDepth = 32      // directories below one another that are looked through
	maxUnpackedLinks = 8       // links that lead to an image's root tree, one after the other
	maxUnpacked      = 1000000 // images of one repository
	maxUnpackedDirs  = 1000000 // directories of one: by bind mountpoints a few catalogs can show any number
)

// unpackedStore is a repository with REGISTRY/REPO:TAG, at any depth, being
// links to root trees that lie in a hidden directory.
type unpackedStore struct{ repoStore }

func (s unpackedStore) list(ctx context.Context, fn func(container)) error {
	dir, err := s.repo.Resolve(ctx, s.head.Root, strings.TrimSuffix(s.path, "/"))
	if err != nil {
		return err
	}
	w := unpackedWalk{store: s}
	if err := w.walk(ctx, dir, path.Join("/", s.path), 0); err != nil {
		return err
	}
	repositories := map[string]bool{}
	for _, c := range w.found {
		repositories[c.repository] = true
	}
	apps := appNames(repositories)
	for _, c := range w.found {
		if c.app = apps[c.repository]; c.app != "" {
			fn(c)
		}
	}
	return nil
}

// unpackedWalk looks through a repository once.
type unpackedWalk struct {
	store unpackedStore
	found []*unpackedContainer
	dirs  int // looked through
}

// walk finds the images below the directory dir, which is at place.
func (w *unpackedWalk) walk(ctx context.Context, dir cvmfs.Entry, place string, depth int) error {
	s := w.store
	if w.dirs++; w.dirs > maxUnpackedDirs {
		return fmt.Errorf("%s: more than %d directories: give path = the registry's folder", s.repo.FQRN(), maxUnpackedDirs)
	}
	var deeper []cvmfs.Entry
	err := s.repo.ReadDir(ctx, dir.Ref, 0, func(e cvmfs.Entry) bool {
		name, tag, ok := splitTag(e.Name)
		switch {
		case ok && (e.IsSymlink() || e.IsDir() && (place != "/" || !isPort(tag))):
			w.found = append(w.found, &unpackedContainer{store: s, place: path.Join(place, e.Name), repository: path.Join(place, name), tag: tag})
		case e.IsDir() && !strings.HasPrefix(e.Name, "."):
			deeper = append(deeper, e)
		}
		return len(w.found) < maxUnpacked
	})
	if err != nil {
		return err
	}
	if depth == maxUnpackedDepth {
		return fmt.Errorf("%s:%s: directories lie deeper than %d levels: give path = the registry's folder", s.repo.FQRN(), place, depth)
	}
	for _, e := range deeper {
		if err := w.walk(ctx, e, path.Join(place, e.Name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// isPort reports whether what follows a colon may be a port: a directory at the
// repository's root is a registry then, REGISTRY:PORT.
func isPort(tag string) bool {
	_, err := strconv.ParseUint(tag, 10, 16)
	return err == nil
}

// appNames gives each repository, a path REGISTRY/DIRECTORY/NAME, an app's
// name: its last part; where an earlier one by name has that, the path without
// the registry, with dots; else all of it.
func appNames(repositories map[string]bool) map[string]string {
	sorted := make([]string, 0, len(repositories))
	for r := range repositories {
		sorted = append(sorted, r)
	}
	slices.Sort(sorted)
	names, taken := map[string]string{}, map[string]bool{}
	for _, r := range sorted {
		full := strings.TrimPrefix(r, "/")
		_, inside, _ := strings.Cut(full, "/")
		for _, name := range []string{path.Base(full), strings.ReplaceAll(inside, "/", "."), strings.ReplaceAll(full, "/", ".")} {
			if name != "" && nameable(name) && !taken[name] {
				names[r], taken[name] = name, true
				break
			}
		}
	}
	return names
}

// unpackedContainer is one tag of one repository.
type unpackedContainer struct {
	store      unpackedStore
	place      string // path of the link
	repository string // path without the tag
	app, tag   string
}

func (c *unpackedContainer) about() about {
	return about{
		dir: path.Base(c.place), app: c.app, version: c.tag, silent: true, place: c.store.repo.FQRN() + ":" + c.place,
		revision: c.store.head.Revision, published: c.store.published(),
	}
}

func (c *unpackedContainer) text(_ context.Context, name string) ([]byte, error) {
	return nil, notExist(name)
}

func (c *unpackedContainer) rootfs(ctx context.Context) (r rootfs, err error) {
	e, err := c.entry(ctx)
	if err != nil {
		return r, err
	}
	r.id, r.spec, err = c.store.images.Identify(ctx, c.store.repo, e)
	return r, err
}

// entry follows the links to the image's root tree.
func (c *unpackedContainer) entry(ctx context.Context) (e cvmfs.Entry, err error) {
	place := c.place
	for range maxUnpackedLinks {
		e, err = c.store.repo.Resolve(ctx, c.store.head.Root, place)
		if err != nil || !e.IsSymlink() {
			return e, err
		}
		if place, err = c.target(place, c.store.repo.Expand(e.Symlink)); err != nil {
			return e, err
		}
	}
	return e, fmt.Errorf("%s:%s: more than %d links", c.store.repo.FQRN(), c.place, maxUnpackedLinks)
}

// target is the path in the repository that the link at place leads to.
func (c *unpackedContainer) target(place, link string) (string, error) {
	if !path.IsAbs(link) {
		return path.Join(path.Dir(place), link), nil
	}
	inside, ok := strings.CutPrefix(path.Clean(link), "/cvmfs/"+c.store.repo.FQRN()+"/")
	if !ok {
		return "", fmt.Errorf("%w: it leads out of the repository", notExist(link))
	}
	return "/" + inside, nil
}
