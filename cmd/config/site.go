package config

import (
	"errors"
	"fmt"
	"os"

	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
)

// fromSite fills in what the site has told the reference client already and
// the source leaves open, so that servers, proxies and keys need not be
// written twice.
func (s *Source) fromSite(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) || s.Kind != "" && s.Kind != "cvmfs" {
		return nil
	}
	fqrn := s.FQRN
	if fqrn == "" && len(s.Servers) == 0 {
		fqrn = builtin.NeurodeskFQRN
	}
	p, err := builtin.Load(dir, fqrn)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	s.Site = map[string]string{}
	note := func(key, parameter string) {
		if setting, ok := p.Get(parameter); ok {
			s.Site[key] = setting.Origin
		}
	}
	if len(s.Servers) == 0 {
		s.Servers = p.Servers()
		note("servers", "CVMFS_SERVER_URL")
		if geo, err := p.UseGeoAPI(); err == nil && geo && len(s.Servers) > 0 {
			setDefault(&s.Order, "geo")
		}
	}
	if len(s.PublicKeys) == 0 {
		s.PublicKeys = p.PublicKeys()
		note("public_keys", "CVMFS_PUBLIC_KEY")
	}
	if s.Proxies == "" {
		s.Proxies = p.HTTPProxy()
		setDefault(&s.FallbackProxies, p.FallbackProxy())
		note("proxies", "CVMFS_HTTP_PROXY")
	}
	return nil
}
