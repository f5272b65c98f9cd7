package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"

	"zombiezen.com/go/sqlite"
)

// maxValue bounds one value, and so one row, of a database that is read. The
// largest that CVMFS writes is an xattr blob: of some 130 kB, or where values have
// more than 255 bytes of as much as the publisher's file system takes for one file.
const maxValue = 1 << 20

// maxProperties bounds the properties table; CVMFS writes ten.
const maxProperties = 1000

// db is one read-only SQLite connection.
type db struct {
	mu   sync.Mutex // guards conn and all statements made of it
	conn *sqlite.Conn
}

// openFile opens a database that never changes.
func openFile(path string) (*db, error) {
	if err := checkFile(path); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(fileURI(path), sqlite.OpenReadOnly|sqlite.OpenURI)
	if err != nil {
		return nil, dbError(err)
	}
	return configure(conn)
}

// openBytes opens a database that is held in memory; it copies b.
func openBytes(b []byte) (*db, error) {
	if err := checkHeader(b); err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(":memory:", sqlite.OpenReadWrite)
	if err != nil {
		return nil, dbError(err)
	}
	if err := conn.Deserialize("main", b); err != nil {
		return nil, errors.Join(dbError(err), conn.Close())
	}
	return configure(conn)
}

// fileURI makes an SQLite URI of any path. "immutable" keeps SQLite from
// looking for journals and from locking, which fails on some network file systems.
func fileURI(path string) string {
	var u strings.Builder
	u.WriteString("file:")
	if strings.HasPrefix(path, "/") {
		u.WriteString("//") // an empty host, or //x would be taken for one
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c == '/', c == '.', c == '-', c == '_', '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			u.WriteByte(c)
		default:
			fmt.Fprintf(&u, "%%%02x", c)
		}
	}
	return u.String() + "?mode=ro&immutable=1"
}

func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, headerSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return checkHeader(head[:n])
}

const headerSize = 100

// checkHeader looks at the bytes that would make SQLite start anew (an empty
// file) or look for a write-ahead log. See the SQLite file format, section 1.3.
func checkHeader(b []byte) error {
	const versions, encoding, utf8 = 18, 56, 1
	switch {
	case len(b) < headerSize || !bytes.HasPrefix(b, []byte("SQLite format 3\x00")):
		return fmt.Errorf("%w: not an SQLite database", ErrCorrupt)
	case b[versions] != 1 || b[versions+1] != 1:
		return fmt.Errorf("%w: not in rollback journal format", ErrCorrupt)
	case !bytes.Equal(b[encoding:encoding+4], []byte{0, 0, 0, utf8}):
		return fmt.Errorf("%w: text is not stored as UTF-8", ErrCorrupt)
	}
	return nil
}

// configure bounds what a hostile file can make SQLite do, and closes conn when
// it fails.
func configure(conn *sqlite.Conn) (*db, error) {
	d := &db{conn: conn}
	conn.Limit(sqlite.LimitLength, maxValue)
	conn.Limit(sqlite.LimitAttached, 0)
	for _, pragma := range []string{
		"PRAGMA trusted_schema=OFF",
		"PRAGMA cell_size_check=ON",
		"PRAGMA query_only=ON",
		"PRAGMA mmap_size=0", // a file cut short under a map would be a SIGBUS
		"PRAGMA cache_size=-128",
		"PRAGMA temp_store=MEMORY",
	} {
		if err := d.exec(pragma); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	if err := d.checkSchema(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return d, nil
}

// checkSchema lets in plain tables and indexes only: a view or a virtual table
// of a catalog's name could run for ever.
func (d *db) checkSchema() error {
	return d.each("SELECT rowid, type, sql FROM sqlite_schema ORDER BY rowid", func(s *sqlite.Stmt) error {
		kind, sql := s.ColumnText(1), strings.ToUpper(s.ColumnText(2))
		if kind == "index" || kind == "table" && strings.HasPrefix(sql, "CREATE TABLE ") {
			return nil
		}
		return fmt.Errorf("%w: unexpected %.20s in the schema", ErrCorrupt, kind)
	})
}

// lock takes the connection, unless ctx is done or the connection closed.
func (d *db) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	if d.conn == nil {
		d.mu.Unlock()
		return os.ErrClosed
	}
	return nil
}

func (d *db) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return nil
	}
	conn := d.conn
	d.conn = nil
	return conn.Close()
}

// each runs query, whose first column is the rowid it is ordered by, and calls
// fn for each row. Ascending rowids prove that a damaged tree is not walked in
// circles. The caller holds mu, or is the only user.
func (d *db) each(query string, fn func(*sqlite.Stmt) error) error {
	stmt, _, err := d.conn.PrepareTransient(query)
	if err != nil {
		return dbError(err)
	}
	defer stmt.Finalize()
	for last := int64(math.MinInt64); ; {
		more, err := stmt.Step()
		if err != nil || !more {
			return dbError(err)
		}
		if stmt.ColumnCount() > 0 {
			id := stmt.ColumnInt64(0)
			if id <= last && last != math.MinInt64 {
				return fmt.Errorf("%w: rows out of order", ErrCorrupt)
			}
			last = id
		}
		if err := fn(stmt); err != nil {
			return err
		}
	}
}

func (d *db) exec(query string) error {
	stmt, _, err := d.conn.PrepareTransient(query)
	if err != nil {
		return dbError(err)
	}
	defer stmt.Finalize()
	for more := true; more && err == nil; {
		more, err = stmt.Step()
	}
	return dbError(err)
}

// columns are the plain columns of a table, none when there is no such table.
// The caller gives a literal name.
func (d *db) columns(table string) (map[string]bool, error) {
	cols := make(map[string]bool)
	err := d.each("PRAGMA table_xinfo("+table+")", func(s *sqlite.Stmt) error {
		name := strings.ToLower(s.ColumnText(1))
		const hidden = 6
		if s.ColumnInt64(hidden) != 0 || name == "rowid" {
			return fmt.Errorf("%w: odd column %.60q in table %s", ErrCorrupt, name, table)
		}
		cols[name] = true
		return nil
	})
	return cols, err
}

// require fails when one of the columns is missing.
func require(table string, cols map[string]bool, names ...string) error {
	for _, name := range names {
		if !cols[name] {
			return fmt.Errorf("%w: table %s has no column %s", ErrCorrupt, table, name)
		}
	}
	return nil
}

// properties reads the table of that name.
func (d *db) properties() (map[string]string, error) {
	props := make(map[string]string)
	err := d.each("SELECT rowid, key, value FROM properties ORDER BY rowid", func(s *sqlite.Stmt) error {
		if len(props) == maxProperties {
			return fmt.Errorf("%w: more than %d properties", ErrCorrupt, maxProperties)
		}
		props[s.ColumnText(1)] = s.ColumnText(2)
		return nil
	})
	return props, err
}

// dbError sorts SQLite's errors: a failing disk or want of memory says nothing
// about the file's content, all else means that the file is no good.
func dbError(err error) error {
	if err == nil {
		return nil
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultIOErr, sqlite.ResultNoMem, sqlite.ResultCantOpen, sqlite.ResultPerm,
		sqlite.ResultInterrupt, sqlite.ResultBusy, sqlite.ResultLocked, sqlite.ResultFull, sqlite.ResultReadOnly:
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
