package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// FSName is the source that /proc/self/mountinfo shows for our mounts, FSType
// their type.
const (
	FSName = "neurodeskfs"
	FSType = "fuse." + FSName
)

const devFuse = "/dev/fuse"

var (
	// ErrDeadMount is returned by Mount when the mount point holds a mount whose
	// daemon is gone ("transport endpoint is not connected"). Unmount clears it.
	ErrDeadMount = errors.New("the mount's daemon is gone")
	// ErrMounted is returned by Mount when a live mount of ours is there.
	ErrMounted = errors.New("neurodeskfs is mounted there already")
	// ErrNotMounted is returned by Unmount when no mount of ours is there.
	ErrNotMounted = errors.New("no neurodeskfs is mounted there")
	// ErrNoFuse is returned by Mount when this machine or this user cannot use
	// FUSE; the message says what to install or to ask for.
	ErrNoFuse = errors.New("FUSE cannot be used here")
)

// MountOptions say what to mount where.
type MountOptions struct {
	// Mountpoint is an existing directory. Links are followed.
	Mountpoint string
	// AllowOther lets other users see the mount. An ordinary user may ask for
	// it only where /etc/fuse.conf says user_allow_other.
	AllowOther bool
	// DefaultPermissions makes the kernel check modes and owners.
	DefaultPermissions bool
	// MaxRead is the size in bytes of the largest READ, 4096 to the constant
	// MaxRead, which is also the default (0).
	MaxRead int
	// Logger is told which way the mount was made. Default: discard.
	Logger *slog.Logger
}

// Mount mounts read-only, nosuid, nodev, and returns the descriptor of the new
// connection (close-on-exec, blocking), for New. With CAP_SYS_ADMIN, also that
// of a private user namespace, it calls mount(2), otherwise fusermount3. The
// kernel has then sent INIT; until Serve answers, whoever looks into the mount
// waits.
//
// Errors: ErrDeadMount, ErrMounted, ErrNoFuse, fs.ErrNotExist and ENOTDIR for
// the mount point, or what the system said. ctx ends a fusermount3 that hangs.
func Mount(ctx context.Context, o MountOptions) (*os.File, error) {
	f, err := mountAt(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Mountpoint, err)
	}
	return f, nil
}

func mountAt(ctx context.Context, o MountOptions) (*os.File, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxRead == 0 {
		o.MaxRead = MaxRead
	}
	if o.MaxRead < 4096 || o.MaxRead > MaxRead {
		return nil, fmt.Errorf("max_read of %d bytes is not in 4096..%d", o.MaxRead, MaxRead)
	}
	dir, err := Resolve(o.Mountpoint)
	if err != nil {
		return nil, err
	}
	if err := checkMountpoint(dir); err != nil {
		return nil, err
	}
	if err := checkDevice(); err != nil {
		return nil, err
	}
	if !mayMount() {
		return mountByHelper(ctx, dir, o)
	}
	f, err := mountDirect(dir, o)
	if errors.Is(err, unix.EPERM) {
		// CAP_SYS_ADMIN, but not over this mount namespace.
		o.Logger.Debug("fuse: mount(2) was refused, trying fusermount3", "path", dir, "err", err)
		f, helperErr := mountByHelper(ctx, dir, o)
		if helperErr != nil {
			return nil, fmt.Errorf("mount(2): %w; %w", err, helperErr)
		}
		return f, nil
	}
	return f, err
}

// DaemonIsGone tells of an error of a call on a mount that nobody serves it any
// more: ENOTCONN; ECONNABORTED for who asked while the last one ended
// (fs/fuse/dev.c, fuse_abort_conn).
func DaemonIsGone(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// checkMountpoint refuses what cannot be mounted upon.
func checkMountpoint(dir string) error {
	mounts, err := FindMounts()
	if err != nil {
		return err
	}
	ours := top(mounts, dir) != nil
	var st unix.Stat_t
	var stfs unix.Statfs_t
	err = unix.Stat(dir, &st)
	if err == nil && ours {
		// The kernel may know the attributes of a dead mount's root by heart;
		// statfs is always asked of the daemon.
		err = unix.Statfs(dir, &stfs)
	}
	switch {
	case ours && DaemonIsGone(err):
		return fmt.Errorf("%w; unmount it first (neurodeskfs umount %s)", ErrDeadMount, dir)
	case ours:
		return fmt.Errorf("%w; unmount it first (neurodeskfs umount %s)", ErrMounted, dir)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the mount point does not exist; create the directory first: %w", err)
	case err != nil:
		return fmt.Errorf("look at the mount point: %w", err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("the mount point must be a directory: %w", unix.ENOTDIR)
	}
	return nil
}

// checkDevice tells in plain words why /dev/fuse could not be used.
func checkDevice() error {
	fd, err := unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return deviceError(err)
	}
	return unix.Close(fd)
}

func deviceError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: there is no %s; ask the administrator to load the module (modprobe fuse), "+
			"or start this container with --device %s (%w)", ErrNoFuse, devFuse, devFuse, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s may not be opened; ask the administrator for read and write access to it "+
			"(chmod 666 %s, or allow the device in this container) (%w)", ErrNoFuse, devFuse, devFuse, err)
	}
	return fmt.Errorf("open %s: %w", devFuse, err)
}

// mayMount says whether this process has CAP_SYS_ADMIN in its user namespace.
func mayMount() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// mountDirect mounts by mount(2). The options are those that
// Documentation/filesystems/fuse.rst of the kernel lists.
func mountDirect(dir string, o MountOptions) (*os.File, error) {
	fd, err := unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, deviceError(err)
	}
	data := append([]string{
		fmt.Sprintf("fd=%d", fd),
		"rootmode=40000",
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()),
	}, kernelOptions(o)...)
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(FSName, dir, FSType, flags, strings.Join(data, ",")); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.ENODEV) {
			return nil, deviceError(err)
		}
		return nil, os.NewSyscallError("mount", err)
	}
	o.Logger.Debug("fuse: mounted by mount(2)", "path", dir)
	return os.NewFile(uintptr(fd), devFuse), nil
}

// kernelOptions are those that both ways of mounting take.
func kernelOptions(o MountOptions) []string {
	opts := []string{fmt.Sprintf("max_read=%d", o.MaxRead)}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	if o.DefaultPermissions {
		opts = append(opts, "default_permissions")
	}
	return opts
}
