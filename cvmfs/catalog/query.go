package catalog

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// statements are prepared once, at Open; guarded by db.mu. Those for tables or
// columns that the schema lacks are nil.
type statements struct{ byID, byPath, children, chunks, xattrs *sqlite.Stmt }

// queries are the statements' texts; "" when the schema has no such thing.
type queries struct{ byID, byPath, children, chunks, xattrs string }

// Columns of a row in the order of the select list.
const (
	colID = iota
	colPathA
	colPathB
	colParentA
	colParentB
	colHardlinks
	colHash
	colSize
	colMode
	colMTime
	colNsec
	colFlags
	colName
	colSymlink
	colUID
	colGID
	colXattr
)

// optional says what stands for a column that an older schema lacks.
var optional = []struct{ column, expr, instead string }{
	{"hardlinks", "hardlinks", "1"},
	{"hash", "hash", ""},
	{"size", "size", ""},
	{"mode", "mode", ""},
	{"mtime", "mtime", ""},
	{"mtimens", "mtimens", "NULL"},
	{"flags", "flags", ""},
	{"name", "name", ""},
	{"symlink", "symlink", ""},
	{"uid", "uid", "0"},
	{"gid", "gid", "0"},
	{"xattr", "length(xattr)", "0"},
}

// prepare asks which columns there are and prepares the statements.
func (c *Catalog) prepare() error {
	cols, err := c.db.columns("catalog")
	if err != nil {
		return err
	}
	list, err := selectList(cols)
	if err != nil {
		return err
	}
	c.owners = cols["uid"] && cols["gid"]
	c.sql.byID = list + "rowid = ?"
	c.sql.byPath = list + "md5path_1 = ? AND md5path_2 = ?"
	// The limits stand in the text: SQLite prepares a statement anew at each step
	// whose LIMIT is a parameter, which took half of its time in a walk.
	c.sql.children = list + "parent_1 = ? AND parent_2 = ? AND rowid > ? ORDER BY rowid LIMIT " + strconv.Itoa(pageRows)
	if cols["xattr"] {
		c.sql.xattrs = "SELECT xattr FROM catalog WHERE rowid = ?"
	}
	chunks, err := c.db.columns("chunks")
	if err != nil {
		return err
	}
	if len(chunks) > 0 {
		c.sql.chunks = "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? ORDER BY offset LIMIT " + strconv.Itoa(maxChunks+1)
	}
	for _, p := range []struct {
		stmt **sqlite.Stmt
		sql  string
	}{
		{&c.stmts.byID, c.sql.byID}, {&c.stmts.byPath, c.sql.byPath}, {&c.stmts.children, c.sql.children},
		{&c.stmts.chunks, c.sql.chunks}, {&c.stmts.xattrs, c.sql.xattrs},
	} {
		if p.sql == "" {
			continue
		}
		if *p.stmt, err = c.db.conn.Prepare(p.sql); err != nil {
			return dbError(err)
		}
	}
	return nil
}

// selectList begins each query for rows; its order is that of the col constants.
func selectList(cols map[string]bool) (string, error) {
	if err := require("catalog", cols, "md5path_1", "md5path_2", "parent_1", "parent_2"); err != nil {
		return "", err
	}
	list := "SELECT rowid, md5path_1, md5path_2, parent_1, parent_2"
	for _, o := range optional {
		switch {
		case cols[o.column]:
			list += ", " + o.expr
		case o.instead != "":
			list += ", " + o.instead
		default:
			return "", require("catalog", cols, o.column)
		}
	}
	return list + " FROM catalog WHERE ", nil
}

// Root is the row of the catalog's top directory. In a nested catalog it is a
// second row of the directory that the parent catalog shows as mountpoint.
func (c *Catalog) Root(ctx context.Context) (Row, error) { return c.root, ctx.Err() }

// ByID finds a row by its rowid. Errors: ErrNotFound, ErrCorrupt, ErrUnsupported.
func (c *Catalog) ByID(ctx context.Context, id int64) (Row, error) {
	if err := c.db.lock(ctx); err != nil {
		return Row{}, fmt.Errorf("catalog entry %d: %w", id, err)
	}
	defer c.db.mu.Unlock()
	c.stmts.byID.BindInt64(1, id)
	r, err := one(c.stmts.byID)
	if err == nil && r.ID != id {
		err = fmt.Errorf("%w: found entry %d", ErrCorrupt, r.ID)
	}
	if err != nil {
		return Row{}, fmt.Errorf("catalog entry %d: %w", id, err)
	}
	return r, nil
}

