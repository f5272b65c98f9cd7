package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
)

// fromSite fills in what the site has told the reference client already and
// the source leaves open, so that servers, proxies and keys need not be
// written twice.
func (s *Source) fromSite(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) || s.Kind != "" && s.Kind != "cvmfs" {
		return nil
	}
	if s.FQRN == "" && len(s.Servers) == 0 {
		s.FQRN = builtin.NeurodeskFQRN // before the site's servers are there
	}
	p, err := builtin.Load(dir, s.FQRN)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	s.Site, s.Variables = map[string]string{}, p.Variables()
	note := func(key, parameter string) {
		if setting, ok := p.Get(parameter); ok {
			s.Site[key] = setting.Origin
			return
		}
		for _, n := range p.Notes { // set where only a shell can tell: it does not hold here
			if parameter != "" && strings.Contains(n, parameter) && !slices.Contains(s.SiteNotes, n) {
				s.SiteNotes = append(s.SiteNotes, n)
			}
		}
	}
	if len(s.Servers) == 0 {
		s.Servers = p.Servers()
		note("servers", "CVMFS_SERVER_URL")
		if geo, err := p.UseGeoAPI(); err == nil && geo && len(s.Servers) > 0 {
			setDefault(&s.Order, "geo")
		}
		if follow, err := p.FollowRedirects(); err == nil && follow && len(s.Servers) > 0 {
			s.FollowRedirects = true
			note("follow_redirects", "CVMFS_FOLLOW_REDIRECTS")
		}
	}
	if len(s.PublicKeys) == 0 {
		named := keysParameter(p)
		if named != "" || s.FQRN != builtin.NeurodeskFQRN {
			s.PublicKeys = p.PublicKeys()
		}
		note("public_keys", cmp.Or(named, "CVMFS_KEYS_DIR"))
	}
	if s.Proxies == "" {
		s.Proxies = p.HTTPProxy()
		setDefault(&s.FallbackProxies, p.FallbackProxy())
		note("proxies", "CVMFS_HTTP_PROXY")
	}
	if s.Blacklist == "" {
		s.Blacklist, s.SiteBlacklist = p.Blacklist(), true
		note("blacklist", "CVMFS_BLACKLIST")
	}
	return nil
}

// Variable is what $(name) in a variant symlink stands for: what the site has set for
// the reference client, else what the environment has.
func (s *Source) Variable(name string) (string, bool) {
	if value, ok := s.Variables[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}

// keysParameter is which parameter names the keys; "": the site is silent, and a
// repository whose key is built in goes by that.
func keysParameter(p builtin.Parameters) string {
	for _, name := range []string{"CVMFS_KEYS_DIR", "CVMFS_PUBLIC_KEY"} { // in the order that PublicKeys goes by
		if setting, ok := p.Get(name); ok && strings.TrimSpace(setting.Value) != "" {
			return name
		}
	}
	return ""
}
