package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
)

// KindHTTP is the kind of a source that is a place on object storage.
const KindHTTP = "http"

// HTTPRefresh is how often a source of that kind is looked at with refresh = "auto".
const HTTPRefresh = 10 * time.Minute

// finishHTTP checks a source of that kind.
func (s *Source) finishHTTP() error {
	if len(s.URL) == 0 {
		return fmt.Errorf("kind = %q needs url, such as \"https://HOST/PATH/@image@.sif\"", s.Kind)
	}
	for _, u := range s.URL {
		if err := blob.CheckURL(u); err != nil {
			return err
		}
	}
	u, err := url.Parse(strings.ReplaceAll(s.URL[0], "@image@", "NAME"))
	if err != nil {
		return err
	}
	setDefault(&s.FQRN, s.Name)
	setDefault(&s.FQRN, u.Hostname())
	setDefault(&s.Proxies, "DIRECT")
	s.Network.finish()
	if key := first(s.strangers()); key != "" {
		return fmt.Errorf("%s has no use with kind = %q", key, s.Kind)
	}
	switch {
	case !validFQRN(s.FQRN):
		return fmt.Errorf("%q is no name for a source: write name = \"letters, digits, dots and dashes\"", s.FQRN)
	case (len(s.Index) == 0) == (len(s.Images) == 0):
		return errors.New("write index = \"https://HOST/PATH/LIST\", or images = [\"NAME\", ...]: one of them")
	case slices.ContainsFunc(s.Images, badName):
		return errors.New("images: a name is empty, longer than 255 bytes, or has a blank or a slash in it")
	}
	for _, index := range s.Index {
		if u, err := url.Parse(index); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("index %q is no URL", index)
		}
	}
	return nil
}

func badName(s string) bool {
	return s == "" || len(s) > 255 || strings.ContainsAny(s, "/ \t\r\n") || s[0] == '#' || s[0] == '.' || s[0] == '-'
}

// given is a key of a source, and whether it says something.
type given struct {
	key string
	set bool
}

// strangers are the keys that are no use to a bucket.
func (s *Source) strangers() []given {
	return []given{
		{"at", s.At != ""}, {"servers", len(s.Servers) > 0}, {"public_keys", len(s.PublicKeys) > 0}, {"layout", s.Layout != ""}, {"path", s.Path != ""},
		{"tag", s.Tag != ""}, {"root_hash", s.RootHash != ""}, {"revision", s.Revision != 0}, {"date", !s.Date.IsZero()},
		{"external_url", s.ExternalURL != ""}, {"blacklist", s.Blacklist != ""}, {"order", s.Order != ""}, {"max_servers", s.MaxServers != 0},
		{"follow_redirects", s.FollowRedirects},
	}
}

// bucketKeys are the keys that are no use to anything else.
func (s *Source) bucketKeys() []given {
	return []given{{"url", len(s.URL) > 0}, {"index", len(s.Index) > 0}, {"images", len(s.Images) > 0}}
}

// first is the first of the keys that says something, "" if none does.
func first(keys []given) string {
	for _, k := range keys {
		if k.set {
			return k.key
		}
	}
	return ""
}
