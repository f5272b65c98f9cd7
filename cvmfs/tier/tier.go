// Package tier is a directory of objects that many nodes share, on Lustre, NFS
// or GPFS, looked at before the network.
//
//	TIER              layout number
//	objects/ab/REST   one object, byte for byte as the servers store it, under its
//	                  name in their data/: hash, algorithm, letter of its kind
//	heads/FQRN        how a repository's newest revision was verified
//	tmp/              objects being written
//
// Objects lie there as they are stored, and not inflated as in a node's own
// cache, because a CVMFS hash is over the stored bytes: so whoever reads one can
// compare it with the hash that the signed catalogs name, as after a download,
// and whoever may write here, by accident or on purpose, cannot make a node serve
// a wrong byte. Inflated content would have to be believed.
//
// A node only reads, without locks. Who fills writes to tmp/ and renames, so that
// any number may fill at once, and one that is killed leaves nothing half made.
//
// A shared file system that hangs must not stop what the network could deliver:
// each operation is waited for at most a while, and as long as one of them hangs
// the tier is not asked.
package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	layoutFile = "TIER"
	layoutText = "1\n"
	objectsDir = "objects"
	headsDir   = "heads"
	tmpDir     = "tmp"

	defaultPatience = 5 * time.Second
	readPiece       = 256 << 10
	maxHead         = 1 << 20
	warnAgain       = time.Minute
)

// ErrAside is returned while an operation on the tier hangs.
var ErrAside = errors.New("the shared tier does not answer")

// ErrLayout is returned by Make for a directory that is something else.
var ErrLayout = errors.New("not a shared tier")

// Tier is one such directory. Safe for concurrent use.
type Tier struct {
	dir      string
	log      *slog.Logger
	patience time.Duration
	open     func(path string) (file, error)

	hits, bytes, refused atomic.Int64
	hanging              atomic.Int64 // operations that were given up and have not returned
	warned               atomic.Int64 // unix nanoseconds, of the last warning
}

type file interface {
	io.ReadCloser
	Stat() (fs.FileInfo, error)
}

// New is the tier in dir for reading. The directory need not be there yet.
func New(dir string, log *slog.Logger) *Tier {
	return &Tier{dir: dir, log: log, patience: defaultPatience, open: openFile}
}

// openFile follows no link and waits for no pipe.
func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
}

// Stats are counters since New. Bytes are of content as stored.
type Stats struct {
	Dir     string
	Hits    int64 // objects that were taken from here
	Bytes   int64
	Refused int64  // objects that were damaged, or something else
	Error   string // why it cannot be used now; "": it can
}

// Stats never waits for the file system longer than an operation may take.
func (t *Tier) Stats() Stats {
	s := Stats{Dir: t.dir, Hits: t.hits.Load(), Bytes: t.bytes.Load(), Refused: t.refused.Load()}
	err := t.bounded(context.Background(), func() error {
		_, err := os.Stat(filepath.Join(t.dir, layoutFile))
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Error = "there is no shared tier: neurodeskfs prefetch APP --to " + t.dir + " makes it"
	case err != nil:
		s.Error = err.Error()
	}
	return s
}

// Object is an open object, bytes as stored, of which nothing is verified yet.
// Used by one goroutine.
type Object struct {
	t    *Tier
	ctx  context.Context
	f    file
	buf  []byte // what was read and not yet taken
	room []byte
	n    int64
	err  error
}

// Open opens an object by its name below objects/. The error wraps
// fs.ErrNotExist when it is not there, and ErrAside while the tier hangs.
func (t *Tier) Open(ctx context.Context, name string) (*Object, error) {
	open := t.open
	var f file
	var settled atomic.Bool // by whichever side comes first; the second closes the file
	err := t.bounded(ctx, func() (err error) {
		if f, err = open(t.path(name)); err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("tier: %s is no file but %v", name, info.Mode().Type())
		}
		if err != nil || !settled.CompareAndSwap(false, true) {
			f.Close()
		}
		return err
	})
	if err != nil {
		if !settled.CompareAndSwap(false, true) {
			f.Close()
		}
		return nil, err
	}
	return &Object{t: t, ctx: ctx, f: f, room: make([]byte, readPiece)}, nil
}

