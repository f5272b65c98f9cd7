package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// Tag is a named snapshot of the repository.
type Tag struct {
	Name        string
	Hash        hash.Hash // of the root catalog
	Revision    uint64
	Timestamp   time.Time // whole seconds, UTC
	Description string
	Size        int64  // bytes of the root catalog, uncompressed; 0 when unknown
	Branch      string // "" is the trunk
}

// History is an open history database, read only, safe for concurrent use.
type History struct {
	db    *db
	fqrn  string
	query string
}

// OpenHistoryBytes opens a history database that is held in memory; it copies b.
// Errors as for Open.
func OpenHistoryBytes(b []byte) (*History, error) {
	d, err := openBytes(b)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	h := &History{db: d}
	if err := h.load(); err != nil {
		return nil, fmt.Errorf("open history: %w", errors.Join(err, d.close()))
	}
	return h, nil
}

func (h *History) load() error {
	props, err := h.db.properties()
	if err != nil {
		return fmt.Errorf("read properties: %w", err)
	}
	h.fqrn = props["fqrn"]
	cols, err := h.db.columns("tags")
	if err != nil {
		return err
	}
	if err := require("tags", cols, "name", "hash", "revision", "timestamp", "description"); err != nil {
		return err
	}
	h.query = "SELECT rowid, name, hash, revision, timestamp, description"
	for _, o := range []struct{ column, instead string }{{"size", "0"}, {"branch", "''"}} {
		if cols[o.column] {
			o.instead = o.column
		}
		h.query += ", " + o.instead
	}
	h.query += " FROM tags ORDER BY rowid"
	return nil
}

// Close frees the connection; calls that come later fail with os.ErrClosed.
func (h *History) Close() error { return h.db.close() }

// FQRN is the name of the repository, as the database has it.
func (h *History) FQRN() string { return h.fqrn }

// Tags lists all tags, of all branches, in the order of the database. Errors: ErrCorrupt.
func (h *History) Tags(ctx context.Context) ([]Tag, error) {
	if err := h.db.lock(ctx); err != nil {
		return nil, fmt.Errorf("read tags: %w", err)
	}
	defer h.db.mu.Unlock()
	var tags []Tag
	err := h.db.each(h.query, func(s *sqlite.Stmt) error {
		n := integers{stmt: s}
		t := Tag{
			Name:        s.ColumnText(1),
			Revision:    uint64(n.may(3, 0, math.MaxInt64)),
			Timestamp:   time.Unix(n.may(4, 0, 1<<40), 0).UTC(),
			Description: s.ColumnText(5),
			Size:        n.may(6, 0, math.MaxInt64),
			Branch:      s.ColumnText(7),
		}
		var err error
		if t.Hash, err = hash.Parse(s.ColumnText(2)); err != nil || t.Name == "" {
			return fmt.Errorf("%w: tag %.60q with hash %.60q", ErrCorrupt, t.Name, s.ColumnText(2))
		}
		tags = append(tags, t)
		return n.err
	})
	if err != nil {
		return nil, fmt.Errorf("read tags: %w", err)
	}
	return tags, nil
}

// ByName finds a tag. Errors: ErrNotFound, ErrCorrupt.
func (h *History) ByName(ctx context.Context, name string) (Tag, error) {
	tags, err := h.Tags(ctx)
	if err != nil {
		return Tag{}, err
	}
	for _, t := range tags {
		if t.Name == name {
			return t, nil
		}
	}
	return Tag{}, fmt.Errorf("tag %.60q: %w", name, ErrNotFound)
}

// ByDate finds the newest tag of the trunk that is not after t; of two of the
// same second that of the higher revision. Errors: ErrNotFound, ErrCorrupt.
func (h *History) ByDate(ctx context.Context, t time.Time) (Tag, error) {
	tags, err := h.Tags(ctx)
	if err != nil {
		return Tag{}, err
	}
	var best Tag
	for _, tag := range tags {
		if tag.Branch != "" || tag.Timestamp.After(t) {
			continue
		}
		newer := tag.Timestamp.Compare(best.Timestamp)
		if best.Name == "" || newer > 0 || newer == 0 && tag.Revision > best.Revision {
			best = tag
		}
	}
	if best.Name == "" {
		return Tag{}, fmt.Errorf("tag of %s or before: %w", t.UTC().Format(time.RFC3339), ErrNotFound)
	}
	return best, nil
}

// CreateHistory writes a history database to a new file; after an error there
// is none.
func CreateHistory(path, fqrn string, tags []Tag) error {
	file, err := createFile(path, historySchema)
	if err != nil {
		return fmt.Errorf("create history %s: %w", path, err)
	}
	file.property("schema", historySchemaVersion)
	file.property("schema_revision", historySchemaRevision)
	file.property("fqrn", fqrn)
	file.property("previous_revision", noHash)
	file.exec("INSERT INTO branches (branch, parent, initial_revision) VALUES ('', NULL, 0)")
	stmt := file.prepare("INSERT INTO tags (name, hash, revision, timestamp, channel, description, size, branch)" +
		" VALUES (?,?,?,?,0,?,?,?)")
	for _, t := range tags {
		if file.err != nil {
			break
		}
		stmt.BindText(1, t.Name)
		stmt.BindText(2, hashText(t.Hash))
		stmt.BindInt64(3, int64(t.Revision))
		stmt.BindInt64(4, max(t.Timestamp.Unix(), 0))
		stmt.BindText(5, t.Description)
		stmt.BindInt64(6, t.Size)
		stmt.BindText(7, t.Branch)
		file.err = run(stmt)
	}
	if err := file.close(); err != nil {
		return fmt.Errorf("create history %s: %w", path, err)
	}
	return nil
}