// ByPath finds a row by the hash of its path, which begins with Prefix. It finds
// hidden rows too. Errors: ErrNotFound, ErrCorrupt, ErrUnsupported.
func (c *Catalog) ByPath(ctx context.Context, h PathHash) (Row, error) {
	if err := c.db.lock(ctx); err != nil {
		return Row{}, fmt.Errorf("catalog entry by path: %w", err)
	}
	defer c.db.mu.Unlock()
	r, err := c.byPath(h)
	if err != nil {
		return Row{}, fmt.Errorf("catalog entry by path: %w", err)
	}
	return r, nil
}

// byPath is ByPath for those who hold mu.
func (c *Catalog) byPath(h PathHash) (Row, error) {
	c.stmts.byPath.BindInt64(1, h.A)
	c.stmts.byPath.BindInt64(2, h.B)
	r, err := one(c.stmts.byPath)
	if err == nil && r.Path != h {
		err = fmt.Errorf("%w: index and table differ", ErrCorrupt)
	}
	return r, err
}

// Lookup finds name in the directory dirPath, which begins with Prefix ("" is
// the root). A name that no file can have is not found. Errors as for ByPath.
func (c *Catalog) Lookup(ctx context.Context, dirPath, name string) (Row, error) {
	if !validName(name) {
		return Row{}, fmt.Errorf("catalog entry %.60q: %w", name, ErrNotFound)
	}
	var buf [512]byte
	path := append(append(append(buf[:0], dirPath...), '/'), name...)
	r, err := c.ByPath(ctx, hashBytes(path))
	if err == nil && r.Name != name {
		return Row{}, fmt.Errorf("catalog entry %.60q: %w: it is called %.60q", name, ErrCorrupt, r.Name)
	}
	return r, err
}

func one(stmt *sqlite.Stmt) (Row, error) {
	defer stmt.Reset()
	found, err := stmt.Step()
	if err != nil {
		return Row{}, dbError(err)
	}
	if !found {
		return Row{}, ErrNotFound
	}
	r, err := scan(stmt)
	if err != nil {
		return Row{}, err
	}
	return r, r.Supported()
}

// pageRows is how many rows of a listing are read at once.
const pageRows = 128