func (t *Tier) path(name string) string { return filepath.Join(t.dir, objectsDir, name) }

// Read implements io.Reader. It returns ErrAside when the file system hangs.
func (o *Object) Read(p []byte) (int, error) {
	for len(o.buf) == 0 {
		if o.err != nil {
			return 0, o.err
		}
		// Into a buffer of our own: one that hangs may still be written to later.
		n, room, f := 0, o.room, o.f
		done := make(chan struct{})
		err := o.t.bounded(o.ctx, func() error {
			defer close(done)
			var err error
			n, err = f.Read(room)
			return err
		})
		select {
		case <-done:
			o.buf, o.err = room[:n], err
		default:
			o.f, o.err = nil, err // whoever hangs there owns the file
			return 0, err
		}
	}
	n := copy(p, o.buf)
	o.buf = o.buf[n:]
	o.n += int64(n)
	return n, nil
}

// Close ends the use of the object.
func (o *Object) Close() error {
	if o.f == nil {
		return nil
	}
	return o.f.Close()
}

// Served counts the object as taken: it was what its name says.
func (o *Object) Served() {
	o.t.hits.Add(1)
	o.t.bytes.Add(o.n)
}

// Refused counts the object name as damaged, and warns of it, at most once a minute.
func (t *Tier) Refused(name string, cause error) {
	t.refused.Add(1)
	t.warn("the shared tier holds something damaged, which is passed over: neurodeskfs prefetch --to mends it", "object", name, "err", cause)
}

func (t *Tier) warn(text string, args ...any) {
	now, last := time.Now().UnixNano(), t.warned.Load()
	if last != 0 && now-last < int64(warnAgain) || !t.warned.CompareAndSwap(last, now) {
		return
	}
	t.log.Warn(text, append([]any{"dir", t.dir}, args...)...)
}

// bounded runs an operation of the file system and waits for it at most for the
// patience. One that is given up goes on by itself, since nothing can interrupt
// it; while there is any, others fail at once, so that few are ever left behind.
func (t *Tier) bounded(ctx context.Context, operation func() error) error {
	if t.hanging.Load() > 0 {
		return fmt.Errorf("tier: %s: %w", t.dir, ErrAside)
	}
	done := make(chan error, 1)
	var given atomic.Bool // by whichever of the two sides comes first
	go func() {
		err := operation()
		done <- err
		if !given.CompareAndSwap(false, true) {
			t.hanging.Add(-1)
		}
	}()
	began := time.Now()
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	// giveUp counts the operation as one that hangs, unless it has returned.
	giveUp := func() bool {
		if given.Load() {
			return false
		}
		t.hanging.Add(1)
		if given.CompareAndSwap(false, true) {
			t.warn("the shared tier does not answer; it is left alone until it does", "patience", t.patience)
			return true
		}
		t.hanging.Add(-1)
		return false
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done(): // whoever asked has gone, which says nothing about the tier yet
		time.AfterFunc(t.patience-time.Since(began), func() { giveUp() })
		return fmt.Errorf("tier: %s: %w", t.dir, ctx.Err())
	case <-timer.C:
	}
	if !giveUp() {
		return <-done
	}
	return fmt.Errorf("tier: %s: %w", t.dir, ErrAside)
}

// Head returns what was kept about a repository's newest revision: bytes that
// are to be verified like any other.
func (t *Tier) Head(ctx context.Context, fqrn string) (b []byte, err error) {
	var got []byte
	err = t.bounded(ctx, func() error {
		f, err := openFile(filepath.Join(t.dir, headsDir, fqrn))
		if err != nil {
			return err
		}
		defer f.Close()
		got, err = io.ReadAll(io.LimitReader(f, maxHead))
		return err
	})
	if err != nil {
		return nil, err // got may still be written to
	}
	return got, nil
}

// Name is an object's name here, of its path on a server: data/ab/REST.
func Name(path string) string { return strings.TrimPrefix(path, "data/") }
