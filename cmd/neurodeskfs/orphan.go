package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// A worker that has lost its supervisor listens in the cache directory for the
// next one, which mount or upgrade starts. At other times there is no such socket.
const attachName = "attach.sock"

// awaitSupervisors hands the mount to another supervisor whenever there is none,
// until ctx ends. A job, of which none may be left, ends instead.
func (d *daemon) awaitSupervisors(ctx context.Context, duty *session.Duty, c config.Cache) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-duty.Alone():
		}
		if c.Joint {
			d.log.Error("the supervisor is gone, and with it the job's tree", "err", unix.Kill(unix.Getpid(), unix.SIGKILL))
			return
		}
		d.log.Warn("the supervisor is gone; serving goes on, and neurodeskfs upgrade starts another", "mountpoint", d.mountpoint)
		if err := d.takeSupervisor(ctx, duty, c.Dir); err != nil {
			if ctx.Err() == nil {
				d.log.Error("no other supervisor can be had", "err", err)
			}
			return
		}
		d.log.Info("another supervisor is there", "mountpoint", d.mountpoint)
	}
}

// takeSupervisor waits for one.
func (d *daemon) takeSupervisor(ctx context.Context, duty *session.Duty, cacheDir string) error {
	path, dir, err := socketIn(cacheDir, attachName)
	if err != nil {
		return err
	}
	defer dir.Close()
	l, err := listenAlone("unixpacket", path)
	if err != nil {
		return err
	}
	defer l.Close() // which removes it
	defer context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		fd, err := descriptorOf(c)
		if err == nil {
			err = duty.Attach(fd)
		}
		if err == nil {
			return nil
		}
		d.log.Warn("a supervisor was refused", "err", err)
	}
}

// descriptorOf takes the descriptor out of a connection.
func descriptorOf(c *net.UnixConn) (fd int, err error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(controlErr, os.NewSyscallError("fcntl", err))
}

// attachPatience is how long a worker may take to notice that it is alone.
const attachPatience = 10 * time.Second

// attach takes over the worker that waits in the cache directory. It is asked
// again for as long as the worker pid lives; 0: once.
func attach(ctx context.Context, cacheDir string, pid int) (*session.Estate, error) {
	path, dir, err := socketIn(cacheDir, attachName)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for until := time.Now().Add(attachPatience); ; {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err == nil {
			fd, err := descriptorOf(c)
			if err != nil {
				return nil, err
			}
			return session.Adopt(fd)
		}
		absent := errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
		if !absent || time.Now().After(until) || pid == 0 || awaitEnd(pid, 0) {
			return nil, fmt.Errorf("no worker waits for a supervisor in %s: %w", cacheDir, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
