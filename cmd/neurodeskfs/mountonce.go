package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

const (
	// turnPatience is how long mount waits for another one that is mounting at
	// the same place. It is more than a mount takes that finds no server.
	turnPatience = 2 * openTimeout
	// turnEvery is how often it looks. A waiter is ready as soon as the tree is.
	turnEvery = 50 * time.Millisecond
)

// errSilent is a mount of ours that does not say what it shows.
var errSilent = fmt.Errorf("%w, but does not answer: see neurodeskfs umount --help", session.ErrMounted)

// outdated is a mount of what is wanted, by another version.
type outdated struct{ Status }

func (o outdated) Error() string {
	return fmt.Sprintf("%v, in version %s: neurodeskfs upgrade %s makes it %s while it is in use", session.ErrMounted, o.Version, o.Mountpoint, version)
}

func (o outdated) Unwrap() error { return session.ErrMounted }

// once mounts unless the tree that is wanted is there already: the tasks of a
// job array may all begin with mount. One at a time has the lock on the mount
// point's directory; the others wait for what it mounts. Where the file system
// has no such lock (NFS), all try, and who comes second waits as well. A tree
// that another version serves is upgraded to this one.
func (f *mountFlags) once(ctx context.Context, cfg *config.Config, mountpoint string) error {
	dir, err := os.Open(mountpoint)
	if err == nil {
		defer dir.Close()
	}
	locked := func() error {
		if err != nil {
			return err // a dead mount
		}
		return unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	tried := false
	for over := time.Now().Add(turnPatience); ; <-tick.C {
		turn := locked()
		there, err := f.there(cfg, mountpoint)
		patient := time.Now().Before(over)
		var alone orphaned
		var old outdated
		switch {
		case errors.As(err, &old) && errors.Is(turn, unix.EWOULDBLOCK) && patient:
			continue // another mount upgrades it
		case errors.As(err, &old):
			return upgrade(ctx, mountpoint, os.Stdout)
		case errors.As(err, &alone) && errors.Is(turn, unix.EWOULDBLOCK) && patient:
			continue // another mount starts its supervisor
		case errors.As(err, &alone):
			return f.follow(ctx, alone.Status, cfg)
		case errors.Is(err, errSilent) && patient:
			continue
		case there || err != nil:
			return err
		case errors.Is(turn, unix.EWOULDBLOCK) && patient, tried && patient:
			continue
		}
		err = f.spawn(cfg, mountpoint)
		if err == nil || turn == nil || tried || exitStatus(err) != exitBusy {
			return err
		}
		tried = true
	}
}

// there tells whether the tree that is wanted is mounted at dir. Another one of
// ours is an error, which the daemon would find as well, but only after its
// cache, which then is named as the reason.
func (f *mountFlags) there(cfg *config.Config, dir string) (bool, error) {
	mounts, err := session.FindMounts()
	if err != nil {
		return false, err
	}
	dir = resolve(dir)
	at := slices.IndexFunc(mounts, func(m session.MountInfo) bool { return m.Mountpoint == dir })
	if at < 0 {
		return false, nil
	}
	// The kernel may know a dead mount's root by heart; statfs asks the daemon.
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false, nil // the daemon clears a dead one away
	}
	differs, room := "", fmt.Sprintf("use it, or neurodeskfs umount %s first", dir)
	switch s := statusOf(dir); {
	case s.Version == "":
		return false, errSilent
	case s.supervisorGone():
		return false, orphaned{s}
	case s.Job && s.Config == cfg.Digest() && s.Cache.Dir == cfg.Cache.Dir:
		return true, nil // in whatever version, and nobody else sees it
	case s.Job:
		differs, room = "a job's configuration or cache", "use it, which ends with the job (neurodeskfs run), or mount elsewhere"
	case s.Version != version && s.Config != cfg.Digest():
		// Versions may see one configuration in two ways.
		return false, fmt.Errorf("%w, in version %s and perhaps with another configuration: neurodeskfs upgrade %s makes it %s and keeps that, neurodeskfs umount %s makes room",
			session.ErrMounted, s.Version, dir, version, dir)
	case s.Config != cfg.Digest():
		differs = "another configuration"
	case s.Cache.Dir != cfg.Cache.Dir:
		differs = "the cache " + s.Cache.Dir
	case f.allowOther && !slices.Contains(mounts[at].Options, "allow_other"):
		differs = "no --allow-other"
	case s.Version != version:
		return false, outdated{s}
	default:
		return true, nil
	}
	return false, fmt.Errorf("%w, with %s: %s", session.ErrMounted, differs, room)
}