// Children calls fn for each entry of the directory parent, by ascending ID,
// that has an ID > after; fn returns false to stop. Begin below all IDs with
// math.MinInt64 (0 does for what CVMFS writes). Hidden rows and the catalog's
// own top directory are left out. Nothing else is: a damaged row ends the
// listing with ErrCorrupt. A directory that does not exist has no entries. fn
// may call the catalog.
func (c *Catalog) Children(ctx context.Context, parent PathHash, after int64, fn func(Row) bool) error {
	page := make([]Row, 0, pageRows)
	for {
		var err error
		page, err = c.childPage(ctx, parent, after, page[:0])
		for i := range page {
			after = page[i].ID
			if page[i].IsHidden() || page[i].ID == c.root.ID {
				continue
			}
			if !fn(page[i]) {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("list catalog directory: %w", err)
		}
		if len(page) < pageRows {
			return nil
		}
	}
}

// childPage appends up to pageRows rows; those before a damaged one come with the error.
func (c *Catalog) childPage(ctx context.Context, parent PathHash, after int64, page []Row) ([]Row, error) {
	if err := c.db.lock(ctx); err != nil {
		return page, err
	}
	defer c.db.mu.Unlock()
	stmt := c.stmts.children
	stmt.BindInt64(1, parent.A)
	stmt.BindInt64(2, parent.B)
	stmt.BindInt64(3, after)
	defer stmt.Reset()
	for {
		more, err := stmt.Step()
		if err != nil || !more {
			return page, dbError(err)
		}
		r, err := scan(stmt)
		if err != nil {
			return page, err
		}
		if r.Parent != parent || r.ID <= after {
			return page, fmt.Errorf("%w: index and table differ", ErrCorrupt)
		}
		after = r.ID
		page = append(page, r)
	}
}

// scan reads and checks the row that stmt stands on.
func scan(stmt *sqlite.Stmt) (Row, error) {
	n := integers{stmt: stmt}
	r := Row{
		ID:        n.must(colID, math.MinInt64, math.MaxInt64),
		Path:      PathHash{n.must(colPathA, math.MinInt64, math.MaxInt64), n.must(colPathB, math.MinInt64, math.MaxInt64)},
		Parent:    PathHash{n.must(colParentA, math.MinInt64, math.MaxInt64), n.must(colParentB, math.MinInt64, math.MaxInt64)},
		Hardlinks: uint64(n.may(colHardlinks, math.MinInt64, math.MaxInt64)),
		Size:      n.may(colSize, math.MinInt64, math.MaxInt64),
		Mode:      uint32(n.must(colMode, 0, math.MaxUint32)),
		MTime:     n.may(colMTime, math.MinInt64, math.MaxInt64),
		MTimeNsec: uint32(max(n.may(colNsec, -1, 999_999_999), 0)),
		UID:       uint32(n.may(colUID, math.MinInt32, math.MaxUint32)),
		GID:       uint32(n.may(colGID, math.MinInt32, math.MaxUint32)),
		Flags:     Flags(n.must(colFlags, 0, math.MaxUint32)),
		HasXattr:  n.may(colXattr, 0, maxValue) > 0,
	}
	if n.err != nil {
		return Row{}, n.err
	}
	r.Compression = Compression(r.Flags >> compressShift & threeBits)
	if stmt.ColumnType(colName) != sqlite.TypeText {
		return Row{}, fmt.Errorf("%w: entry %d has no name", ErrCorrupt, r.ID)
	}
	r.Name = stmt.ColumnText(colName)
	switch stmt.ColumnType(colSymlink) {
	case sqlite.TypeText:
		r.Symlink = stmt.ColumnText(colSymlink)
	case sqlite.TypeNull:
	default:
		return Row{}, fmt.Errorf("%w: link of entry %d is no text", ErrCorrupt, r.ID)
	}
	if r.IsSpecial() {
		// CVMFS keeps the device number in the size column.
		if kind := r.Mode & modeType; kind == modeChr || kind == modeBlk {
			r.rdev = uint64(r.Size)
		}
		r.Size = 0
	}
	var err error
	if r.Hash, err = scanHash(stmt, colHash, r.Flags.algorithm()); err == nil {
		err = r.check()
	}
	if err != nil {
		return Row{}, fmt.Errorf("entry %d: %w", r.ID, err)
	}
	return r, nil
}

// scanHash reads a digest. NULL and empty are no hash; so is one of an unknown
// algorithm, which Row.Supported tells.
func scanHash(stmt *sqlite.Stmt, col int, a hash.Algorithm) (hash.Hash, error) {
	kind := stmt.ColumnType(col)
	n := stmt.ColumnLen(col)
	if kind == sqlite.TypeNull || n == 0 || !a.Known() {
		return hash.Hash{}, nil
	}
	var buf [32]byte
	if kind != sqlite.TypeBlob || n > len(buf) {
		return hash.Hash{}, fmt.Errorf("%w: hash of type %v, %d bytes", ErrCorrupt, kind, n)
	}
	h, err := hash.FromDigest(a, buf[:stmt.ColumnBytes(col, buf[:])])
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return h, nil
}

// integers reads integer columns and keeps the first error.
type integers struct {
	stmt *sqlite.Stmt
	err  error
}

// may takes NULL for 0.
func (n *integers) may(col int, least, most int64) int64 {
	kind := n.stmt.ColumnType(col)
	if kind == sqlite.TypeNull {
		return 0
	}
	v := n.stmt.ColumnInt64(col)
	if n.err == nil && (kind != sqlite.TypeInteger || v < least || v > most) {
		n.err = fmt.Errorf("%w: column %d is %v %d", ErrCorrupt, col, kind, v)
	}
	return v
}

// must refuses NULL.
func (n *integers) must(col int, least, most int64) int64 {
	if n.err == nil && n.stmt.ColumnType(col) == sqlite.TypeNull {
		n.err = fmt.Errorf("%w: column %d is NULL", ErrCorrupt, col)
	}
	return n.may(col, least, most)
}
