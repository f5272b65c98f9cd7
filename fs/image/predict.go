package image

import (
	"context"
	"path"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// What is fetched before it is asked for when an image is used with an empty
// cache:
//
//   - when something is looked for in its root: its catalogs, and what every
//     runtime touches in every image;
//   - when a program or library is read: its interpreters, its loader and all
//     libraries that it is linked with, which it cannot start without;
//   - when Python starts: its standard library's modules, and the packages that
//     the script imports; when a module of Python or Perl is read, its neighbours
//     in the directory. Of one directory that is at most maxNeighbours files of
//     maxNeighbourBytes. These are guesses, which are left out where a trace
//     tells better;
//   - when a file is read that has a bundle beside it: what that names.

// touched is what apptainer 1.4 was seen to read of every image, besides its
// environment scripts. It runs no shell of the image for a start.
var touched = []string{"/etc/passwd", "/etc/group", "/etc/ld.so.cache"}

const (
	maxNeighbours     = 256
	maxNeighbourBytes = 8 << 20 // of content: about half of that on the network
	maxForeseen       = 1024    // files for which it is remembered that they were looked at
)

// foresight fetches ahead for one image whose tree lies in a repository's
// directories. Safe for concurrent use.
type foresight struct {
	repo *cvmfs.Repository
	root volume.Child
	once sync.Once
	seen *lru.Cache[cvmfs.Ref, bool]

	turn   sync.Mutex // held by who uses linker
	linker *Linker
}

func newForesight(v *view, root cvmfs.Ref) *foresight {
	seen, err := lru.New[cvmfs.Ref, bool](maxForeseen)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &foresight{
		repo: v.repo, seen: seen,
		root: volume.Child{Node: volume.Node{Volume: v.at(root.CatalogRef), Entry: uint64(root.Row)}},
	}
}

// Foretold says that a trace tells what the image id will be read for, or that it
// does so no more: meanwhile nothing is guessed.
func (s *Images) Foretold(id string, told bool) {
	s.watch(id).foretold.Store(told)
}

// enter is called when something is looked for in the image's root.
func (f *foresight) enter() {
	f.once.Do(func() {
		c := f.root.Volume.(*catalogVolume)
		f.repo.Background(func(ctx context.Context) { f.repo.PrefetchCatalogs(ctx, c.at(f.root.Entry)) })
		f.fetch(touched...)
		f.fetchDir(envScripts, func(name string) bool { return strings.HasSuffix(name, ".sh") })
	})
}

// read is called when the first bytes of a file are asked for that is not in the
// cache.
func (f *foresight) read(ref cvmfs.Ref, guess bool) {
	if known, _ := f.seen.ContainsOrAdd(ref, true); known {
		return
	}
	f.repo.Background(func(ctx context.Context) {
		e, err := f.repo.Stat(ctx, ref)
		if err != nil {
			return
		}
		name, err := f.path(ctx, ref)
		if err != nil {
			return
		}
		if guess {
			f.bundle(ctx, name)
		}
		switch {
		case isModule(name):
			if guess && !strings.Contains(name, "/encodings/") { // of those one is needed, not all
				f.fetchDir(path.Dir(name), isModule)
			}
		case strings.HasPrefix(name, "/.singularity.d/"): // the runtime reads them, and runs them itself
		case e.Mode&0o111 != 0 || strings.Contains(e.Name, ".so"):
			f.start(ctx, name, guess)
		}
	})
}

// isModule tells modules that programs in Python and Perl load by dozens.
func isModule(name string) bool {
	return strings.HasSuffix(name, ".pyc") || strings.HasSuffix(name, ".pm")
}

// path is where ref lies in the image.
func (f *foresight) path(ctx context.Context, ref cvmfs.Ref) (string, error) {
	c := f.root.Volume.(*catalogVolume)
	top, err := f.repo.Path(ctx, c.at(f.root.Entry))
	if err != nil {
		return "", err
	}
	at, err := f.repo.Path(ctx, ref)
	return strings.TrimPrefix(at, top), err
}

// start fetches what the program, or library, name takes to start.
func (f *foresight) start(ctx context.Context, name string, guess bool) {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.linker == nil {
		l, err := NewLinker(ctx, VolumeFiles(f.root))
		if err != nil {
			return
		}
		l.ahead = f.fetch
		f.linker = l
	}
	s, err := f.linker.Start(ctx, name)
	if guess && err == nil { // else it shows when the program itself is started
		f.python(ctx, s.Files)
	}
}

// fetchDir has the files of a directory fetched whose names like accepts, within
// the bounds for neighbours.
func (f *foresight) fetchDir(name string, like func(name string) bool) {
	f.repo.Background(func(ctx context.Context) {
		files := VolumeFiles(f.root)
		dir, err := files.Resolve(ctx, name)
		if err != nil || !dir.IsDir() {
			return
		}
		e, err := files.tree.(volumeTree).find(ctx, dir.Path)
		if err != nil {
			return
		}
		if c, ok := e.Volume.(*catalogVolume); ok {
			f.repo.PrefetchFiles(ctx, c.at(e.Entry), maxNeighbours, maxNeighbourBytes, like)
		}
	})
}

// fetch has the beginnings of files fetched, all at once, links followed. What is
// not there counts as nothing. A small file has no more than a beginning.
func (f *foresight) fetch(names ...string) {
	for _, name := range names {
		f.repo.Background(func(ctx context.Context) {
			files := VolumeFiles(f.root)
			if at, err := files.Resolve(ctx, name); err == nil && at.IsRegular() {
				_, _ = files.tree.readAt(ctx, at.Path, make([]byte, 1), 0)
			}
		})
	}
}
