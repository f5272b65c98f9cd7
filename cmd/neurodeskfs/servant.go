package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cmd/config"
)

// servant is whom root's worker becomes before it reads a byte of anybody's. The
// user 0 is root without its capabilities.
type servant struct {
	name     string
	uid, gid int
}

// String is the user's name, "" of none.
func (s *servant) String() string {
	if s == nil {
		return ""
	}
	return s.name
}

// servantOf returns whom the worker becomes of a mount that this process makes;
// nil: it stays who it is, as it has no rights to give up. A user's own root, in
// a namespace that has nobody else, stays root and gives up its capabilities.
// Root's mount is not to fail by a key or a cache that root alone may reach:
// where no user is configured it then is served as by the user "root".
func servantOf(cfg *config.Config, log *slog.Logger) (*servant, error) {
	root := &servant{name: "root"}
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if !mapped("/proc/self/uid_map", 1) {
		return root, nil
	}
	s, err := findServant(cfg.User)
	if err == nil {
		err = s.able()
	}
	if err == nil && cfg.User == "" {
		if err = s.mayReach(cfg); err == nil {
			err = s.given(cfg.Cache.Dir)
		}
	}
	if err != nil && cfg.User == "" {
		log.Warn("the worker serves as root without capabilities: the default user cannot; let it, or name another with user = in the configuration", "err", err)
		return root, nil
	}
	return &s, err
}

// able reports why the servant cannot be the worker at all.
func (s *servant) able() error {
	if !mapped("/proc/self/uid_map", s.uid) || !mapped("/proc/self/gid_map", s.gid) {
		return failf(exitUsage, "the user %s (uid %d, gid %d) does not exist in this container: name another with user = in the configuration", s.name, s.uid, s.gid)
	}
	info, err := os.Stat(ownProgram)
	if err == nil && s.uid != 0 && info.Mode().Perm()&0o001 == 0 {
		program, _ := os.Executable()
		err = failf(exitUsage, "the user %s, as whom root's daemon serves, may not execute %s: chmod 755 %s", s.name, program, program)
	}
	return err
}

// mapped tells whether the user namespace has the id, by a table of the kernel's
// with lines of first id inside, first id outside, and how many.
func mapped(table string, id int) bool {
	text, err := os.ReadFile(table)
	if err != nil {
		return true // the kernel has no user namespaces
	}
	for line := range strings.Lines(string(text)) {
		var first, outside, n int
		if k, _ := fmt.Sscan(line, &first, &outside, &n); k == 3 && first <= id && id < first+n {
			return true
		}
	}
	return false
}

// findServant looks up the configured user; without one, neurodeskfs if there is
// such a user, else nobody.
func findServant(configured string) (servant, error) {
	names := []string{configured}
	if configured == "" {
		names = []string{"neurodeskfs", "nobody"}
	}
	var err error
	for _, name := range names {
		var u *user.User
		if u, err = user.Lookup(name); err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		return servant{name, uid, gid}, errors.Join(uidErr, gidErr)
	}
	return servant{}, failf(exitUsage, "the daemon's user: %w: make it, or name another with user = in the configuration", err)
}

// servants are the users that root's daemon may have served as, by number: who is
// configured, and who is not.
func servants(configured string) (uids []int) {
	for _, name := range []string{configured, "neurodeskfs", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			if uid, err := strconv.Atoi(u.Uid); err == nil && mapped("/proc/self/uid_map", uid) {
				uids = append(uids, uid)
			}
		}
	}
	return uids
}

// servantNamed is one that servantOf has chosen, by what String said of it.
func servantNamed(name string) (*servant, error) {
	switch name {
	case "":
		return nil, nil
	case "root":
		return &servant{name: name}, nil
	}
	s, err := findServant(name)
	return &s, err
}

