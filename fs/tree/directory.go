package tree

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	iofs "io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const absentSoon = 0 // how long the absence of what may come at any time is believed

// generation is the tree at one state of the index.
type generation struct {
	*Tree
	index *index
	// told are the paths of the directories that the kernel may know; nil: nothing
	// is compared, and what is looked up here is told to the kernel.
	told map[string]uint64
}

// now is the generation that is shown.
func (t *Tree) now() generation { return generation{Tree: t, index: t.index.Load()} }

var signSeed = maphash.MakeSeed()

// intern numbers a node. What is only compared gets a number of its own kind: were
// it given one of the table, it would count as known to the kernel from then on,
// and each revision would compare, and make known, what lies one level deeper.
func (t generation) intern(record string) (uint64, error) {
	if t.told != nil {
		return maphash.String(signSeed, record), nil
	}
	return t.o.Table.Intern(record)
}

// directory finds one of the tree's own directories by its path.
func (t generation) directory(p string) (directory, error) {
	part := strings.Split(p, "/")
	switch {
	case p == "":
		return t.fixed(p, "bin", "apps", "modules", "modules-tcl", "share", "cvmfs", ".neurodeskfs"), nil
	case p == "bin":
		return t.binDir(), nil
	case p == "apps":
		return directory{names: t.index.apps, child: t.appChild, absent: absentSoon}, nil
	case part[0] == "apps" && len(part) == 2:
		return t.appDir(part[1]), nil
	case part[0] == "apps" && len(part) == 3:
		return t.buildDir(part[1], part[2]), nil
	case part[0] == "apps" && len(part) == 4 && part[3] == "bin":
		return t.buildBinDir(part[1], part[2]), nil
	case moduleFormats[part[0]] != nil && len(part) <= 2:
		return t.modules(part, *moduleFormats[part[0]]), nil
	case part[0] == "share":
		return t.share(p)
	case p == "cvmfs":
		return t.cvmfsDir(), nil
	case p == ".neurodeskfs":
		return t.ownDir(), nil
	case p == ".neurodeskfs/starts":
		return t.startsDir(), nil
	case p == ".neurodeskfs/images":
		return directory{names: t.imageIDs, child: t.imageChild, absent: absentSoon}, nil
	case part[0] == ".neurodeskfs" && part[1] == "images" && len(part) == 3:
		return t.imageDir(part[2]), nil
	case part[0] == ".neurodeskfs" && part[1] == "locked":
		return t.locked(part[2:]), nil
	case part[0] == ".neurodeskfs" && part[1] == "apps":
		return t.descriptions(part[2:]), nil
	}
	return directory{}, fmt.Errorf("tree: %q: %w", p, volume.ErrStale)
}

// fixed is a directory of directories that are always there.
func (t generation) fixed(parent string, names ...string) directory {
	return directory{
		names: func(context.Context) ([]string, error) { return names, nil },
		child: func(_ context.Context, name string) (volume.Child, error) {
			if !slices.Contains(names, name) {
				return volume.Child{}, notExist(name)
			}
			return t.dir(path.Join(parent, name))
		},
		absent: volume.Forever,
	}
}

func notExist(name string) error { return fmt.Errorf("tree: %q: %w", name, iofs.ErrNotExist) }

// binDir is M/bin.
func (t generation) binDir() directory {
	return directory{
		begin: t.index.settle,
		names: t.index.names,
		listed: func(ctx context.Context, name string) (volume.Child, error) {
			owners, complete, _ := t.index.snapshot()
			o, ok := owners[name]
			if !ok {
				return volume.Child{}, notExist(name)
			}
			if o.Winner.Silent && !o.Winner.image.unseen {
				return t.unopened(ctx, o.Winner.image, name)
			}
			c, err := t.choice(o.Winner.image, name)
			if !complete {
				c.Valid = 0
			}
			return c, err
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			o, final, err := t.index.owner(ctx, name)
			if err != nil {
				c := volume.Child{}
				if final {
					c.Valid = volume.Forever
				}
				return c, err
			}
			if !o.Winner.image.unseen {
				if _, err := t.index.commands(ctx, o.Winner.image); err != nil {
					return volume.Child{}, err
				}
			}
			c, err := t.choice(o.Winner.image, name)
			if !final {
				c.Valid = 0 // another image may turn out to own it
			}
			return c, err
		},
		sign: func(ctx context.Context, name string) (string, error) {
			o, _, err := t.index.owner(ctx, name)
			if err != nil {
				return "", err
			}
			if o.Winner.image.unseen {
				return string(t.chosen(o.Winner.image, name).Format()), nil
			}
			if o.Winner.Silent {
				return t.index.signSilent(ctx, o.Winner.image)
			}
			cmd, _ := command(o.Winner.image.info.Commands, name)
			return strings.Join(append([]string{o.Winner.image.key, cmd.Path, o.Winner.image.shut()}, t.index.options(o.Winner.image)...), "\x00"), nil
		},
	}
}

