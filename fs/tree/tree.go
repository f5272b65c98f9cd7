// Package tree is the synthetic part of the mount: bin, apps, cvmfs and
// .neurodeskfs, made at look-up time from what the repositories hold.
//
//	bin/COMMAND                       one owner for each command
//	apps/NAME/VERSION -> VERSION_DATE newest build of that version
//	apps/NAME/default -> VERSION      newest version
//	apps/NAME/VERSION_DATE/bin        every command of that image
//	apps/NAME/VERSION_DATE/rootfs ->  .neurodeskfs/images/HASH/rootfs
//	apps/NAME/VERSION_DATE/README.md, env
//	modules/NAME/VERSION.lua          for Lmod; modules-tcl/NAME/VERSION: for Environment Modules
//	share/applications/*.desktop      menu entries; with their categories and menu
//	cvmfs/FQRN                        the raw repository
//	.neurodeskfs/                     launcher, launch.json, status.json, …
//	.neurodeskfs/starts/              empty; a look-up in it announces a start
//
// Every node is a record in the node table: directories by their path, links
// and generated files by their whole content, so that a file that changes is a
// new node under its old name.
//
// LOCK ORDER: index.mu and Tree.mu are never held together, nor during I/O.
package tree

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Options make a tree.
type Options struct {
	Sources    []*Source // earlier ones shadow later ones
	Images     *image.Images
	Table      volume.Table // empty, or as an earlier tree left it
	Frozen     *os.File     // a file in memory, empty or as an earlier tree left it; nil: one of its own
	Since      time.Time    // when listings changed last; zero: now
	Memo       Memo
	Mountpoint string
	Launcher   Launcher      // what starts the commands
	Policy     []byte        // launch.json
	Status     func() []byte // status.json
	Version    string
	Never      []string          // names that never stand in bin; nil: DefaultNever
	Pins       map[string]string // the version, or VERSION_DATE, that an app's commands in bin and its default are of
	Logger     *slog.Logger
	// Started is called when a launcher announces that it starts a command of an
	// image of a source; it must not wait. nil: nobody cares.
	Started func(id string, spec image.Spec, command string)
	// Changed is called when listings changed; nodes are the directories'.
	Changed func(nodes []volume.Node)
	// Begin delays the building of the index until it is closed; nil: at once. Who
	// takes over has one, and waits for the index before it moves.
	Begin <-chan struct{}
}

// Tree implements volume.Volume. Entry 1 is the mount's root.
type Tree struct {
	o          Options
	log        *slog.Logger
	index      atomic.Pointer[index]
	ctx        context.Context // ends with Close
	stop       context.CancelFunc
	moving     sync.Mutex // held by the one Refresh
	listable   chan struct{}
	lockedSeen *lockedImages

	launcherOnce   sync.Once
	launcherRecord string
	launcherErr    error

	changed  atomic.Int64 // when a listing changed last, unix nanoseconds
	frozen   *frozenFiles
	listings *listings

	mu         sync.Mutex            // guards all below
	specs      map[string]image.Spec // by image id
	background sync.WaitGroup
	spawning   sync.Mutex // nothing is added to background while Close waits
}

const rootEntry = 1

// New makes the tree and begins to build the command index in the background.
func New(o Options) (*Tree, error) {
	ctx, stop := context.WithCancel(context.Background())
	t := &Tree{
		o: o, log: o.Logger, ctx: ctx, stop: stop, lockedSeen: newLockedImages(), listings: newListings(),
		listable: make(chan struct{}, 1), specs: map[string]image.Spec{},
	}
	t.changed.Store(o.Since.UnixNano())
	if o.Since.IsZero() {
		t.changed.Store(time.Now().UnixNano())
	}
	o.Images.Remember(o.Memo)
	var err error
	if t.frozen, err = openFrozen(o.Frozen); err != nil {
		stop()
		return nil, err
	}
	n, err := o.Table.Intern(dirRecord(""))
	if err == nil && n != rootEntry {
		err = fmt.Errorf("the root directory has number %d in the node table, not %d", n, rootEntry)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("tree: %w", err)
	}
	x := newIndex(ctx, o, nil, t.spawn, t.listingsChanged, t.sayListable)
	t.index.Store(x)
	t.spawn(func() {
		if o.Begin != nil {
			select {
			case <-o.Begin:
			case <-ctx.Done(): // which build sees
			}
		}
		x.build()
	})
	return t, nil
}

// spawn runs fn beside, until Close, which waits for it; false after that.
func (t *Tree) spawn(fn func()) bool {
	t.spawning.Lock()
	defer t.spawning.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	t.background.Go(fn)
	return true
}

// Close ends the background work.
func (t *Tree) Close() {
	t.spawning.Lock()
	t.stop()
	t.spawning.Unlock()
	t.background.Wait()
	t.frozen.close()
}

// listingsChanged tells the kernel that what it keeps of bin, apps and the
// given apps is old.
func (t *Tree) listingsChanged(apps []string) {
	t.changed.Store(time.Now().UnixNano())
	if t.o.Changed == nil {
		return
	}
	var nodes []volume.Node
	paths := []string{"bin", "apps", "modules", "modules-tcl", desktopDir, directoryDir, menuDir}
	for _, app := range apps {
		paths = append(paths, "apps/"+app, ".neurodeskfs/apps/"+app, "modules/"+app, "modules-tcl/"+app)
	}
	for _, path := range paths {
		if n, err := t.o.Table.Intern(dirRecord(path)); err == nil {
			nodes = append(nodes, volume.Node{Volume: t, Entry: n})
		}
	}
	t.o.Changed(nodes)
}

