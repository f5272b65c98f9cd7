package image

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// File bundles of CVMFS 2.14 (cvmfs pull request 4002): .cvmfsbundle-NAME beside
// the file NAME lists the files of the repository that are read after it.
const (
	bundlePrefix    = ".cvmfsbundle-"
	maxBundle       = 1 << 20 // bytes of the list
	maxDependencies = 8192
	maxBundleBytes  = 512 << 20 // of what it names: a wrong list costs no more than that
)

// parseBundle reads the list: absolute paths from the repository's root.
func parseBundle(b []byte) ([]string, error) {
	var list struct {
		Name, Version string
		Dependencies  []string
	}
	if len(b) > maxBundle {
		return nil, fmt.Errorf("file bundle of more than %d bytes", maxBundle)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("file bundle: %w", err)
	}
	if list.Name != "CVMFS_BUNDLE" || list.Version == "" || list.Version[0] != '1' {
		return nil, fmt.Errorf("file bundle: %.40q of version %.40q is not known", list.Name, list.Version)
	}
	if len(list.Dependencies) > maxDependencies {
		return nil, fmt.Errorf("file bundle of %d files: at most %d are taken", len(list.Dependencies), maxDependencies)
	}
	for _, name := range list.Dependencies {
		if !path.IsAbs(name) || path.Clean(name) != name || name == "/" || len(name) > 4096 {
			return nil, fmt.Errorf("file bundle: %.80q is no clean absolute path", name)
		}
	}
	return list.Dependencies, nil
}

// bundle fetches what the publisher says is read after the file name.
func (f *foresight) bundle(ctx context.Context, name string) {
	files := VolumeFiles(f.root)
	at, err := files.Resolve(ctx, path.Join(path.Dir(name), bundlePrefix+path.Base(name)))
	if err != nil || !at.IsRegular() {
		return
	}
	text, err := files.ReadFile(ctx, at.Path, maxBundle+1)
	if err != nil {
		return
	}
	list, err := parseBundle(text)
	if err != nil {
		return // its publisher's affair: nothing is slower than without it
	}
	var plan cvmfs.Plan
	root := f.repo.Head().Root
	for _, dependency := range list {
		e, err := f.repo.Resolve(ctx, root, dependency)
		if err == nil && e.IsRegular() && plan.Bytes+e.Size <= maxBundleBytes {
			_ = f.repo.Add(ctx, &plan, e, nil) // what cannot be found is read later, or not
		}
	}
	_, _ = f.repo.Prefetch(ctx, &plan, func(cvmfs.Prefetched) {}) // whoever needs one of them will see what is wrong
}
