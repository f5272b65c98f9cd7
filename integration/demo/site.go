package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// fqrn is the name of the demo's repository.
const fqrn = "demo.example.org"

// site is a published repository and the Stratum 1 that serves it.
type site struct {
	server *cvmfstest.Server
	key    []byte // the public master key
	files  int
	size   int64 // bytes of the files
	stored int64 // bytes of the objects that hold them
}

// openSite publishes the tree at dir and starts the server.
func openSite(ctx context.Context, dir string) (*site, error) {
	// the manifest is not asked for again while the demo counts requests
	repo, err := cvmfstest.New(cvmfstest.Options{FQRN: fqrn, TTL: time.Hour})
	if err != nil {
		return nil, err
	}
	tree, err := cvmfstest.FromDir(dir)
	if err != nil {
		return nil, err
	}
	s := &site{}
	paths, err := s.walk(dir, tree)
	if err != nil {
		return nil, err
	}
	revision, err := repo.Publish(ctx, tree)
	if err != nil {
		return nil, err
	}
	if s.key, err = repo.Keys.MasterPEM(); err != nil {
		return nil, err
	}
	if s.stored, err = weigh(repo.Store, revision, paths); err != nil {
		return nil, err
	}
	if s.server, err = cvmfstest.NewServer(); err != nil {
		return nil, err
	}
	s.server.Add(fqrn, repo.Store)
	return s, nil
}

// walk counts what is in dir, gives tree, which was made of it, to root, and
// returns the paths.
func (s *site) walk(dir string, tree *cvmfstest.Tree) (paths []string, err error) {
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		node := tree.Get(rel)
		node.UID, node.GID = 0, 0 // whoever built the images
		paths = append(paths, rel)
		if e.Type().IsRegular() {
			info, err := e.Info()
			if err != nil {
				return err
			}
			s.files++
			s.size += info.Size()
		}
		return nil
	})
	return paths, err
}

// weigh adds up the objects that a client would have to fetch to hold the images
// at paths: their files and their catalogs, each object once.
func weigh(store *cvmfstest.Store, revision *cvmfstest.Revision, paths []string) (int64, error) {
	var sum int64
	seen := map[string]bool{}
	for _, p := range paths {
		for _, object := range revision.Objects(p) {
			if seen[object] {
				continue
			}
			seen[object] = true
			info, err := fs.Stat(store, object)
			if err != nil {
				return 0, err
			}
			sum += info.Size()
		}
	}
	return sum, nil
}

// config is the configuration file of a user of the site.
func (s *site) config(cache, key string) string {
	return fmt.Sprintf(`[cache]
dir = %q
quota = "1GiB"

[[source]]
fqrn = %q
servers = [%q]
public_keys = [%q]
`, cache, fqrn, s.server.URL(), key)
}

// mebibytes writes a number of bytes.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
