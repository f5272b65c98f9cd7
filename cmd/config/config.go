// Package config reads the one configuration file, in TOML. Every key has a
// unit, a default and a range; a key that does not exist is an error that names
// the nearest one that does.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// ErrInvalid is wrapped by every error about what a configuration says.
var ErrInvalid = errors.New("configuration")

// Config is the whole configuration.
type Config struct {
	// File is where it was read from; "" for the built-in configuration.
	File string `toml:"-"`
	// User is whom root's daemon serves as. Default: neurodeskfs if there is such a
	// user, else nobody, else, where that may not read what it must, a powerless root.
	User string `toml:"user"`
	// CVMFSAt shows M/cvmfs at a second place too, such as /cvmfs, for scripts
	// that name it; needs root, or a private user namespace. Default: nowhere.
	CVMFSAt string `toml:"cvmfs_at"`
	// CVMFSConfig is a configuration tree of the reference client, from which
	// servers, proxies and keys come that stand not here. Default /etc/cvmfs.
	CVMFSConfig string `toml:"cvmfs_config"`
	// Traces is where the site keeps what commands read when they start: an
	// absolute path, or a URL, with a file IMAGE.json for each image. Default: nowhere.
	Traces    string    `toml:"traces"`
	Cache     Cache     `toml:"cache"`
	Mount     Mount     `toml:"mount"`
	VerifySIF VerifySIF `toml:"verify_sif"`
	Sources   []Source  `toml:"source"`
	// Launch says how commands start; Apps adds to it for single apps, by name.
	Launch Launch                      `toml:"launch"`
	Apps   map[string]launch.AppPolicy `toml:"app"`
}

// Launch is how commands start, and which names stay out of bin.
type Launch struct {
	launch.AppPolicy
	Never []string          `toml:"never"` // added to the names that never stand in bin
	Pins  map[string]string `toml:"pins"`  // for an app the version, as in M/apps, of its commands in bin and its default
}

// Mount says how the tree is served.
type Mount struct {
	// Crawlers are the names of programs that are kept out of apps and cvmfs, in
	// place of the built-in list; an empty list keeps nobody out.
	Crawlers []string `toml:"crawlers"`
	// CheckPermissions makes the kernel check the modes and owners that are stored.
	// Real images keep tools below closed directories, such as /root.
	CheckPermissions bool `toml:"check_permissions"`
}

// Cache says where fetched data are kept.
type Cache struct {
	Dir   string `toml:"dir"`   // absolute path; default: see DefaultCacheDir; "" where that has none
	Quota Size   `toml:"quota"` // bytes; default 20GiB
	Joint bool   `toml:"-"`     // other processes use it at the same time
	// Shared are directories that many nodes share, asked before the network and
	// never written: one, or a list in the order of asking. Default none.
	Shared Texts `toml:"shared"`
}

// Source is one place that images come from.
type Source struct {
	Kind        string    `toml:"kind"`        // "cvmfs", the default; "cvmfs-mounted": what the host has mounted; "dir": a folder of images; "http": images on object storage
	At          string    `toml:"at"`          // cvmfs-mounted: where; default /cvmfs/@fqrn@
	FQRN        string    `toml:"fqrn"`        // the repository's name; dir, http: the same as name
	Name        string    `toml:"name"`        // dir, http: what the source is called; default the folder's base name, the URL's host
	URL         Texts     `toml:"url"`         // http: of an image, with @image@ for its name; one, or a list: mirrors in order
	Index       Texts     `toml:"index"`       // http: URL of a list of the images' names; or several
	Images      List      `toml:"images"`      // http: the names themselves, instead of index
	Servers     List      `toml:"servers"`     // URLs in order of preference; @fqrn@ and @org@ are replaced
	Proxies     string    `toml:"proxies"`     // CVMFS_HTTP_PROXY syntax; default DIRECT
	PublicKeys  List      `toml:"public_keys"` // files, or directories of *.pub
	Layout      string    `toml:"layout"`      // "neurodesk", the default; "flat": files TOOL:VERSION; "unpacked": links REPO:TAG; "none": raw view only
	Path        string    `toml:"path"`        // where the images are; default /containers, flat: /all, unpacked: /; dir: the folder
	Tag         string    `toml:"tag"`         // pin to a named tag
	RootHash    string    `toml:"root_hash"`   // pin to a root catalog
	Revision    uint64    `toml:"revision"`    // pin to a tagged revision; 0: none
	Date        time.Time `toml:"date"`        // pin to the newest tag that is not after it
	ExternalURL string    `toml:"external_url"`
	Blacklist   string    `toml:"blacklist"` // file of forbidden certificates and revisions, absolute path; default that of the site's CVMFS configuration
	Refresh     Refresh   `toml:"refresh"`   // "auto": the repository's TTL, http: 10m; or a duration of at least 10s
	// Site says of values from the site's CVMFS configuration where they stand.
	Site          map[string]string `toml:"-"`
	SiteBlacklist bool              `toml:"-" json:",omitempty"` // Blacklist is from there, and need not exist
	// SiteNotes are one line each, file:line: what that configuration says of
	// servers, proxies and keys to a shell alone, so that it does not hold.
	SiteNotes []string          `toml:"-" json:"-"`
	Variables map[string]string `toml:"-" json:",omitempty"` // what that configuration sets for variant symlinks
	Network                     // how the servers are asked
}