// appChild is an app's directory.
func (t generation) appChild(ctx context.Context, name string) (volume.Child, error) {
	return t.dirUnless(t.index.stands(ctx, name), "apps/"+name)
}

// links are the symbolic links of an app's directory: each version to its
// newest build that can run, and default to what the site pins, else the newest version that has a live image.
func (p pins) links(app string, list []*img) map[string]string {
	m := map[string]string{}
	for _, i := range list { // newest first
		if _, ok := m[i.version]; !ok {
			m[i.version] = i.build()
		}
	}
	newest := list[0]
	if i := slices.IndexFunc(list, func(m *img) bool { return m.silent || !m.info.Retired }); i >= 0 {
		newest = list[i]
	}
	m["default"] = newest.version
	if pin := p.of(app, list); pin != nil {
		m["default"] = p[app]
	}
	for _, i := range list {
		delete(m, i.build()) // a build's own directory comes first
	}
	return m
}

// appDir is M/apps/NAME.
func (t generation) appDir(app string) directory {
	child := func(ctx context.Context, name string) (volume.Child, error) {
		p := "apps/" + app + "/" + name
		if _, err := t.index.find(ctx, app, name); !errors.Is(err, iofs.ErrNotExist) {
			return t.dirUnless(err, p)
		}
		list, whole, err := t.index.app(ctx, app)
		if err != nil {
			return volume.Child{}, err
		}
		target, ok := t.index.pins.links(app, list)[name]
		if !ok {
			return volume.Child{}, notExist(p)
		}
		c, err := t.link(p, target)
		if !whole {
			c.Valid = 0 // an image that cannot be read yet may be newer
		}
		return c, err
	}
	return directory{
		names: func(ctx context.Context) ([]string, error) {
			list, _, err := t.index.app(ctx, app)
			if err != nil {
				return nil, err
			}
			names := slices.Collect(maps.Keys(t.index.pins.links(app, list)))
			for _, m := range list {
				names = append(names, m.build())
			}
			return names, nil
		},
		child: child,
		listed: func(ctx context.Context, name string) (volume.Child, error) {
			if t.index.unseenBuild(app, name) {
				c, err := t.dir("apps/" + app) // stands for it: its own would count as known to the kernel
				c.Valid = 0                    // the server may not have it: the name only
				return c, err
			}
			return child(ctx, name)
		},
		sign: func(ctx context.Context, name string) (string, error) {
			if m := t.index.named(app, name); m != nil && m.silent {
				if _, told := t.told["apps/"+app+"/"+name]; !told || m.unknown() {
					return signDir, nil // nor need it be looked into: there may be 100,000
				}
			}
			return signChild(ctx, child, name)
		},
		absent: absentSoon,
	}
}

