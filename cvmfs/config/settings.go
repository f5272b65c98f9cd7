package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
)

// Each accessor below returns what the product takes over from the reference client's
// configuration, or that one's default where it is not set or empty. Its error wraps
// ErrParameter and says where the value stands.

// Servers is CVMFS_SERVER_URL, split at ";" with @fqrn@ and @org@ replaced.
// Default none.
func (p Parameters) Servers() []string {
	org, _, _ := strings.Cut(p.FQRN, ".")
	var servers []string
	for s := range strings.SplitSeq(p.text("CVMFS_SERVER_URL"), ";") {
		if s = strings.TrimSpace(s); s != "" {
			servers = append(servers, strings.NewReplacer("@fqrn@", p.FQRN, "@org@", org).Replace(s))
		}
	}
	return servers
}

// HTTPProxy is CVMFS_HTTP_PROXY, in its own syntax. Default "": the reference
// client refuses to mount then.
func (p Parameters) HTTPProxy() string { return p.text("CVMFS_HTTP_PROXY") }

// FallbackProxy is CVMFS_FALLBACK_PROXY, in the same syntax. Default "".
func (p Parameters) FallbackProxy() string { return p.text("CVMFS_FALLBACK_PROXY") }

// PublicKeys are files, or directories of *.pub files, with master keys:
// CVMFS_KEYS_DIR, else CVMFS_PUBLIC_KEY split at ":", else the folder keys of
// the configuration.
func (p Parameters) PublicKeys() []string {
	if dir := p.text("CVMFS_KEYS_DIR"); dir != "" {
		return []string{dir}
	}
	var files []string
	for f := range strings.SplitSeq(p.text("CVMFS_PUBLIC_KEY"), ":") {
		if f != "" {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		files = []string{filepath.Join(p.dir, "keys")}
	}
	return files
}

// UseGeoAPI is CVMFS_USE_GEOAPI. Default false.
func (p Parameters) UseGeoAPI() (bool, error) { return p.boolean("CVMFS_USE_GEOAPI") }

// FollowRedirects is CVMFS_FOLLOW_REDIRECTS. Default false.
func (p Parameters) FollowRedirects() (bool, error) { return p.boolean("CVMFS_FOLLOW_REDIRECTS") }

// boolean reads what the reference client takes as true and false.
func (p Parameters) boolean(key string) (bool, error) {
	switch strings.ToLower(p.text(key)) {
	case "yes", "on", "1", "true":
		return true, nil
	case "", "no", "off", "0", "false":
		return false, nil
	}
	s := p.values[key]
	return false, fmt.Errorf("%w: %s: %s=%.60q: write yes or no", ErrParameter, s.Origin, s.Key, s.Value)
}

// Blacklist is CVMFS_BLACKLIST, a file of forbidden certificates and revisions. Default
// the file blacklist of the configuration. The reference client reads it if it is there.
func (p Parameters) Blacklist() string {
	return cmp.Or(p.text("CVMFS_BLACKLIST"), filepath.Join(p.dir, "blacklist"))
}

// Variables are the parameters that are none of the client's own. It exports all that
// its configuration sets, so that a site says there where variant symlinks lead:
// EESSI_HOST_INJECTIONS, CMS_LOCAL_SITE.
func (p Parameters) Variables() map[string]string {
	variables := map[string]string{}
	for key, s := range p.values {
		if !strings.HasPrefix(key, "CVMFS_") {
			variables[key] = s.Value
		}
	}
	return variables
}

func (p Parameters) text(key string) string { return strings.TrimSpace(p.values[key].Value) }