// Refresh is how often the manifest is looked at; 0 is the repository's own TTL.
type Refresh time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Refresh) UnmarshalText(b []byte) error {
	if s := string(b); s != "auto" && s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 10*time.Second {
			return fmt.Errorf("%q is no refresh time: write \"auto\" or a duration of at least 10s", s)
		}
		*r = Refresh(d)
	}
	return nil
}

const defaultQuota = 20 << 30

// Find returns the file that Load reads when none is named: the system's, else
// the user's; "" if there is neither.
func Find() string {
	candidates := []string{"/etc/neurodeskfs/config.toml"}
	if dir, err := os.UserConfigDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "neurodeskfs/config.toml"))
	}
	for _, f := range candidates {
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	return ""
}

// Load reads and checks file; with "" what Find finds, else the built-in
// Neurodesk repository.
func Load(file string) (*Config, error) {
	if file == "" {
		file = Find()
	}
	if file == "" {
		return finish(&Config{Sources: []Source{{}}})
	}
	text, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	c.File = file
	return c, c.anchor()
}

// Parse reads and checks a configuration's text.
func Parse(text []byte) (*Config, error) {
	c := &Config{}
	meta, err := toml.Decode(string(text), c)
	if err == nil {
		err = checkTables(meta)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, explainError(string(text), err))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, explainKey(unknown[0].String()))
	}
	if meta.IsDefined("cache", "quota") && c.Cache.Quota == 0 {
		return nil, fmt.Errorf("%w: cache.quota must be above 0: without it, it is 20GiB", ErrInvalid)
	}
	if len(c.Sources) == 0 {
		c.Sources = []Source{{}}
	}
	return finish(c)
}

// finish fills in the defaults and checks the ranges.
func finish(c *Config) (*Config, error) {
	if c.Cache.Dir == "" {
		c.Cache.Dir = DefaultCacheDir()
	}
	setDefault(&c.CVMFSConfig, "/etc/cvmfs")
	if c.Cache.Quota == 0 {
		c.Cache.Quota = defaultQuota
	}
	if c.Cache.Dir != "" && !filepath.IsAbs(c.Cache.Dir) {
		return nil, fmt.Errorf("%w: cache.dir %q must be an absolute path", ErrInvalid, c.Cache.Dir)
	}
	for _, dir := range c.Cache.Shared {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == filepath.Clean(c.Cache.Dir) {
			return nil, fmt.Errorf("%w: cache.shared %q must be an absolute path, and not that of the cache itself", ErrInvalid, dir)
		}
	}
	if c.CVMFSAt != "" && (!filepath.IsAbs(c.CVMFSAt) || filepath.Clean(c.CVMFSAt) != c.CVMFSAt || c.CVMFSAt == "/") {
		return nil, fmt.Errorf("%w: cvmfs_at %q must be an absolute path, such as /cvmfs", ErrInvalid, c.CVMFSAt)
	}
	if err := c.VerifySIF.finish(); err != nil {
		return nil, fmt.Errorf("%w: verify_sif: %w", ErrInvalid, err)
	}
	if err := checkTraces(c.Traces); err != nil {
		return nil, err
	}
	policy, err := c.Policy("/").Format()
	if err == nil {
		_, err = launch.ParsePolicy(policy)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: launch: %w", ErrInvalid, err)
	}
	for app, version := range c.Launch.Pins {
		if err := launch.CheckPin(app, version); err != nil {
			return nil, fmt.Errorf("%w: launch.pins: %w", ErrInvalid, err)
		}
	}
	names := map[string]bool{}
	for i := range c.Sources {
		s := &c.Sources[i]
		if err := s.fromSite(c.CVMFSConfig); err != nil {
			return nil, fmt.Errorf("%w: source %d: %w", ErrInvalid, i+1, err)
		}
		if err := s.finish(); err != nil {
			return nil, fmt.Errorf("%w: source %d: %w", ErrInvalid, i+1, err)
		}
		if names[s.FQRN] {
			return nil, fmt.Errorf("%w: source %d: %s is there already: a repository can be a source once", ErrInvalid, i+1, s.FQRN)
		}
		names[s.FQRN] = true
	}
	return c, nil
}

// Policy is what the launcher of the mount at mountpoint is told.
func (c *Config) Policy(mountpoint string) launch.Policy {
	p := launch.DefaultPolicy()
	p.Mountpoint = mountpoint
	p.AppPolicy = c.Launch.AppPolicy
	p.Apps = c.Apps
	return p
}

