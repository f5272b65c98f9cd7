package config

import (
	"fmt"
	"path/filepath"
	"strings"

	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
)

// KindMounted is the kind of a source that the host's CVMFS client has mounted.
const KindMounted = "cvmfs-mounted"

// finishMounted checks a source of that kind, which has no use for servers.
func (s *Source) finishMounted() error {
	setDefault(&s.At, "/cvmfs/@fqrn@")
	s.At = strings.ReplaceAll(s.At, "@fqrn@", s.FQRN)
	switch {
	case !validFQRN(s.FQRN):
		return fmt.Errorf("fqrn %q is no repository's name, such as %s", s.FQRN, builtin.NeurodeskFQRN)
	case !filepath.IsAbs(s.At):
		return fmt.Errorf("at %q must be an absolute path, such as /cvmfs/@fqrn@", s.At)
	case s.Layout != "neurodesk":
		return fmt.Errorf("layout %q has no use with kind = %q", s.Layout, s.Kind)
	case s.Tag != "" || s.RootHash != "" || s.Revision != 0 || !s.Date.IsZero():
		return fmt.Errorf("kind = %q shows what the host has mounted: pin it there", s.Kind)
	}
	return nil
}

// KindDir is the kind of a source that is a folder of the host.
const KindDir = "dir"

// finishDir checks a source of that kind.
func (s *Source) finishDir() error {
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path || s.Path == "/" {
		return fmt.Errorf("kind = %q needs path, an absolute path of a folder of images", s.Kind)
	}
	s.At = s.Path
	setDefault(&s.FQRN, s.Name)
	setDefault(&s.FQRN, filepath.Base(s.Path))
	switch {
	case !validFQRN(s.FQRN):
		return fmt.Errorf("%q is no name for a source: write name = \"letters, digits, dots and dashes\"", s.FQRN)
	case s.Layout != "" || len(s.Servers) > 0 || s.Tag != "" || s.RootHash != "" || s.Revision != 0 || !s.Date.IsZero():
		return fmt.Errorf("kind = %q takes path and name only", s.Kind)
	}
	return nil
}
