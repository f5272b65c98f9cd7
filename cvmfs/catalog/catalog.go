package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Catalog is an open file catalog, read only. It is safe for concurrent use.
type Catalog struct {
	db *db
	properties
	owners bool
	root   Row
	stmts  statements
	sql    queries
	paths  pathCache

	// What is read at most once; all guarded by db.mu.
	nested []Nested
	loaded bool
	groups map[uint32]int64
}

// properties are what the table of that name says, checked.
type properties struct {
	prefix       string
	revision     uint64
	ttl          time.Duration
	schema       string
	schemaRev    int
	lastModified time.Time
	previous     hash.Hash
}

// Open opens the catalog in a file, which must not change while it is open; a
// few foreign bytes behind the database do no harm. Errors: ErrCorrupt,
// ErrUnsupported (a schema above 2.5), or what the disk says. The caller closes it.
func Open(path string) (*Catalog, error) {
	d, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open catalog %s: %w", path, err)
	}
	c, err := newCatalog(d)
	if err != nil {
		return nil, fmt.Errorf("open catalog %s: %w", path, err)
	}
	return c, nil
}

// OpenBytes is Open for a catalog held in memory. It keeps a copy of b.
func OpenBytes(b []byte) (*Catalog, error) {
	d, err := openBytes(b)
	if err != nil {
		return nil, fmt.Errorf("open catalog in memory: %w", err)
	}
	c, err := newCatalog(d)
	if err != nil {
		return nil, fmt.Errorf("open catalog in memory: %w", err)
	}
	return c, nil
}

func newCatalog(d *db) (*Catalog, error) {
	c := &Catalog{db: d}
	if err := c.load(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return c, nil
}

func (c *Catalog) load() error {
	props, err := c.db.properties()
	if err != nil {
		return fmt.Errorf("read properties: %w", err)
	}
	if c.properties, err = parseProperties(props); err != nil {
		return err
	}
	if err := c.prepare(); err != nil {
		return err
	}
	c.root, err = c.ByPath(context.Background(), HashPath(c.prefix))
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: no row for its root %q", ErrCorrupt, c.prefix)
	}
	if err == nil && !c.root.IsDir() {
		return fmt.Errorf("%w: its root is no directory", ErrCorrupt)
	}
	return err
}

// Close frees the connection; calls that come later fail with os.ErrClosed.
// It waits for the call that is running. Closing twice is no error.
func (c *Catalog) Close() error { return c.db.close() }

// Prefix is the absolute path of the catalog's top directory, "" for the
// repository's root catalog.
func (c *Catalog) Prefix() string { return c.prefix }

// Revision counts the publications of the catalog, 0 when absent.
func (c *Catalog) Revision() uint64 { return c.revision }

// TTL is how long the catalog may be used before asking for a newer one, 0 when absent.
func (c *Catalog) TTL() time.Duration { return c.ttl }

// Schema is the version, such as "2.5", and its revision, such as 7.
func (c *Catalog) Schema() (version string, revision int) { return c.schema, c.schemaRev }

// LastModified is the time of publication, zero when absent.
func (c *Catalog) LastModified() time.Time { return c.lastModified }

// Previous is the hash of the catalog's last revision, zero when there is none.
func (c *Catalog) Previous() hash.Hash { return c.previous }

// HasOwners reports whether rows have a user and a group. Catalogs of schema
// 1.x don't: the client shows its own.
func (c *Catalog) HasOwners() bool { return c.owners }

const (
	newestSchema = 2.5
	// oldestText is what a file without a schema property is.
	oldestText = "1.0"
	maxPath    = 4096
)

func parseProperties(m map[string]string) (properties, error) {
	var p properties
	var problems []error
	number := func(key string, limit uint64) uint64 {
		text, ok := m[key]
		if !ok {
			return 0
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: property %s is %.60q", ErrCorrupt, key, text))
		}
		return min(n, limit)
	}
	p.revision = number("revision", math.MaxUint64)
	p.ttl = time.Duration(number("TTL", math.MaxInt32)) * time.Second
	p.schemaRev = int(number("schema_revision", math.MaxInt32))
	if at := number("last_modified", 1<<40); at > 0 {
		p.lastModified = time.Unix(int64(at), 0).UTC()
	}
	p.schema = oldestText
	if s, ok := m["schema"]; ok {
		p.schema = s
	}
	version, err := strconv.ParseFloat(p.schema, 32)
	switch {
	case err != nil || !(version > 0):
		problems = append(problems, fmt.Errorf("%w: schema %.60q", ErrCorrupt, p.schema))
	case float32(version) > newestSchema:
		problems = append(problems, fmt.Errorf("catalog schema %.60s: %w", p.schema, ErrUnsupported))
	}
	p.prefix = m["root_prefix"]
	if p.prefix == "/" {
		p.prefix = ""
	}
	if !validPath(p.prefix) {
		problems = append(problems, fmt.Errorf("%w: root prefix %.60q", ErrCorrupt, p.prefix))
	}
	p.previous, err = parsePrevious(m["previous_revision"])
	return p, errors.Join(append(problems, err)...)
}

// parsePrevious reads a hash of which all zeros stand for none.
func parsePrevious(s string) (hash.Hash, error) {
	digits, _, _ := strings.Cut(s, "-")
	if strings.Trim(digits, "0") == "" {
		return hash.Hash{}, nil
	}
	h, err := hash.Parse(s)
	if err != nil {
		return h, fmt.Errorf("%w: previous revision: %w", ErrCorrupt, err)
	}
	return h, nil
}

// validPath reports whether p is "" or an absolute path without odd parts.
func validPath(p string) bool {
	if p == "" {
		return true
	}
	if p[0] != '/' || len(p) > maxPath {
		return false
	}
	for name := range strings.SplitSeq(p[1:], "/") {
		if !validName(name) {
			return false
		}
	}
	return true
}
