package catalog

import (
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"
)

// Holding lists the rows, by ID, whose content or a chunk of it has a digest that
// match takes; rows without content have an empty one. Errors: ErrCorrupt.
func (c *Catalog) Holding(ctx context.Context, match func(digest []byte) bool) (ids []int64, err error) {
	if err := c.db.lock(ctx); err != nil {
		return nil, fmt.Errorf("look for objects in a catalog: %w", err)
	}
	defer c.db.mu.Unlock()
	chunked := map[PathHash]bool{}
	if c.stmts.chunks != nil {
		err = c.eachDigest(ctx, "chunks", match, func(_ int64, path PathHash, matches bool) {
			if matches {
				chunked[path] = true
			}
		})
	}
	if err == nil {
		err = c.eachDigest(ctx, "catalog", match, func(id int64, path PathHash, matches bool) {
			if matches || chunked[path] {
				ids = append(ids, id)
			}
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look for objects in a catalog: %w", err)
	}
	return ids, nil
}

// eachDigest goes through a table that has paths and digests. mu is held.
func (c *Catalog) eachDigest(ctx context.Context, table string, match func([]byte) bool, fn func(id int64, path PathHash, matches bool)) error {
	var buf [32]byte
	return c.db.each("SELECT rowid, md5path_1, md5path_2, hash FROM "+table+" ORDER BY rowid", func(s *sqlite.Stmt) error {
		digest := buf[:0]
		if n := s.ColumnLen(3); n <= len(buf) { // else it names no object
			digest = buf[:s.ColumnBytes(3, buf[:])]
		}
		fn(s.ColumnInt64(0), PathHash{s.ColumnInt64(1), s.ColumnInt64(2)}, match(digest))
		return ctx.Err()
	})
}
