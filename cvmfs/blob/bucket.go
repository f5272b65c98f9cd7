// Package blob reads files on object storage over HTTP, by ranges, in blocks of
// fixed size that are kept in the cache. It knows nothing of what the files
// hold.
//
// A File is one version of a file: its ETag, or where the server gives none its
// Last-Modified, and its length. Every request asks for that version and every
// answer has to be of it, so that two versions of one file are never mixed:
// a changed file is another File with blocks of its own, and whoever reads the
// old one gets what is cached, or ErrChanged. Mirrors are asked in order, as a
// repository's servers are; one that has another version of a file is no mirror
// of it. The content itself has no hash
// that could be checked; https and, for images, their PGP signatures are what
// vouches for it.
//
// LOCK ORDER: Bucket.mu is a leaf; it is not held during I/O.
package blob

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// ErrChanged is returned for what is not cached of a file that the server has
// in another version now.
var ErrChanged = fetch.ErrChanged

// BlockSize is the size of a block in bytes; the last of a file may be shorter.
const BlockSize = 512 << 10

const (
	maxIndex = 64 << 20 // bytes of a list of files
	wildcard = "@image@"
)

// Memo remembers small derived data from one run to the next. It may forget at
// any time. Safe for concurrent use.
type Memo interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
}

// The memo's buckets: File by bucket and name, and the index by bucket. What is put
// into the first should be seen at once by others who share the store.
const (
	FileMemo  = "blob-file"
	indexMemo = "blob-index"
)

// Options say where the files are. All but Index or Files must be set.
type Options struct {
	Name  string       // of the bucket: names its files for good
	URLs  []string     // of a file, with @image@ in its path in place of the name: one, then its mirrors
	Index []string     // URLs of a list of the files' names, which Index returns as it is; the first that answers
	Files []string     // instead of Index
	Net   fetch.Config // how servers are asked; New sets which
	Store cache.Store
	// Claim keeps other processes that share the store from fetching a key, until
	// the function that it returns is called. Nil: there are none.
	Claim  func(ctx context.Context, key string) (release func(), err error)
	Memo   Memo
	Logger *slog.Logger
}

// File is one version of a file.
type File struct {
	Name string `json:"name"`
	fetch.Version
}

// Bucket is a place that holds files. Safe for concurrent use.
type Bucket struct {
	o       Options
	net     *fetch.Client
	log     *slog.Logger
	changed chan struct{}

	mu      sync.Mutex // guards all below
	index   *string    // nil: not fetched yet
	known   map[string]File
	gone    map[string]bool // ids of versions that the server does not have any more
	offline bool
	checked time.Time // when the server was looked at last
}

// New makes a bucket; it asks nobody. The error says what is wrong with the URLs
// or the other settings.
func New(o Options) (*Bucket, error) {
	o.Net.Servers = nil
	for _, u := range o.URLs {
		if err := CheckURL(u); err != nil {
			return nil, err
		}
		o.Net.Servers = append(o.Net.Servers, strings.Replace(u, wildcard, fetch.Here, 1))
	}
	net, err := fetch.New(o.Net)
	if err != nil {
		return nil, err
	}
	return &Bucket{o: o, net: net, log: o.Logger, changed: make(chan struct{}, 1), known: map[string]File{}, gone: map[string]bool{}}, nil
}

// CheckURL reports why text cannot be the URL of a bucket's files.
func CheckURL(text string) error {
	u, err := url.Parse(strings.ReplaceAll(text, wildcard, "NAME"))
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("url %q is no URL: write \"https://HOST/PATH/%s\"", text, wildcard)
	case strings.Count(text, wildcard) != 1 || !strings.Contains(u.Path, "NAME"):
		return fmt.Errorf("url %q: its path must have %s once, where the image's name is put in", text, wildcard)
	}
	return nil
}

// Name is what the bucket is called.
func (b *Bucket) Name() string { return b.o.Name }

