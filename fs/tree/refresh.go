package tree

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	iofs "io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Refresh makes a new index of the revisions that the sources show now, shows
// it when every image was tried, and returns the directories that changed. A source
// that cannot be listed is an error too, but holds up no other: what it had stays;
// neither does an image that cannot be read.
func (t *Tree) Refresh(ctx context.Context) ([]volume.Change, error) {
	t.moving.Lock()
	defer t.moving.Unlock()
	old := t.index.Load()
	var x *index
	x = newIndex(t.ctx, t.o, old, t.spawn, func(apps []string) {
		if t.index.Load() == x {
			t.listingsChanged(apps)
		}
	}, t.sayListable)
	t.spawn(x.build)
	if err := wait(ctx, x.tried); err != nil {
		x.stop()
		_, _, left := x.progress()
		return nil, fmt.Errorf("the command index of the new revision is not complete (%d images left); the old one stays: %w", left, err)
	}
	t.changed.Store(time.Now().UnixNano())
	t.index.Store(x)
	t.listings.Purge() // they hold the old one
	old.stop()
	x.forgetGone(old)
	changes, err := t.compare(ctx, old, x)
	if unlisted := x.unlisted(); unlisted != nil {
		err = errors.Join(err, fmt.Errorf("what was known of a source stays, for it cannot be listed: %w", unlisted))
	}
	return changes, err
}

// Listable is ready once a source can be listed that could not be when the index was
// made: Refresh shows its images. For one receiver.
func (t *Tree) Listable() <-chan struct{} { return t.listable }

func (t *Tree) sayListable() {
	select {
	case t.listable <- struct{}{}:
	default: // it was said
	}
}

// compare finds the directories that the kernel may know and that differ.
func (t *Tree) compare(ctx context.Context, old, x *index) ([]volume.Change, error) {
	dirs := map[string]uint64{}
	err := t.o.Table.Each(dirRecord(""), func(entry uint64, record string) bool {
		dirs[strings.TrimPrefix(record, dirRecord(""))] = entry
		return true
	})
	before, after := generation{t, old, dirs}, generation{t, x, dirs}
	var changes []volume.Change
	for path, entry := range dirs {
		if path == "" || strings.HasPrefix(path, ".neurodeskfs/images") || strings.HasPrefix(path, ".neurodeskfs/locked") || path == "cvmfs" {
			continue // what they show does not depend on the revision
		}
		names, dirErr := differing(ctx, before, after, path)
		err = errors.Join(err, dirErr)
		if len(names) > 0 || dirErr != nil {
			changes = append(changes, volume.Change{Dir: volume.Node{Volume: t, Entry: entry}, Names: names})
		}
	}
	return changes, err
}

// differing lists the names in the directory at path that stand for something
// else after than before, with the errors of those of which it cannot be told now.
func differing(ctx context.Context, before, after generation, path string) (names []string, err error) {
	b, err := after.signs(ctx, path)
	if b == nil {
		return nil, err
	}
	a, aErr := before.signs(ctx, path)
	if aErr != nil && ctx.Err() != nil {
		return nil, aErr
	}
	return unlike(a, b), err
}

// unlike lists the names whose signs differ. What cannot be told of the directory as
// it was (before is nil) or of a name is taken to differ, subdirectories aside: they
// have one node for ever, and to forget one takes away what is mounted below it.
func unlike(before, after map[string]string) (names []string) {
	for name, was := range before {
		is, there := after[name]
		mayBeDir := there && (was == signDir || was == signUnknown) && (is == signDir || is == signUnknown)
		if is != was && !mayBeDir {
			names = append(names, name)
		}
	}
	for name, is := range after {
		if _, known := before[name]; !known && (before != nil || is != signDir && is != signUnknown) {
			names = append(names, name)
		}
	}
	return names
}

// signDir is the sign of a subdirectory, signUnknown that of a name which could not
// be looked up.
const (
	signDir     = "directory"
	signUnknown = "unknown"
)

// signChild is the sign of a name where no other is known.
func signChild(ctx context.Context, child func(context.Context, string) (volume.Child, error), name string) (string, error) {
	c, err := child(ctx, name)
	if err != nil {
		return "", err
	}
	if c.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
		return signDir, nil
	}
	return fmt.Sprintf("%s\x00%d", c.Volume.Key(), c.Entry), nil
}

