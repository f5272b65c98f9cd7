package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// helperDirs are looked through after PATH, which a daemon may not have.
var helperDirs = []string{"/usr/bin", "/bin", "/usr/local/bin"}

// findHelper returns the path of fusermount3, or of fusermount.
func findHelper() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
		for _, dir := range helperDirs {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%w: fusermount3 is missing, which mounts for users other than root; "+
		"ask the administrator to install the package fuse3", ErrNoFuse)
}

// mountByHelper mounts by fusermount3, which is setuid root. It sends us the
// descriptor over the socket that _FUSE_COMMFD names (SCM_RIGHTS).
func mountByHelper(ctx context.Context, dir string, o MountOptions) (*os.File, error) {
	helper, err := findHelper()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer local.Close()
	defer remote.Close()

	opts := append([]string{"ro", "nosuid", "nodev", "fsname=" + FSName, "subtype=" + FSName}, kernelOptions(o)...)
	cmd := helperCommand(ctx, helper, "-o", strings.Join(opts, ","), "--", dir)
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = append(cmd.Env, "_FUSE_COMMFD=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, helperError(ctx, helper, out, err, o)
	}
	remote.Close() // or a helper that sent nothing would leave us waiting
	fd, err := receiveFD(int(local.Fd()))
	if err != nil {
		_, _ = Unmount(ctx, dir)
		return nil, fmt.Errorf("%s mounted but sent no descriptor: %w", helper, err)
	}
	o.Logger.Debug("fuse: mounted by helper", "path", dir, "helper", helper)
	return os.NewFile(uintptr(fd), devFuse), nil
}

func helperCommand(ctx context.Context, helper string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, helper, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	return cmd
}

// helperError says in plain words why the helper failed.
func helperError(ctx context.Context, helper string, out []byte, err error, o MountOptions) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", helper, context.Cause(ctx))
	}
	said := string(bytes.TrimSpace(out))
	if o.AllowOther && strings.Contains(said, "user_allow_other") {
		return fmt.Errorf("%w with allow_other: ask the administrator to write the line "+
			"user_allow_other into /etc/fuse.conf, or mount for yourself only: %s", ErrNoFuse, said)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%w: run %s: %w", ErrNoFuse, helper, err)
	}
	if st, statErr := os.Stat(helper); statErr == nil && st.Mode()&os.ModeSetuid == 0 && os.Geteuid() != 0 {
		return fmt.Errorf("%w: %s is not setuid root, so it cannot mount (chmod u+s, as root): %s", ErrNoFuse, helper, said)
	}
	return fmt.Errorf("%s: %s (%w)", filepath.Base(helper), said, err)
}

// receiveFD receives one descriptor over a unix socket.
func receiveFD(socket int) (int, error) {
	var data [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		var err error
		n, oobn, _, _, err = unix.Recvmsg(socket, data[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return 0, os.NewSyscallError("recvmsg", err)
		}
	}
	if n == 0 {
		return 0, errors.New("it closed the socket")
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, err
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return 0, errors.New("its message held no descriptor")
}