// Place is the URL of a file at the first place, without what gives access to
// it, for people.
func (b *Bucket) Place(name string) string {
	u, err := url.Parse(strings.Replace(b.o.URLs[0], wildcard, strings.ReplaceAll(url.PathEscape(name), "+", "%2B"), 1))
	if err != nil {
		return b.o.Name + ":" + name
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// ID names a version for ever: 40 hexadecimal digits.
func (b *Bucket) ID(f File) string {
	sum := sha1.Sum(fmt.Appendf(nil, "http\x00%s\x00%s\x00%s\x00%d", b.Place(f.Name), f.ETag, f.LastModified, f.Size))
	return hex.EncodeToString(sum[:])
}

// Known returns which version of a file was found, without asking anybody.
func (b *Bucket) Known(name string) (File, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.known[name]
	return f, ok
}

// Find returns the version of a file that the server has, by one request, which
// brings the file's first block too; later calls ask nobody until Refresh. When
// the server does not answer it is the version that was found last. io/fs.ErrNotExist
// is returned for a file that the server does not have.
func (b *Bucket) Find(ctx context.Context, name string) (File, error) {
	if f, ok := b.Known(name); ok {
		return f, nil
	}
	var found File
	err := b.net.Once(ctx, "blob "+b.o.Name+" "+name, func(ctx context.Context) error {
		_, err := b.find(ctx, name)
		return err
	})
	if err != nil {
		return found, err
	}
	found, ok := b.Known(name)
	if !ok {
		return found, fmt.Errorf("%s: %w", b.Place(name), iofs.ErrNotExist)
	}
	return found, nil
}

// find is Find, by one caller at a time for each file.
func (b *Bucket) find(ctx context.Context, name string) (File, error) {
	if f, ok := b.Known(name); ok {
		return f, nil // since it was looked for
	}
	last, remembered := b.remembered(name)
	if b.o.Claim != nil && !b.begun(last) {
		release, err := b.o.Claim(ctx, "http-look-"+b.ID(File{Name: name}))
		if err != nil {
			return File{}, err
		}
		defer release()
		last, remembered = b.remembered(name) // another process may have found it meanwhile
	}
	f, err := b.look(ctx, name, last)
	switch {
	case err != nil && remembered && ctx.Err() == nil && !errors.Is(err, iofs.ErrNotExist):
		b.log.Warn("the server does not answer for an image, which is used as it was last", "source", b.o.Name, "image", name, "err", err)
		f = last
	case err != nil:
		return f, err
	}
	b.mu.Lock()
	b.known[name] = f
	delete(b.gone, b.ID(f))
	b.mu.Unlock()
	if f != last {
		b.remember(f)
	}
	return f, nil
}

// look asks which version of a file the server has. Where the first block is
// cached of the version that is expected, only a byte is fetched.
func (b *Bucket) look(ctx context.Context, name string, expected File) (File, error) {
	f := File{Name: name}
	part := [2]int64{0, BlockSize}
	if b.begun(expected) {
		part[1] = 1
	}
	err := b.get(ctx, fetch.Request{Path: name, Range: &part, Version: &f.Version, Accept: func(_ context.Context, body io.Reader) error {
		if part[1] == 1 {
			_, err := io.Copy(io.Discard, body)
			return err
		}
		return b.keep(f, 0, body)
	}})
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", b.Place(name), absent(err))
	}
	return f, nil
}

// begun reports whether the first block of f is cached.
func (b *Bucket) begun(f File) bool {
	o, err := b.o.Store.Recheck(b.key(f, 0))
	if err == nil {
		o.Close()
	}
	return err == nil
}

// absent turns a file that the server lacks into io/fs.ErrNotExist.
func absent(err error) error {
	if errors.Is(err, fetch.ErrNotFound) {
		return fmt.Errorf("%w: %w", iofs.ErrNotExist, err)
	}
	return err
}

// get makes a request and notes how it ended.
func (b *Bucket) get(ctx context.Context, r fetch.Request) error {
	err := b.net.Get(ctx, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.offline = false
	case ctx.Err() == nil:
		b.offline = errors.Is(err, fetch.ErrOffline)
	}
	return err
}

func (b *Bucket) memoKey(name string) string { return b.o.Name + " " + b.Place(name) }

func (b *Bucket) remembered(name string) (f File, ok bool) {
	text, ok := b.o.Memo.Get(FileMemo, b.memoKey(name))
	ok = ok && json.Unmarshal(text, &f) == nil && f.Name == name && f.Version != fetch.Version{}
	if !ok {
		f = File{}
	}
	return f, ok
}

func (b *Bucket) remember(f File) {
	text, err := json.Marshal(f)
	if err != nil {
		panic(err) // texts and a number
	}
	b.o.Memo.Put(FileMemo, b.memoKey(f.Name), text)
}

// Changed tells, once for each time, that a reader came upon a file that the
// server has in another version now: Refresh is due.
func (b *Bucket) Changed() <-chan struct{} { return b.changed }

// Status is where a bucket stands.
type Status struct {
	URL     string    // of a file, without what gives access
	Offline bool      // the last request reached no server
	Checked time.Time // when the list and the files were looked at last
	Net     fetch.Stats
}

// Status is cheap.
func (b *Bucket) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Status{URL: strings.ReplaceAll(b.Place("NAME"), "NAME", wildcard), Offline: b.offline, Checked: b.checked, Net: b.net.Stats()}
}

// Close ends all requests.
func (b *Bucket) Close() { b.net.Close() }