// Key implements volume.Volume.
func (t *Tree) Key() string { return "tree" }

// Records: a letter and NUL-separated fields.
const (
	recordDir      = 'd' // path
	recordLink     = 'l' // path, target
	recordFile     = 'f' // path, mode (octal), mtime (seconds), content
	recordLauncher = 'x' // hash, size, numbers of the records that hold its parts
	recordPart     = 'p' // hash, bytes
)

func dirRecord(path string) string { return string(recordDir) + "\x00" + path }

// directory is one of the tree's own directories.
type directory struct {
	// names lists it; nil: it is not listed.
	names func(ctx context.Context) ([]string, error)
	// child makes one entry, or fails with fs.ErrNotExist.
	child func(ctx context.Context, name string) (volume.Child, error)
	// listed makes one entry of a listing without waiting for anything; nil: child does.
	listed func(ctx context.Context, name string) (volume.Child, error)
	// begin waits, bounded, when a listing begins; nil: it does not.
	begin func(ctx context.Context) error
	// absent is how long an absent name may be believed.
	absent time.Duration
	// sign says what a name stands for, where that is cheaper than child; nil:
	// it is the child's node.
	sign func(ctx context.Context, name string) (string, error)
}

// open finds the directory that entry numbers.
func (t *Tree) open(entry uint64) (directory, error) {
	record, err := t.record(entry)
	if err != nil {
		return directory{}, err
	}
	path, ok := strings.CutPrefix(record, dirRecord(""))
	if !ok {
		return directory{}, volume.ErrNotDir
	}
	return t.now().directory(path)
}

func (t *Tree) record(entry uint64) (string, error) {
	record, err := t.o.Table.Record(entry)
	if err == nil && (len(record) < 2 || record[1] != 0) {
		err = fmt.Errorf("entry %d of the tree: %w", entry, volume.ErrStale)
	}
	return record, err
}

// Lookup implements volume.Volume.
func (t *Tree) Lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	for {
		x := t.index.Load()
		c, err := t.lookup(ctx, dir, name)
		if !t.overtaken(ctx, x, err) {
			return c, err
		}
	}
}

// overtaken reports whether err only says that the index x, which was asked,
// has made way for a newer one.
func (t *Tree) overtaken(ctx context.Context, x *index, err error) bool {
	return errors.Is(err, context.Canceled) && ctx.Err() == nil && t.index.Load() != x
}

func (t *Tree) lookup(ctx context.Context, dir uint64, name string) (volume.Child, error) {
	d, err := t.open(dir)
	if err != nil {
		return volume.Child{}, err
	}
	c, err := d.child(ctx, name)
	c.Name = name
	if errors.Is(err, iofs.ErrNotExist) && c.Valid == 0 {
		c.Valid = d.absent
	}
	return c, err
}

// dir is the child that stands for the directory at path.
func (t generation) dir(path string) (volume.Child, error) {
	n, err := t.intern(dirRecord(path))
	return volume.Child{Node: volume.Node{Volume: t.Tree, Entry: n}, Attr: t.dirAttr(), Valid: volume.Forever}, err
}

// dirUnless is the directory at path, or err.
func (t generation) dirUnless(err error, path string) (volume.Child, error) {
	if err != nil {
		return volume.Child{}, err
	}
	return t.dir(path)
}

func (t *Tree) dirAttr() volume.Attr {
	at := time.Unix(0, t.changed.Load())
	return volume.Attr{Mode: unix.S_IFDIR | 0o755, Nlink: 2, MTime: at.Unix(), MTimeNsec: uint32(at.Nanosecond())}
}

// link is the child that is a symbolic link at path.
func (t generation) link(path, target string) (volume.Child, error) {
	n, err := t.intern(string(recordLink) + "\x00" + path + "\x00" + target)
	return volume.Child{Node: volume.Node{Volume: t.Tree, Entry: n}, Attr: linkAttr(target), Valid: volume.Forever}, err
}

func linkAttr(target string) volume.Attr {
	return volume.Attr{Mode: unix.S_IFLNK | 0o777, Nlink: 1, Size: uint64(len(target))}
}

// file is the child that is a generated file at path. The same content at the
// same path is the same node.
func (t generation) file(path string, mode uint32, mtime time.Time, content []byte) (volume.Child, error) {
	f := generated{path: path, mode: mode, mtime: mtime.Unix(), content: string(content)}
	n, err := t.intern(f.record())
	return volume.Child{Node: volume.Node{Volume: t.Tree, Entry: n}, Attr: f.attr(), Valid: volume.Forever}, err
}

type generated struct {
	path    string
	mode    uint32
	mtime   int64
	content string
}

func (f generated) record() string {
	return strings.Join([]string{string(recordFile), f.path, strconv.FormatUint(uint64(f.mode), 8), strconv.FormatInt(f.mtime, 10), f.content}, "\x00")
}

func parseGenerated(record string) (f generated, ok bool) {
	p := strings.SplitN(record, "\x00", 5)
	if len(p) != 5 {
		return f, false
	}
	mode, err1 := strconv.ParseUint(p[2], 8, 32)
	mtime, err2 := strconv.ParseInt(p[3], 10, 64)
	return generated{p[1], uint32(mode), mtime, p[4]}, err1 == nil && err2 == nil
}

func (f generated) attr() volume.Attr {
	return volume.Attr{Mode: unix.S_IFREG | f.mode, Nlink: 1, Size: uint64(len(f.content)), MTime: f.mtime}
}
