package catalog

import (
	"context"
	"fmt"
	"math"

	"zombiezen.com/go/sqlite"
)

// Counters count the entries of one catalog or of several; sizes are in bytes,
// uncompressed. Chunked and external files are counted as regular ones too.
type Counters struct {
	Regular, Symlink, Special, Dir, Nested int64
	Chunked, Chunks                        int64
	FileSize, ChunkedSize                  int64
	Xattr, External, ExternalFileSize      int64
}

// Entries is the number of files, links, devices and directories, for statfs(2).
func (c Counters) Entries() int64 { return c.Regular + c.Symlink + c.Special + c.Dir }

// Statistics are the counters of a catalog (Self) and of all catalogs below it (Subtree).
type Statistics struct{ Self, Subtree Counters }

// counters pairs the names of the statistics table, less their prefix, with the fields.
var counters = []struct {
	name  string
	field func(*Counters) *int64
}{
	{"chunked", func(c *Counters) *int64 { return &c.Chunked }},
	{"chunked_size", func(c *Counters) *int64 { return &c.ChunkedSize }},
	{"chunks", func(c *Counters) *int64 { return &c.Chunks }},
	{"dir", func(c *Counters) *int64 { return &c.Dir }},
	{"external", func(c *Counters) *int64 { return &c.External }},
	{"external_file_size", func(c *Counters) *int64 { return &c.ExternalFileSize }},
	{"file_size", func(c *Counters) *int64 { return &c.FileSize }},
	{"nested", func(c *Counters) *int64 { return &c.Nested }},
	{"regular", func(c *Counters) *int64 { return &c.Regular }},
	{"special", func(c *Counters) *int64 { return &c.Special }},
	{"symlink", func(c *Counters) *int64 { return &c.Symlink }},
	{"xattr", func(c *Counters) *int64 { return &c.Xattr }},
}

// sum adds b to a.
func (a *Counters) sum(b Counters) {
	for _, c := range counters {
		*c.field(a) += *c.field(&b)
	}
}

// named calls fn for each counter with its full name, self_ first.
func (s *Statistics) named(fn func(name string, value *int64) error) error {
	for _, part := range []struct {
		prefix string
		c      *Counters
	}{{"self_", &s.Self}, {"subtree_", &s.Subtree}} {
		for _, c := range counters {
			if err := fn(part.prefix+c.name, c.field(part.c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Statistics reads the counters; what an older schema lacks is 0, and so is what a
// server has counted below it (cvmfs/cvmfs issue 4397). Errors: ErrCorrupt.
func (c *Catalog) Statistics(ctx context.Context) (Statistics, error) {
	var s Statistics
	fields := make(map[string]*int64)
	_ = s.named(func(name string, value *int64) error {
		fields[name] = value
		return nil
	})
	if err := c.db.lock(ctx); err != nil {
		return s, fmt.Errorf("catalog statistics: %w", err)
	}
	defer c.db.mu.Unlock()
	cols, err := c.db.columns("statistics")
	if err == nil && len(cols) > 0 {
		err = c.db.each("SELECT rowid, counter, value FROM statistics ORDER BY rowid", func(st *sqlite.Stmt) error {
			n := integers{stmt: st}
			if field := fields[st.ColumnText(1)]; field != nil {
				// A quarter of the range, so that sums of four don't overflow.
				*field = max(n.may(2, math.MinInt64, math.MaxInt64/4), 0)
			}
			return n.err
		})
	}
	if err != nil {
		return Statistics{}, fmt.Errorf("catalog statistics: %w", err)
	}
	return s, nil
}
