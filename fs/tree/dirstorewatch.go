package tree

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	quiet     = 300 * time.Millisecond // without an event, before a change is told
	impatient = time.Second            // how long a change is held back at most
	pollPause = time.Second            // between two looks where events do not come
)

// what is looked at: names that come and go, files that were written.
const folderEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB

// WatchFolder calls changed after every change in the folder dir or in a folder
// in it, within two seconds, until ctx ends. Changes that follow each other are
// told once. Where the kernel tells only part of the changes, on network file
// systems and behind links, the folder is looked at every second.
func WatchFolder(ctx context.Context, dir string, changed func()) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || !tellsChanges(int64(st.Type)) || watchEvents(ctx, dir, changed) != nil {
		watchByLooking(ctx, dir, changed)
	}
}

// tellsChanges knows the file systems that nobody else changes.
func tellsChanges(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, 0x2fc12fc1: // the last is ZFS
		return true
	}
	return false
}

// watchEvents is WatchFolder by inotify. It returns nil when ctx has ended, and
// an error when inotify cannot be used, or not any more.
func watchEvents(ctx context.Context, dir string, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := watchAll(fd, dir); err != nil {
		return err
	}
	before := uint64(0) // what changed since the folder was listed is told at once
	buf := make([]byte, 64<<10)
	for {
		now, links := look(dir)
		if now != before {
			before = now
			changed()
		}
		var deadline time.Time
		if links { // nobody tells what becomes of what they lead to
			deadline = time.Now().Add(pollPause)
		}
		if err := f.SetReadDeadline(deadline); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		_, err := f.Read(buf)
		for deadline := time.Now().Add(impatient); err == nil && time.Now().Before(deadline) && ctx.Err() == nil; {
			f.SetReadDeadline(time.Now().Add(quiet))
			_, err = f.Read(buf)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := watchAll(fd, dir); err != nil {
			return err
		}
	}
}

// watchAll watches the folder and the folders in it. The kernel knows those that
// are watched already.
func watchAll(fd int, dir string) error {
	if _, err := unix.InotifyAddWatch(fd, dir, folderEvents|unix.IN_ONLYDIR|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		_, err := unix.InotifyAddWatch(fd, filepath.Join(dir, e.Name()), folderEvents|unix.IN_ONLYDIR)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
			return err // out of watches
		}
	}
	return nil
}

// watchByLooking is WatchFolder by comparing what stat(2) tells.
func watchByLooking(ctx context.Context, dir string, changed func()) {
	tick := time.NewTicker(pollPause)
	defer tick.Stop()
	for before := uint64(0); ; {
		if now, _ := look(dir); now != before {
			before = now
			changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look sums up a folder and the folders in it, links followed, and reports whether
// there are links.
func look(dir string) (sum uint64, links bool) {
	h := fnv.New64a()
	entries, err := os.ReadDir(dir)
	fmt.Fprint(h, err)
	if st, err := os.Lstat(dir); err == nil {
		links = st.Mode()&os.ModeSymlink != 0
	}
	add := func(name string) (isDir bool) {
		var st unix.Stat_t
		if unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			links = true
		}
		if unix.Stat(name, &st) != nil {
			return false
		}
		fmt.Fprintf(h, "%q %x %x %x %x %x\n", name, st.Dev, st.Ino, st.Mode, st.Size, st.Mtim.Nano())
		return st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if !add(at) {
			continue
		}
		add(filepath.Join(at, "commands.txt"))
		for _, suffix := range suffixes {
			add(filepath.Join(at, e.Name()+suffix))
		}
	}
	return h.Sum64(), links
}
