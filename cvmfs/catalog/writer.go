package catalog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"zombiezen.com/go/sqlite"
)

// Entry is a row to write. Flags, parent and name follow from the rest.
type Entry struct {
	Path        string // absolute, "" for the repository's root
	Mode        uint32 // type and permissions, as stat(2) has them
	Size        int64  // bytes; 0 for a link takes the target's length
	MTime       int64  // seconds since 1970
	MTimeNsec   int32  // nanoseconds; 0 or less is stored as unknown
	UID, GID    uint32
	Symlink     string
	Hash        hash.Hash // zero is stored as none
	Compression Compression
	Hardlinks   uint64 // group << 32 | link count; 0 is one link, no group
	Rdev        uint64 // of a device, in place of Size
	Xattrs      []Xattr
	Chunks      []Chunk // makes the file a chunked one

	External   bool // content outside the repository
	Nested     bool // a nested catalog takes over here: see also AddNested
	NestedRoot bool // the top of a nested catalog; set by itself at RootPrefix
	Hidden     bool
	BindMount  bool // see also AddBind
}

// NewCatalog says what goes into a catalog's properties.
type NewCatalog struct {
	RootPrefix   string // "" for the root catalog
	Revision     uint64
	TTL          time.Duration // whole seconds; 0 leaves it out, as nested catalogs do
	Previous     hash.Hash
	LastModified time.Time
}

// Writer makes one catalog, in one transaction. It is for one goroutine. The
// first error sticks: later calls return it, and Close removes the file.
type Writer struct {
	file   *newFile
	prefix string
	stats  Statistics
	row    *sqlite.Stmt
	chunk  *sqlite.Stmt
	nested *sqlite.Stmt
	bind   *sqlite.Stmt
}

// Create starts a catalog of schema 2.5 in a new file. The caller adds the top
// directory (at RootPrefix) and all else, parents in any order, then calls Close.
func Create(path string, props NewCatalog) (*Writer, error) {
	w, err := create(path, props)
	if err != nil {
		return nil, fmt.Errorf("create catalog %s: %w", path, err)
	}
	return w, nil
}

func create(path string, props NewCatalog) (*Writer, error) {
	if !validPath(props.RootPrefix) {
		return nil, fmt.Errorf("root prefix %q is no clean absolute path", props.RootPrefix)
	}
	file, err := createFile(path, catalogSchema)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: file, prefix: props.RootPrefix}
	file.property("schema", catalogSchemaVersion)
	file.property("schema_revision", catalogSchemaRevision)
	if props.RootPrefix != "" {
		file.property("root_prefix", props.RootPrefix)
	}
	if props.TTL > 0 {
		file.property("TTL", strconv.FormatInt(int64(props.TTL/time.Second), 10))
	}
	file.property("last_modified", strconv.FormatInt(max(props.LastModified.Unix(), 0), 10))
	file.property("revision", strconv.FormatUint(props.Revision, 10))
	file.property("previous_revision", hashText(props.Previous))
	w.row = file.prepare("INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode," +
		" mtime, mtimens, flags, name, symlink, uid, gid, xattr) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
	w.chunk = file.prepare("INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash) VALUES (?,?,?,?,?)")
	w.nested = file.prepare("INSERT INTO nested_catalogs (path, sha1, size) VALUES (?,?,?)")
	w.bind = file.prepare("INSERT INTO bind_mountpoints (path, sha1, size) VALUES (?,?,?)")
	if file.err != nil {
		return nil, file.close()
	}
	return w, nil
}

func hashText(h hash.Hash) string {
	if h.IsZero() {
		return noHash
	}
	return h.String()
}

// Add writes one row and its chunks. A path given twice, outside RootPrefix or
// unclean, a mode without a type, MD5 or mixed hashes, or chunks that don't
// cover Size are errors.
func (w *Writer) Add(e Entry) error {
	if err := w.file.usable(); err != nil {
		return err
	}
	if err := w.add(e); err != nil {
		w.file.err = fmt.Errorf("add %q to catalog: %w", e.Path, err)
	}
	return w.file.err
}

func (w *Writer) add(e Entry) error {
	if !validPath(e.Path) || e.Path != w.prefix && !strings.HasPrefix(e.Path, w.prefix+"/") {
		return errors.New("not a clean absolute path below the root prefix")
	}
	e.NestedRoot = e.NestedRoot || e.Path == w.prefix && w.prefix != ""
	dir, name := e.split()
	if e.Mode&modeType == modeLink && e.Size == 0 {
		e.Size = int64(len(e.Symlink))
	}
	path := HashPath(e.Path)
	var parent PathHash
	if e.Path != "" {
		parent = HashPath(dir)
	}
	flags := e.flags()
	r := Row{Path: path, Parent: parent, Name: name, Symlink: e.Symlink, Size: e.Size, Mode: e.Mode, Flags: flags}
	if err := r.check(); err != nil {
		return err
	}
	if err := e.checkContent(); err != nil {
		return err
	}
	blob, err := packXattrs(e.Xattrs)
	if err != nil {
		return err
	}
	w.bindRow(e, r, blob)
	if err := run(w.row); err != nil {
		return err
	}
	for _, c := range e.Chunks {
		bindPath(w.chunk, 1, path)
		w.chunk.BindInt64(3, c.Offset)
		w.chunk.BindInt64(4, c.Size)
		w.chunk.BindBytes(5, c.Hash.Digest())
		if err := run(w.chunk); err != nil {
			return err
		}
	}
	w.count(e)
	return nil
}

