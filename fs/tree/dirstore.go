package tree

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// dirStore is a folder of the host that holds single-file images, sandbox
// directories, or NAME_VERSION_DATE folders with an image of that name and
// perhaps its commands.txt, as neurocommand makes them.
type dirStore struct {
	source, dir string
	public      bool // others may use the mount: what they could not read is refused
}

func (s dirStore) name() string { return s.source }

func (s dirStore) list(ctx context.Context, fn func(container)) error {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c, ok := s.container(e.Name()); ok {
			fn(c)
		}
	}
	return err
}

// document finds nothing: a folder of images has no lists of the repository's.
func (s dirStore) document(_ context.Context, path string) ([]byte, error) {
	return nil, notExist(path)
}

// suffixes are what names of single-file images end in.
var suffixes = []string{".sif", ".simg", ".sqsh", ".squashfs", ".sqfs", ".img"}

// container finds out what name in the folder is.
func (s dirStore) container(name string) (c dirContainer, ok bool) {
	at := filepath.Join(s.dir, name)
	st, err := os.Stat(at)
	if err != nil || name[0] == '.' {
		return c, false
	}
	c = dirContainer{store: s, name: name, file: at}
	if !st.IsDir() {
		_, _, tag := splitTag(name)
		bare := trimSuffix(name)
		if !st.Mode().IsRegular() || bare == name && !tag {
			return c, false
		}
		return c, c.call(bare)
	}
	for _, suffix := range suffixes {
		if _, err := os.Stat(filepath.Join(at, name+suffix)); err == nil {
			c.beside, c.file = at, filepath.Join(at, name+suffix)
			return c, c.call(name)
		}
	}
	files := image.HostFiles(at) // links mean what they mean inside: Alpine's bin/sh leads to /bin/busybox
	_, err = files.Resolve(context.Background(), "/.singularity.d")
	if err != nil {
		_, err = files.Resolve(context.Background(), "/bin/sh")
	}
	return c, err == nil && c.call(trimSuffix(name))
}

func trimSuffix(name string) string {
	for _, suffix := range suffixes {
		if bare, ok := strings.CutSuffix(name, suffix); ok && bare != "" {
			return bare
		}
	}
	return name
}

// dirContainer is an image in a folder of the host.
type dirContainer struct {
	store        dirStore
	name         string
	app, version string // "": name is NAME_VERSION_DATE
	file         string // the image, a file or a directory
	beside       string // where commands.txt may lie; "": nowhere
}

// call makes app and version of a name, see callImage.
func (c *dirContainer) call(name string) (ok bool) {
	if _, _, _, whole := splitImageName(name); whole {
		c.name = name
	}
	c.app, c.version, ok = callImage(name)
	return ok
}

// callImage makes app and version of an image's name: NAME:VERSION,
// NAME_VERSION, as `apptainer pull` makes them, or NAME alone. Of
// NAME_VERSION_DATE it makes nothing: that tells all by itself.
func callImage(name string) (app, version string, ok bool) {
	if _, _, _, ok := splitImageName(name); ok {
		return "", "", true
	}
	if app, version, ok = splitTag(name); ok {
		return app, version, true
	}
	if i := strings.LastIndexByte(name, '_'); i > 0 && i < len(name)-1 {
		app, version = name[:i], name[i+1:]
	} else {
		app, version = name, "latest"
	}
	return app, version, nameable(app) && nameable(version)
}

func (c dirContainer) about() about {
	a := about{dir: c.name, app: c.app, version: c.version, place: c.file, silent: true, published: time.Unix(0, 0)}
	files := []string{c.file}
	if c.beside != "" {
		files = append(files, filepath.Join(c.beside, "commands.txt"))
	}
	a.key = "dir/" + c.store.source + "/" + c.name
	for i, f := range files {
		var st unix.Stat_t
		if unix.Stat(f, &st) != nil || i > 0 && c.store.hides(f) {
			continue
		}
		a.key += fmt.Sprintf("/%x.%x.%x.%x", st.Dev, st.Ino, st.Size, st.Mtim.Nano())
		a.published = time.Unix(st.Mtim.Sec, 0)
		switch {
		case i > 0:
			a.silent = false
		case st.Mode&unix.S_IFMT == unix.S_IFREG:
			a.file = c.file
		}
	}
	return a
}

func (c dirContainer) text(ctx context.Context, name string) ([]byte, error) {
	if c.beside == "" || c.store.hides(filepath.Join(c.beside, name)) {
		return nil, notExist(name)
	}
	return hostContainer{c.store.source, c.beside}.text(ctx, name)
}

func (c dirContainer) rootfs(context.Context) (r rootfs, err error) {
	at, err := filepath.EvalSymlinks(c.file)
	if err != nil {
		return r, err
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return r, &os.PathError{Op: "stat", Path: at, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		r.host = at
		sum := sha1.Sum(fmt.Appendf(nil, "%s\x00%x.%x.%x", at, st.Dev, st.Ino, st.Mtim.Nano()))
		r.id = hex.EncodeToString(sum[:])
		return r, nil
	}
	if c.store.public {
		if closed, need, err := closedTo(at, 0o004); err != nil {
			return r, err
		} else if closed != "" {
			return r, fmt.Errorf("%w: not everybody who sees the mount may read %s: chmod o+%s %s, or mount without allow_other", image.ErrRefused, at, need, closed)
		}
	}
	r.id, r.spec, err = image.IdentifyHost(at)
	return r, err
}

// CheckFolder reports why a folder cannot be a source on a mount that others
// may use: what not everybody may read would be read with the daemon's rights.
func CheckFolder(dir string, public bool) error {
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return fmt.Errorf("%s is no folder: path names one that has images in it", dir)
	}
	if public {
		if closed, need, err := closedTo(dir, 0o005); err != nil {
			return fmt.Errorf("the folder cannot be read: %w", err)
		} else if closed != "" {
			return fmt.Errorf("%w: not everybody who sees the mount may read %s: chmod o+%s %s, or mount without allow_other", image.ErrRefused, dir, need, closed)
		}
	}
	if _, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("the folder cannot be read: %w", err)
	}
	return nil
}

// hides reports whether the folder's file at is not to be shown: it is no regular
// file, or the daemon, or not everybody who sees the mount, may read it.
func (s dirStore) hides(at string) bool {
	if st, err := os.Stat(at); err != nil || !st.Mode().IsRegular() || unix.Access(at, unix.R_OK) != nil {
		return true
	}
	if !s.public {
		return false
	}
	closed, _, err := closedTo(at, 0o004)
	return closed != "" || err != nil
}

// closedTo finds what keeps others than its owner from using what at, links
// followed, is: itself, which needs these permissions, or a directory above it.
// need is what chmod has to add there. "" is returned if all is open.
func closedTo(at string, mode os.FileMode) (closed, need string, err error) {
	if real, err := filepath.EvalSymlinks(at); err == nil { // else a directory above is closed: it is named
		at = real
	}
	for ; ; mode, at = 0o001, filepath.Dir(at) {
		st, err := os.Stat(at)
		if err != nil && !errors.Is(err, os.ErrPermission) {
			return "", "", err
		}
		if err == nil && st.Mode()&mode != mode {
			need = "r"
			if st.IsDir() {
				need = "rx"
			}
			return at, need, nil
		}
		if at == filepath.Dir(at) {
			return "", "", nil
		}
	}
}
