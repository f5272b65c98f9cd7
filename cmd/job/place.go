package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxEntries bounds how many directory entries a composed directory shows: each
// is a mount.
const maxEntries = 1000

// makePlace sees to it that there is a directory at mountpoint in this mount
// namespace, or else makes one elsewhere. made: it is to be removed afterwards;
// why: what stood against mountpoint.
func makePlace(mountpoint string) (place string, made bool, why error) {
	if info, err := os.Stat(mountpoint); err == nil && info.IsDir() {
		return mountpoint, false, nil
	}
	why = compose(mountpoint)
	if why == nil {
		return mountpoint, false, nil
	}
	place, err := os.MkdirTemp("", "neurodesk-")
	if err != nil {
		return "", false, errors.Join(why, err)
	}
	return place, true, why
}

// compose makes the directory path in this namespace only: the deepest
// directory above it that exists is covered by a new one, which shows all that
// the old one has and the way to path. It is read-only, for what was
// written there would be lost.
func compose(path string) error {
	above := filepath.Dir(path)
	for ; ; above = filepath.Dir(above) {
		if _, err := os.Lstat(above); err == nil {
			break
		}
	}
	writable := unix.Access(above, unix.W_OK) == nil
	if real, err := filepath.EvalSymlinks(above); err != nil {
		return err
	} else if real != above {
		return fmt.Errorf("%s leads through a link", path)
	}
	if writable && above != "/" {
		return fmt.Errorf("%s does not exist: mkdir -p %s", path, path)
	}
	old, err := os.OpenFile(above, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	entries, err := os.ReadDir(above)
	if err != nil {
		return err
	}
	if len(entries) > maxEntries {
		return fmt.Errorf("%s has more than %d entries, too many to be shown by mounts", above, maxEntries)
	}
	if above == "/" {
		return composeRoot(path, entries)
	}
	if err := coverWithTmpfs(above); err != nil {
		return err
	}
	return fill(above, fmt.Sprintf("/proc/self/fd/%d", old.Fd()), entries, path)
}

func coverWithTmpfs(dir string) error {
	if err := unix.Mount("neurodeskfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", dir, err)
	}
	return nil
}

// oldRoot is where the old root stands for a moment.
const oldRoot = ".neurodeskfs-old"

// composeRoot is compose for /. A root is changed by pivot_root(2), as after
// chroot(2) no user namespace could be made any more, which containers need.
func composeRoot(path string, entries []os.DirEntry) error {
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("the current directory: %w", err)
	}
	const stage = "/tmp" // any directory; the new root is moved away from it at once
	if err := coverWithTmpfs(stage); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(stage, oldRoot), 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(stage, filepath.Join(stage, oldRoot)); err != nil {
		_ = unix.Unmount(stage, unix.MNT_DETACH)
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := fill("/", "/"+oldRoot, entries, path); err != nil {
		return err
	}
	return os.Chdir(cwd)
}

// fill shows in dir, a new tmpfs, what the directory old has, makes path, and
// makes dir read-only.
func fill(dir, old string, entries []os.DirEntry, path string) error {
	for _, e := range entries {
		if err := show(filepath.Join(old, e.Name()), filepath.Join(dir, e.Name()), e); err != nil {
			return fmt.Errorf("show %s: %w", filepath.Join(dir, e.Name()), err)
		}
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if dir == "/" {
		if err := unix.Unmount(old, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("leave the old root: %w", err)
		}
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

// show makes one entry: a link as it is, anything else by a bind mount of all
// that is mounted there.
func show(from, to string, e os.DirEntry) error {
	switch {
	case e.Type()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return err
		}
	}
	err := bind(from, to)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil // what this user cannot use outside either
	}
	return err
}

// bind shows from at to. An automount point that nobody has used yet is copied
// as it is: looking at the root must not mount a site's servers. The calls for
// that are of Linux 5.2.
func bind(from, to string) error {
	const how = unix.OPEN_TREE_CLONE | unix.AT_RECURSIVE | unix.AT_NO_AUTOMOUNT | unix.OPEN_TREE_CLOEXEC
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, how)
	if errors.Is(err, unix.ENOSYS) {
		return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