// confinement are the arguments that start a program as the servant, who may
// write in dir alone.
func (s *servant) confinement(dir string) []string {
	args := []string{"confine", "--write=" + dir}
	if s.uid != 0 {
		args = append(args, fmt.Sprintf("--as=%d:%d", s.uid, s.gid))
	}
	return append(args, "--", ownProgram)
}

// makeCacheDir makes the cache directory of a mount whose worker will be s; nil:
// this process's user.
func makeCacheDir(dir string, s *servant) error {
	if s == nil || s.uid == 0 {
		s = &servant{"root", os.Geteuid(), os.Getegid()}
	}
	if err := s.own(dir); err != nil {
		if errors.Is(err, cache.ErrLocked) {
			return failure{exitBusy, err}
		}
		return fmt.Errorf("the cache directory cannot be made: %w", err)
	}
	return nil
}

// own makes dir, if need be, and all that lies in it the servant's. It follows
// no link. Root's daemon of earlier versions left files that are root's.
func (s *servant) own(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil // nobody else can give files away
	}
	root, err := openSafely(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil || owner(info) == s.uid {
		return err // all else follows from the last time
	}
	if uid := owner(info); uid != 0 && !slices.Contains(servants(s.name), uid) {
		return failf(exitFailure, "%s belongs to another user (uid %d), who could change what runs from it: choose another cache directory", dir, uid)
	}
	if err := s.take(root, dir); err != nil {
		if info, statErr := root.Stat("."); statErr == nil && owner(info) == s.uid {
			return nil // another job of root's was faster, and its worker is at work there
		}
		return err
	}
	return letThrough(dir)
}

// take makes all in dir, whose root is root, the servant's.
func (s *servant) take(root *os.Root, dir string) error {
	if err := cache.Free(dir); err != nil {
		return err
	}
	err := fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := e.Info()
		if err != nil || !e.IsDir() && links(info) > 1 {
			return err // a file that has another name elsewhere is no cache's
		}
		return root.Lchown(path, s.uid, s.gid)
	})
	if err == nil {
		err = root.Lchown(".", s.uid, s.gid) // last: it says that the rest is done
	}
	if err != nil {
		return fmt.Errorf("give %s to the user %s: %w: user = \"root\" in the configuration does without", dir, s.name, err)
	}
	return nil
}

// given is own where root lacks CAP_CHOWN or is nobody to a network disk: that
// alone is an error here, as others are no question of the user.
func (s *servant) given(dir string) error {
	if err := s.own(dir); errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// openSafely opens a directory, but not through a link that somebody else than
// root has put in its place: in a folder such as /tmp the servant can do that.
func openSafely(dir string) (*os.Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSymlink == 0:
		return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	case owner(info) != 0:
		return nil, fmt.Errorf("%s is a link of the user with uid %d: remove it, or choose another cache directory", dir, owner(info))
	}
	return os.OpenRoot(dir)
}

// letThrough lets others pass, without a look around, the directories above dir
// that were made for it: those of root's that are closed and hold nothing else.
func letThrough(dir string) error {
	for at := filepath.Dir(dir); filepath.Dir(at) != "/" && at != "/"; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil || owner(info) != 0 || info.Mode() != fs.ModeDir|0o700 {
			return err
		}
		if entries, err := os.ReadDir(at); err != nil || len(entries) != 1 {
			return err
		}
		if err := os.Chmod(at, 0o711); err != nil {
			return err
		}
	}
	return nil
}

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func links(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) }

// explainDenied adds to what was refused to root's daemon as whom it asked.
func (d *daemon) explainDenied(err error) error {
	if d.as == "" || d.as == "root" || !errors.Is(err, fs.ErrPermission) || errors.As(err, new(denied)) {
		return err
	}
	return denied{err, d.as}
}

// denied is what the daemon's user may not do.
type denied struct {
	err error
	as  string
}

func (e denied) Error() string {
	return fmt.Sprintf("%v: the daemon serves as the user %s, who must be able to read that: chmod it, or name another user with user = in the configuration", e.err, e.as)
}

func (e denied) Unwrap() error { return e.err }
