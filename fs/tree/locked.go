package tree

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"

	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// maxLocked is how many images of locked revisions are remembered; a forgotten one is found again by its name.
const maxLocked = 256

// lockedImage is an image of a revision that a lock file names.
type lockedImage struct {
	img
	commands []Command
}

// lockedImages remembers the images found by their names below .neurodeskfs/locked.
type lockedImages = lru.Cache[string, *lockedImage]

// newLockedImages makes an empty table.
func newLockedImages() *lockedImages {
	c, err := lru.New[string, *lockedImage](maxLocked)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}

// locked is M/.neurodeskfs/locked[/PLACE[/bin]]: images as they are in the revisions that lock files name, whatever the
// repository shows today. PLACE (launch.Locked.Place) holds all that finding one takes. It is anybody's word, so:
//
//   - no more is done than to open a catalog of a configured repository by its hash, verified like every other, and to
//     look the path up from there; it is shown only if the image's content has the hash that the name says;
//   - nothing that is learnt of it is kept where images of signed revisions are: it is a view of its own, neither found at
//     images/HASH nor in the index, for a root catalog that nobody signed may attach good catalogs at wrong paths.
//
// What runs from there is thus as trustworthy as the lock file of the user who runs it, and nobody else's concern.
func (t generation) locked(part []string) directory {
	none := func(name string) error { return notExist(".neurodeskfs/locked/" + name) }
	if len(part) == 0 {
		return directory{names: noNames, absent: absentSoon, child: func(ctx context.Context, name string) (volume.Child, error) {
			_, err := t.lockedImage(ctx, name)
			return t.dirUnless(err, ".neurodeskfs/locked/"+name)
		}}
	}
	base := ".neurodeskfs/locked/" + part[0]
	if len(part) == 2 && part[1] == "bin" {
		return t.lockedBin(part[0], base+"/bin")
	}
	if len(part) > 1 {
		return directory{names: noNames, child: func(_ context.Context, name string) (volume.Child, error) { return volume.Child{}, none(name) }}
	}
	return directory{
		names:  func(context.Context) ([]string, error) { return []string{"bin", "description", "env", "rootfs"}, nil },
		absent: volume.Forever,
		child: func(ctx context.Context, name string) (volume.Child, error) {
			m, err := t.lockedImage(ctx, part[0])
			if err != nil {
				return volume.Child{}, err
			}
			switch name {
			case "bin":
				return t.dir(base + "/bin")
			case "description":
				return t.file(base+"/"+name, 0o644, m.published, t.describeLocked(m, part[0], "sh").Format())
			case "env":
				return t.envFile(ctx, &m.img, part[0], base, path.Join(t.o.Mountpoint, base, "rootfs"))
			case "rootfs":
				return t.o.Images.Root(ctx, part[0], m.info.Spec)
			}
			return volume.Child{}, none(part[0] + "/" + name)
		},
	}
}

func noNames(context.Context) ([]string, error) { return nil, nil }

// lockedBin holds the commands of one locked image.
func (t generation) lockedBin(place, base string) directory {
	return directory{
		names: func(ctx context.Context) (names []string, err error) {
			m, err := t.lockedImage(ctx, place)
			if err != nil {
				return nil, err
			}
			for _, c := range m.commands {
				names = append(names, c.Name)
			}
			return names, nil
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			m, err := t.lockedImage(ctx, place)
			if err != nil {
				return volume.Child{}, err
			}
			if _, ok := command(m.commands, name); !ok {
				return volume.Child{}, notExist(base + "/" + name)
			}
			return t.commandFile(base, t.describeLocked(m, place, name), m.published)
		},
		absent: volume.Forever,
	}
}

// describeLocked says what running name from m means.
func (t *Tree) describeLocked(m *lockedImage, place, name string) launch.Command {
	c := launch.Command{
		Launcher: t.launcherPath(), Command: name, App: m.app, Version: m.version, Date: m.date, Image: m.place, Revision: m.revision,
		Hash: m.info.ImageID, Rootfs: path.Join(t.o.Mountpoint, ".neurodeskfs/locked", place, "rootfs"),
	}
	if cmd, ok := command(m.commands, name); ok {
		c.Path = cmd.Path
	}
	if reason := m.refused.Load(); reason != nil {
		c.Refused = *reason
	}
	return c
}

// lockedImage finds the image that a name below .neurodeskfs/locked stands for. fs.ErrNotExist is returned for a name that
// is none, and where the revision does not have that very image.
func (t generation) lockedImage(ctx context.Context, place string) (*lockedImage, error) {
	if m, ok := t.lockedSeen.Get(place); ok {
		return m, nil
	}
	want, ok := launch.ParsePlace(place)
	i := slices.IndexFunc(t.o.Sources, func(s *Source) bool { return s.Repo != nil && s.fqrn() == want.Repository && s.Layout != LayoutRaw })
	if !ok || i < 0 {
		return nil, notExist(place)
	}
	root, err := hash.Parse(want.RootHash)
	if err != nil {
		return nil, notExist(place)
	}
	source := t.o.Sources[i]
	head, err := source.Repo.At(ctx, root)
	if err != nil {
		return nil, err
	}
	c, err := source.container(ctx, repoStore{repo: source.Repo, head: head, path: source.Path, images: t.o.Images}, want.Image)
	if err != nil {
		return nil, err
	}
	m := &lockedImage{img: img{about: c.about(), container: c, source: source.fqrn()}}
	if m.app, m.version = m.about.app, m.about.version; m.app == "" {
		if m.app, m.version, m.date, ok = splitImageName(m.about.dir); !ok {
			return nil, notExist(place)
		}
	}
	x := t.index
	if m.info, err = x.examine(ctx, &m.img); err != nil {
		return nil, err
	}
	if m.info.ImageID != want.Hash || m.info.Host != "" {
		return nil, fmt.Errorf("its content is %q: %w", m.info.ImageID, notExist(place))
	}
	m.commands = m.info.Commands
	if m.silent {
		m.commands, err = x.lookInside(ctx, m.app, place, m.info)
		if errors.Is(err, image.ErrRefused) {
			m.commands, err = x.refuse(&m.img, err), nil
		}
	}
	if err != nil {
		return nil, err
	}
	t.lockedSeen.Add(place, m)
	return m, nil
}

// container is the one whose image is at place, in the revision that s shows.
func (s *Source) container(ctx context.Context, r repoStore, place string) (container, error) {
	above := path.Dir(place)
	switch s.Layout {
	case LayoutFlat:
		if above != s.Path {
			return nil, notExist(place)
		}
		e, err := r.repo.Resolve(ctx, r.head.Root, place)
		app, version, ok := splitTag(path.Base(place))
		if err == nil && (!ok || !e.IsRegular()) {
			err = notExist(place)
		}
		return &flatContainer{store: flatStore{r}, ref: e.Ref, app: app, version: version}, err
	case LayoutUnpacked:
		name, tag, ok := splitTag(path.Base(place))
		if !ok || !strings.HasPrefix(place, strings.TrimSuffix(s.Path, "/")+"/") {
			return nil, notExist(place)
		}
		return &unpackedContainer{store: unpackedStore{r}, place: place, repository: path.Join(above, name), app: name, tag: tag}, nil
	}
	if path.Dir(above) != s.Path || path.Base(place) != path.Base(above)+".simg" {
		return nil, notExist(place)
	}
	dir, err := r.repo.Resolve(ctx, r.head.Root, above)
	if err == nil && !dir.IsDir() {
		err = notExist(place)
	}
	return repoContainer{r, dir, ""}, err
}