// signs maps the names in a directory to what they stand for; a directory that
// is not there has none. With an error, some are signUnknown, or the map is nil.
func (t generation) signs(ctx context.Context, path string) (map[string]string, error) {
	d, err := t.directory(path)
	if err != nil {
		return nil, err
	}
	names, err := d.names(ctx)
	if errors.Is(err, iofs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	sign := d.sign
	if sign == nil {
		sign = func(ctx context.Context, name string) (string, error) {
			return signChild(ctx, d.child, name)
		}
	}
	return signAll(ctx, names, sign)
}

func signAll(ctx context.Context, names []string, sign func(context.Context, string) (string, error)) (map[string]string, error) {
	m := map[string]string{}
	var errs []error
	for _, name := range names {
		s, err := sign(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, iofs.ErrNotExist):
			continue
		case err != nil:
			errs = append(errs, err)
			s = signUnknown
		}
		m[name] = s
	}
	return m, errors.Join(errs...)
}

// Changed is when listings changed last.
func (t *Tree) Changed() time.Time { return time.Unix(0, t.changed.Load()) }

// Reconcile waits for the index and returns what the kernel may hold of an earlier
// daemon and that is not so any more: every name that the table has given a node
// which is not the one it has now.
func (t *Tree) Reconcile(ctx context.Context) ([]volume.Change, error) {
	x := t.index.Load()
	if err := wait(ctx, x.tried); err != nil {
		return nil, err
	}
	given, dirs, err := t.given()
	if err != nil {
		return nil, err
	}
	now := generation{t, x, dirs}
	var changes []volume.Change
	for path, entry := range dirs {
		var names []string
		if len(given[path]) > 0 {
			d, err := now.directory(path)
			if err != nil {
				return changes, err
			}
			for name, marks := range given[path] {
				if c, err := d.child(ctx, name); err != nil || len(marks) > 1 || c.Entry != marks[0] {
					names = append(names, name)
				}
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
		}
		if path != "" && path != "cvmfs" && !strings.HasPrefix(path, ".neurodeskfs/images") && !strings.HasPrefix(path, ".neurodeskfs/locked") {
			changes = append(changes, volume.Change{Dir: volume.Node{Volume: t, Entry: entry}, Names: names})
		}
	}
	return changes, nil
}

// Appeared is the change that a repository's raw view is shown whose place, in an
// earlier tree with the same table, was empty.
func (t *Tree) Appeared(fqrn string) (volume.Change, error) {
	n, err := t.o.Table.Intern(dirRecord("cvmfs"))
	return volume.Change{Dir: volume.Node{Volume: t, Entry: n}, Names: []string{fqrn}}, err
}

// given lists the tree's directories that the table has numbered, and the files
// and links in each as generation.intern marks them where it compares.
func (t *Tree) given() (files map[string]map[string][]uint64, dirs map[string]uint64, err error) {
	files, dirs = map[string]map[string][]uint64{}, map[string]uint64{}
	err = t.o.Table.Each(dirRecord(""), func(entry uint64, record string) bool {
		dirs[strings.TrimPrefix(record, dirRecord(""))] = entry
		return true
	})
	err = errors.Join(err, t.o.Table.Each(string(recordLauncher)+"\x00", func(entry uint64, _ string) bool {
		own := files[".neurodeskfs"]
		if own == nil {
			own = map[string][]uint64{}
			files[".neurodeskfs"] = own
		}
		own["launcher"] = append(own["launcher"], entry)
		return true
	}))
	for _, kind := range []byte{recordLink, recordFile} {
		err = errors.Join(err, t.o.Table.Each(string(kind)+"\x00", func(_ uint64, record string) bool {
			place, _, _ := strings.Cut(record[2:], "\x00")
			dir, name := path.Split(place)
			dir = strings.TrimSuffix(dir, "/")
			if files[dir] == nil {
				files[dir] = map[string][]uint64{}
			}
			files[dir][name] = append(files[dir][name], maphash.String(signSeed, record))
			return true
		}))
	}
	return files, dirs, err
}
