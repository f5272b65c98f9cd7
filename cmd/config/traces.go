package config

import (
	"fmt"
	"net/url"
	"path/filepath"
)

// checkTraces takes absolute paths and URLs.
func checkTraces(at string) error {
	u, err := url.Parse(at)
	if at == "" || filepath.IsAbs(at) || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" {
		return nil
	}
	return fmt.Errorf("%w: traces %q must be an absolute path, or a URL such as http://HOST/traces", ErrInvalid, at)
}

// Proxies are those of the first source that has any: what else the site serves
// is asked for by them too.
func (c *Config) Proxies() string {
	for _, s := range c.Sources {
		if s.Proxies != "" {
			return s.Proxies
		}
	}
	return ""
}