// Digest is equal for configurations that make the same tree, wherever it is
// mounted and whatever its cache.
func (c *Config) Digest() string {
	sources := slices.Clone(c.Sources)
	for i := range sources {
		sources[i].Site = nil // the line on which a value stands makes no tree
	}
	b, err := json.Marshal([]any{sources, c.Launch, c.Apps, c.Mount, c.VerifySIF})
	if err != nil {
		panic(err) // texts and numbers only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

func (s *Source) finish() error {
	setDefault(&s.Kind, "cvmfs")
	if s.Kind == KindHTTP {
		return s.finishHTTP()
	}
	if key := first(s.bucketKeys()); key != "" {
		return fmt.Errorf("%s has no use with kind = %q", key, s.Kind)
	}
	if s.Kind == KindDir {
		return s.finishDir()
	}
	setDefault(&s.Proxies, "DIRECT")
	setDefault(&s.Layout, "neurodesk")
	defer setDefault(&s.Order, "fixed")
	setDefault(&s.Path, layoutPaths[s.Layout])
	if s.FQRN == "" && len(s.Servers) == 0 || s.FQRN == builtin.NeurodeskFQRN {
		setDefault(&s.FQRN, builtin.NeurodeskFQRN)
		if len(s.Servers) == 0 {
			s.Servers = builtin.NeurodeskServers()
			setDefault(&s.Order, "geo")
		}
	}
	s.Network.finish()
	if s.Kind == KindMounted {
		return s.finishMounted()
	}
	switch {
	case s.Kind != "cvmfs":
		return fmt.Errorf("kind %q is not known: write \"cvmfs\", \"cvmfs-mounted\", \"dir\" or \"http\"", s.Kind)
	case !validFQRN(s.FQRN):
		return fmt.Errorf("fqrn %q is no repository's name, such as %s", s.FQRN, builtin.NeurodeskFQRN)
	case len(s.Servers) == 0:
		return fmt.Errorf("%s has no servers: write servers = [\"http://HOST/cvmfs/@fqrn@\"]", s.FQRN)
	case len(s.PublicKeys) == 0 && s.FQRN != builtin.NeurodeskFQRN:
		return fmt.Errorf("%s has no public_keys: write the files of its master key", s.FQRN)
	case !knownLayout(s.Layout):
		return fmt.Errorf("layout %q is not known: write \"neurodesk\", \"flat\", \"unpacked\" or \"none\"", s.Layout)
	case s.Blacklist != "" && !filepath.IsAbs(s.Blacklist):
		return fmt.Errorf("blacklist %q must be an absolute path", s.Blacklist)
	case s.Order != "" && s.Order != "fixed" && s.Order != "geo" && s.Order != "probe":
		return fmt.Errorf("order %q is not known: write \"fixed\", \"geo\" or \"probe\"", s.Order)
	case s.Path != "" && (s.Path[0] != '/' || path.Clean(s.Path) != s.Path):
		return fmt.Errorf("path %q must be absolute, without a slash at its end", s.Path)
	}
	return errors.Join(s.finishServers(), s.checkPin())
}

// layoutPaths are where images lie by default, for each layout.
var layoutPaths = map[string]string{"neurodesk": "/containers", "flat": "/all", "unpacked": "/", "none": ""}

func knownLayout(name string) bool {
	_, ok := layoutPaths[name]
	return ok
}

func (s *Source) finishServers() error {
	org, _, _ := strings.Cut(s.FQRN, ".")
	for i, text := range s.Servers {
		text = strings.NewReplacer("@fqrn@", s.FQRN, "@org@", org).Replace(text)
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("server %q is no URL: write \"http://HOST/cvmfs/@fqrn@\"", s.Servers[i])
		}
		s.Servers[i] = strings.TrimRight(text, "/")
	}
	if s.ExternalURL != "" {
		if u, err := url.Parse(s.ExternalURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("external_url %q is no URL", s.ExternalURL)
		}
	}
	return nil
}

// checkPin refuses more than one pin and a malformed one.
func (s *Source) checkPin() error {
	pins := 0
	for _, given := range []bool{s.Tag != "", s.RootHash != "", s.Revision != 0, !s.Date.IsZero()} {
		if given {
			pins++
		}
	}
	if s.Revision > math.MaxInt64 {
		return errors.New("revision must be the number of a revision, or 0 for none") // TOML's -1
	}
	if pins > 1 {
		return errors.New("tag, root_hash, revision and date exclude each other: keep one")
	}
	if s.RootHash != "" {
		if _, err := hash.Parse(s.RootHash); err != nil {
			return fmt.Errorf("root_hash: %w", err)
		}
	}
	return nil
}

func setDefault(p *string, v string) {
	if *p == "" {
		*p = v
	}
}

// validFQRN accepts what can stand in a URL and in a path: letters, digits,
// dots, dashes, underscores, no empty part.
func validFQRN(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for _, part := range strings.Split(s, ".") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

// DefaultCacheDir is /var/lib/neurodeskfs/cache for root, and for a user
// $XDG_CACHE_HOME/neurodeskfs; "" if the user has no home.
func DefaultCacheDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/neurodeskfs/cache"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "neurodeskfs")
}
