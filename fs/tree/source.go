package tree

import (
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
)

// LayoutNeurodesk is containers/NAME_VERSION_DATE/NAME_VERSION_DATE.simg/ with
// commands.txt beside it. LayoutFlat is a directory of single-file images named
// TOOL:VERSION. LayoutUnpacked is REGISTRY/REPO:TAG, links to root trees. LayoutRaw shows a repository under cvmfs/ only.
const (
	LayoutNeurodesk = "neurodesk"
	LayoutFlat      = "flat"
	LayoutUnpacked  = "unpacked"
	LayoutRaw       = "none"
)

// Source is a repository and how images lie in it: one that we read ourselves,
// or one that the host has mounted. Or it is a folder, or a bucket, of images.
type Source struct {
	Repo   *cvmfs.Repository
	Bucket *blob.Bucket // instead of Repo: files on object storage
	Dir    string       // instead of Repo: where the host has it mounted
	Name   string       // with Dir: the repository's name
	Folder bool         // Dir is a folder of images, no repository
	Public bool         // with Folder: others may use the mount
	Layout string
	Path   string // absolute; where the images are
}

func (s *Source) fqrn() string {
	switch {
	case s.Bucket != nil:
		return s.Bucket.Name()
	case s.Dir != "":
		return s.Name
	}
	return s.Repo.FQRN()
}

// raw reports whether the source is shown under cvmfs/.
func (s *Source) raw() bool { return !s.Folder && s.Bucket == nil }
