package catalog

import (
	"errors"
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
)

// newFile is a database in the making. The first error sticks.
type newFile struct {
	path string
	conn *sqlite.Conn
	err  error
}

// createFile makes a new file, which must not exist, with the given tables and
// an open transaction. Without journal and sync: who needs the file durable
// syncs it when it is done, and a file half made is removed.
func createFile(path string, schema []string) (*newFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	n := &newFile{path: path, conn: conn}
	for _, pragma := range []string{
		"page_size=1024", "encoding='UTF-8'", "journal_mode=OFF", "synchronous=OFF",
		"locking_mode=EXCLUSIVE", "temp_store=MEMORY", "foreign_keys=OFF",
		"cache_size=-131072", // paths come in random order: keep the whole index at hand
	} {
		n.exec("PRAGMA " + pragma)
	}
	n.exec("BEGIN")
	for _, table := range schema {
		n.exec(table)
	}
	if n.err != nil {
		return nil, n.close()
	}
	return n, nil
}

// usable returns the first error, or os.ErrClosed after close.
func (n *newFile) usable() error {
	if n.err == nil && n.conn == nil {
		return os.ErrClosed
	}
	return n.err
}

func (n *newFile) exec(sql string) {
	if n.err != nil {
		return
	}
	d := db{conn: n.conn}
	if err := d.exec(sql); err != nil {
		n.err = fmt.Errorf("%.40s: %w", sql, err)
	}
}

// prepare returns nil when there is an error already.
func (n *newFile) prepare(sql string) *sqlite.Stmt {
	if n.err != nil {
		return nil
	}
	stmt, err := n.conn.Prepare(sql)
	n.err = err
	return stmt
}

func (n *newFile) property(key, value string) {
	stmt := n.prepare("INSERT INTO properties (key, value) VALUES (?,?)")
	if n.err != nil {
		return
	}
	stmt.BindText(1, key)
	stmt.BindText(2, value)
	n.err = run(stmt)
}

// close commits, or removes the file when there was an error.
func (n *newFile) close() error {
	n.exec("COMMIT")
	err := n.conn.Close()
	n.conn = nil
	if n.err == nil {
		n.err = err
	}
	if n.err != nil {
		n.err = errors.Join(n.err, os.Remove(n.path))
	}
	return n.err
}

// run executes a statement that returns no rows.
func run(stmt *sqlite.Stmt) error {
	_, err := stmt.Step()
	if err != nil {
		return err
	}
	return stmt.Reset()
}

func bindPath(stmt *sqlite.Stmt, at int, h PathHash) {
	stmt.BindInt64(at, h.A)
	stmt.BindInt64(at+1, h.B)
}

// bindBlob stores nothing as NULL.
func bindBlob(stmt *sqlite.Stmt, at int, b []byte) {
	if len(b) == 0 {
		stmt.BindNull(at)
		return
	}
	stmt.BindBytes(at, b)
}
