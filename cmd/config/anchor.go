package config

import (
	"fmt"
	"path/filepath"
)

// anchor makes the names of files of keys and authorities absolute: they are
// meant from where the configuration lies, and the daemon works in another
// directory.
func (c *Config) anchor() error {
	file, err := filepath.Abs(c.File)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	keys := []*string{&c.VerifySIF.Keyring}
	for n := range c.Sources {
		s := &c.Sources[n]
		keys = append(keys, &s.CABundle)
		for i := range s.PublicKeys {
			keys = append(keys, &s.PublicKeys[i])
		}
	}
	for _, key := range keys {
		if *key != "" && !filepath.IsAbs(*key) {
			*key = filepath.Join(filepath.Dir(file), *key)
		}
	}
	return nil
}
