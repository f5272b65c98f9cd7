package tree

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"path"
	"strconv"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/image"
)

// store is how one source keeps its images, at one moment.
type store interface {
	// name is what people know the source by: a repository's name.
	name() string
	// list calls fn for every image's container. It opens none.
	list(ctx context.Context, fn func(container)) error
	// document returns a file of the source by its absolute path, at most maxText bytes.
	document(ctx context.Context, path string) ([]byte, error)
}

// container is what lies around one image: the directory NAME_VERSION_DATE with
// commands.txt, env.txt, README.md and the image NAME_VERSION_DATE.simg.
type container interface {
	// about says what listing the source tells.
	about() about
	// text returns a file that lies beside the image, at most maxText bytes.
	text(ctx context.Context, name string) ([]byte, error)
	// rootfs finds the image's root tree; fs.ErrNotExist: it is gone.
	rootfs(ctx context.Context) (rootfs, error)
}

// about is what is known of a container without opening it.
type about struct {
	dir       string // its name: app, version and date joined by underscores
	app       string // "": dir tells app, version and date
	version   string // with app
	silent    bool   // no list of commands lies beside the image: only itself can tell them
	remote    bool   // with silent: finding out more than its name asks a server
	unseen    bool   // with silent: its file in M/bin is made without looking at it
	file      string // the image, if it is a single file: absolute, or a path in the mount; a bucket's has none
	place     string // where the image lies, for people
	key       string // names the content of the container
	revision  uint64 // of the repository; 0 where there is none
	published time.Time
}

// rootfs is an image's root tree: in a repository by its content, or a
// directory of the host.
type rootfs struct {
	id   string
	spec image.Spec
	host string
}

// store looks at a source as it is now.
func (s *Source) store(images *image.Images) store {
	if s.Bucket != nil {
		return blobStore{bucket: s.Bucket, images: images}
	}
	if s.Folder {
		return dirStore{source: s.Name, dir: s.Dir, public: s.Public}
	}
	if s.Dir != "" {
		return hostStore{source: s.Name, root: s.Dir, dir: path.Join(s.Dir, s.Path)}
	}
	r := repoStore{repo: s.Repo, head: s.Repo.Head(), path: s.Path, images: images}
	switch s.Layout {
	case LayoutFlat:
		return flatStore{r}
	case LayoutUnpacked:
		return unpackedStore{r}
	}
	return r
}

// repoStore keeps images in a CVMFS repository, in Neurodesk's layout.
type repoStore struct {
	repo   *cvmfs.Repository
	head   cvmfs.Head
	path   string
	images *image.Images
}

func (s repoStore) name() string { return s.repo.FQRN() }

func (s repoStore) list(ctx context.Context, fn func(container)) error {
	dir, err := s.repo.Resolve(ctx, s.head.Root, s.path)
	if err != nil {
		return err
	}
	var keyErr error
	err = s.repo.ReadDir(ctx, dir.Ref, 0, func(e cvmfs.Entry) bool {
		if !e.IsDir() {
			return true
		}
		key, err := contentKey(ctx, s.repo, e)
		if err != nil {
			keyErr = err
			return false
		}
		fn(repoContainer{s, e, key})
		return true
	})
	return errors.Join(err, keyErr)
}

func (s repoStore) document(ctx context.Context, path string) ([]byte, error) {
	e, err := s.repo.Resolve(ctx, s.head.Root, path)
	if err != nil {
		return nil, err
	}
	return s.repo.ReadFile(ctx, e, maxText)
}

// contentKey names the content of the directory dir: its own catalog's hash, or
// the row of the catalog that it is listed in.
func contentKey(ctx context.Context, repo *cvmfs.Repository, dir cvmfs.Entry) (string, error) {
	ref, ok, err := repo.Attached(ctx, dir)
	if err != nil {
		return "", err
	}
	if ok {
		return repo.FQRN() + "/" + ref.Hash.String() + "/" + dir.Name, nil
	}
	return repo.FQRN() + "/" + dir.Ref.Hash.String() + "/" + strconv.FormatInt(dir.Ref.Row, 10), nil
}

// repoContainer is a container's directory in a repository.
type repoContainer struct {
	repoStore
	dir cvmfs.Entry
	key string
}

func (c repoContainer) about() about {
	a := about{
		dir: c.dir.Name, key: c.key, revision: c.head.Revision, published: c.published(),
		place: c.repo.FQRN() + ":" + path.Join(c.path, c.dir.Name, c.dir.Name+".simg"),
	}
	return a
}

// published is when the revision was made.
func (s repoStore) published() time.Time {
	if s.head.Published.IsZero() { // not known of a root catalog that is pinned by its hash
		return time.Unix(0, 0)
	}
	return s.head.Published
}

func (c repoContainer) text(ctx context.Context, name string) ([]byte, error) {
	e, err := c.repo.Lookup(ctx, c.dir.Ref, name)
	if err != nil {
		return nil, err
	}
	return c.repo.ReadFile(ctx, e, maxText)
}

func (c repoContainer) rootfs(ctx context.Context) (r rootfs, err error) {
	e, err := c.repo.Lookup(ctx, c.dir.Ref, c.dir.Name+".simg")
	if err != nil {
		return r, err
	}
	if !e.IsDir() {
		return r, fmt.Errorf("image %s is a file: only unpacked images can be used", e.Name)
	}
	r.id, r.spec, err = c.images.Identify(ctx, c.repo, e)
	return r, err
}

// notThere reports whether a container lacks something.
func notThere(err error) bool { return errors.Is(err, iofs.ErrNotExist) }