// checkContent refuses hashes that the flags cannot tell apart.
func (e Entry) checkContent() error {
	if !e.Hash.IsZero() && e.Hash.Algorithm != e.flags().algorithm() {
		return fmt.Errorf("hash %s cannot be stored", e.Hash)
	}
	for _, c := range e.Chunks {
		if c.Hash.Algorithm != e.flags().algorithm() {
			return fmt.Errorf("chunk hash %s cannot be stored", c.Hash)
		}
	}
	if len(e.Chunks) == 0 {
		return nil
	}
	return checkChunks(e.Chunks, e.Size)
}

func (w *Writer) bindRow(e Entry, r Row, xattrs []byte) {
	bindPath(w.row, 1, r.Path)
	bindPath(w.row, 3, r.Parent)
	w.row.BindInt64(5, int64(max(e.Hardlinks, 1)))
	bindBlob(w.row, 6, nil)
	if !e.Hash.IsZero() {
		bindBlob(w.row, 6, e.Hash.Digest())
	}
	size := e.Size
	if kind := e.Mode & modeType; kind == modeChr || kind == modeBlk {
		size = int64(e.Rdev)
	}
	w.row.BindInt64(7, size)
	w.row.BindInt64(8, int64(e.Mode))
	w.row.BindInt64(9, e.MTime)
	w.row.BindNull(10)
	if e.MTimeNsec > 0 {
		w.row.BindInt64(10, int64(e.MTimeNsec))
	}
	w.row.BindInt64(11, int64(r.Flags))
	w.row.BindText(12, r.Name)
	w.row.BindText(13, e.Symlink)
	w.row.BindInt64(14, int64(e.UID))
	w.row.BindInt64(15, int64(e.GID))
	bindBlob(w.row, 16, xattrs)
}

// split parts the path in directory and name.
func (e Entry) split() (dir, name string) {
	if e.Path == "" {
		return "", ""
	}
	i := strings.LastIndexByte(e.Path, '/')
	return e.Path[:i], e.Path[i+1:]
}

func (e Entry) flags() Flags {
	var f Flags
	switch e.Mode & modeType {
	case modeDir:
		f = FlagDir
	case modeReg:
		f = FlagFile | Flags(e.Compression&threeBits)<<compressShift
	case modeLink:
		f = FlagFile | FlagLink
	default:
		f = FlagFile | FlagSpecial
	}
	a := e.Hash.Algorithm
	if len(e.Chunks) > 0 {
		f |= FlagChunked
		a = e.Chunks[0].Hash.Algorithm
	}
	if a > hash.SHA1 {
		f |= Flags(a-hash.SHA1) << hashShift
	}
	for _, s := range []struct {
		on   bool
		flag Flags
	}{
		{e.External, FlagExternal}, {e.Nested, FlagNestedMount}, {e.NestedRoot, FlagNestedRoot},
		{e.Hidden, FlagHidden}, {e.BindMount, FlagBindMount},
	} {
		if s.on {
			f |= s.flag
		}
	}
	return f
}

func (w *Writer) count(e Entry) {
	c := &w.stats.Self
	switch e.Mode & modeType {
	case modeDir:
		c.Dir++
	case modeLink:
		c.Symlink++
	case modeReg:
		c.Regular++
		c.FileSize += e.Size
		if e.External {
			c.External++
			c.ExternalFileSize += e.Size
		}
	default:
		c.Special++
	}
	if len(e.Chunks) > 0 {
		c.Chunked++
		c.ChunkedSize += e.Size
		c.Chunks += int64(len(e.Chunks))
	}
	if len(e.Xattrs) > 0 {
		c.Xattr++
	}
}

// AddNested notes that the catalog h, of size bytes uncompressed, takes over at
// path. The row of that path is added with Entry.Nested.
func (w *Writer) AddNested(path string, h hash.Hash, size int64) error {
	err := w.mount(w.nested, path, h, size)
	if err == nil {
		w.stats.Self.Nested++
	}
	return err
}

// AddBind is AddNested for a catalog whose own prefix is another path. The row
// of that path is added with Entry.BindMount.
func (w *Writer) AddBind(path string, h hash.Hash, size int64) error {
	return w.mount(w.bind, path, h, size)
}

func (w *Writer) mount(stmt *sqlite.Stmt, path string, h hash.Hash, size int64) error {
	if err := w.file.usable(); err != nil {
		return err
	}
	if !validPath(path) || !strings.HasPrefix(path, w.prefix+"/") || h.IsZero() || size < 0 {
		w.file.err = fmt.Errorf("add nested catalog %s at %q: path, hash or size is not valid", h, path)
		return w.file.err
	}
	stmt.BindText(1, path)
	stmt.BindText(2, h.String())
	stmt.BindInt64(3, size)
	if err := run(stmt); err != nil {
		w.file.err = fmt.Errorf("add nested catalog at %q: %w", path, err)
	}
	return w.file.err
}

// AddSubtree adds the statistics of a nested catalog, as its Writer counted
// them, to this catalog's subtree counters.
func (w *Writer) AddSubtree(s Statistics) {
	w.stats.Subtree.sum(s.Self)
	w.stats.Subtree.sum(s.Subtree)
}

// Statistics are the counters so far.
func (w *Writer) Statistics() Statistics { return w.stats }

// Close writes the statistics, commits and closes the file. After an error
// here or before there is no file. A second call returns what the first did.
func (w *Writer) Close() error {
	if w.file.conn == nil {
		return w.file.err
	}
	stmt := w.file.prepare("INSERT INTO statistics (counter, value) VALUES (?,?)")
	if w.file.err == nil {
		w.file.err = w.stats.named(func(name string, value *int64) error {
			stmt.BindText(1, name)
			stmt.BindInt64(2, *value)
			return run(stmt)
		})
	}
	return w.file.close()
}