// buildDir is M/apps/NAME/VERSION_DATE.
func (t generation) buildDir(app, build string) directory {
	base := "apps/" + app + "/" + build
	child := func(ctx context.Context, name string) (volume.Child, error) {
		m, err := t.index.find(ctx, app, build)
		if err != nil {
			return volume.Child{}, err
		}
		switch name {
		case "bin":
			return t.dir(base + "/bin")
		case "rootfs":
			if m.info.Retired || m.info.unusable() {
				break
			}
			if m.info.Host != "" {
				return t.link(base+"/rootfs", m.info.Host)
			}
			t.remember(m.info.ImageID, m.info.Spec)
			return t.link(base+"/rootfs", "../../../.neurodeskfs/images/"+m.info.ImageID+"/rootfs")
		case "image.sif":
			return t.imageLink(m, base)
		case "README.md":
			return t.besideFile(ctx, m, base, "README.md")
		case "env":
			return t.envFile(ctx, m, m.info.ImageID, base, path.Join(t.buildPath(m), "rootfs"))
		}
		return volume.Child{}, notExist(base + "/" + name)
	}
	return directory{
		names: func(context.Context) ([]string, error) {
			return []string{"bin", "rootfs", "image.sif", "README.md", "env"}, nil
		},
		child: child,
		listed: func(ctx context.Context, name string) (volume.Child, error) {
			if m, err := t.index.find(ctx, app, build); name != "env" || err != nil || !m.silent {
				c, err := child(ctx, name)
				if err == nil || errors.Is(err, iofs.ErrNotExist) || ctx.Err() != nil || name != "README.md" && name != "env" {
					return c, err
				}
			}
			// A text that cannot be read is no reason not to list the others, and a
			// listing opens no image: its name only, with another node that stands for it.
			c, err := t.dir(base)
			c.Attr.Mode, c.Valid = unix.S_IFREG, 0
			return c, err
		},
		sign: func(ctx context.Context, name string) (string, error) {
			if m, err := t.index.find(ctx, app, build); name == "env" && err == nil && m.silent && m.info.Host == "" {
				return m.info.ImageID, nil // which need not be opened to see that it is another
			}
			return signChild(ctx, child, name)
		},
		absent: volume.Forever,
	}
}

// imageLink leads to the image itself, where that is a single file.
func (t generation) imageLink(m *img, base string) (volume.Child, error) {
	p := base + "/image.sif"
	switch {
	case m.info.Spec.Kind == image.KindBlob:
		t.remember(m.info.ImageID, m.info.Spec)
		return t.link(p, "../../../.neurodeskfs/images/"+m.info.ImageID+"/image.sif")
	case m.file == "" || m.info.Retired:
		return volume.Child{}, notExist(p)
	case path.IsAbs(m.file):
		return t.link(p, m.file)
	}
	return t.link(p, "../../../"+m.file)
}

// besideFile shows a file that lies beside the image in its source.
func (t generation) besideFile(ctx context.Context, m *img, base, name string) (volume.Child, error) {
	text, err := m.container.text(ctx, name)
	if err != nil {
		return volume.Child{}, err
	}
	return t.file(base+"/"+name, 0o644, m.first().published, text)
}

// buildBinDir is M/apps/NAME/VERSION_DATE/bin.
func (t generation) buildBinDir(app, build string) directory {
	base := "apps/" + app + "/" + build + "/bin"
	return directory{
		names: func(ctx context.Context) ([]string, error) {
			m, err := t.index.find(ctx, app, build)
			if err != nil {
				return nil, err
			}
			commands, err := t.index.commands(ctx, m)
			if err != nil {
				return nil, err
			}
			var names []string
			for _, c := range commands {
				names = append(names, c.Name)
			}
			return names, nil
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			m, err := t.index.find(ctx, app, build)
			if err != nil {
				return volume.Child{}, err
			}
			commands, err := t.index.commands(ctx, m)
			if err != nil {
				return volume.Child{}, err
			}
			if _, ok := command(commands, name); !ok {
				return volume.Child{}, notExist(base + "/" + name)
			}
			return t.commandFile(base, t.describe(m, name), m.first().published)
		},
		absent: volume.Forever,
	}
}

// cvmfsDir is M/cvmfs. A repository that the host has mounted is a link there.
func (t generation) cvmfsDir() directory {
	return directory{
		names: func(context.Context) ([]string, error) {
			var names []string
			for _, s := range t.o.Sources {
				if s.raw() {
					names = append(names, s.fqrn())
				}
			}
			return names, nil
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			i := slices.IndexFunc(t.o.Sources, func(s *Source) bool { return s.raw() && s.fqrn() == name })
			if i < 0 {
				return volume.Child{}, notExist("cvmfs/" + name)
			}
			if dir := t.o.Sources[i].Dir; dir != "" {
				return t.link("cvmfs/"+name, dir)
			}
			return t.o.Images.Raw(name).Root(ctx)
		},
		absent: volume.Forever,
	}
}
