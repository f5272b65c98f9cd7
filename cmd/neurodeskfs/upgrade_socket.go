package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// The supervisor's socket lies in the cache directory, beside the worker's. It
// takes one message, the new version as a JSON text with the opened program as a
// descriptor, and gives one answer, a line of JSON. It serves only the mount's
// owner and root, by the peer's credentials: what they hand over runs as the
// owner.
const upgradeName = "upgrade.sock"

const (
	// maxUpgradeMessage bounds a request and an answer, bytes.
	maxUpgradeMessage = 64 << 10
	// upgradePatience is how long a new version may take until it serves.
	upgradePatience = time.Minute
)

// upgradeAnswer is what became of an upgrade. With an Error, nothing has changed.
type upgradeAnswer struct {
	Error        string `json:"error,omitempty"`
	Incompatible bool   `json:"incompatible,omitempty"` // this version never can
}

// upgrades takes requests until it is closed.
type upgrades struct {
	swap     func(context.Context, *os.File) error // session.Supervisor.Upgrade
	leave    func()                                // session.Supervisor.Leave
	log      *slog.Logger
	listener *net.UnixListener
	dir      *os.File
	path     string
	own      os.FileInfo // of the socket
	wait     sync.WaitGroup
	stop     context.CancelFunc

	one     sync.Mutex              // held by the one upgrade
	program atomic.Pointer[os.File] // what workers run since the last upgrade; nil: there was none
}

// startUpgrades listens in the cache directory, whose lock a worker of ours holds.
func startUpgrades(cacheDir string, swap func(context.Context, *os.File) error, leave func(), log *slog.Logger) (*upgrades, error) {
	path, dir, err := socketIn(cacheDir, upgradeName)
	if err != nil {
		return nil, fmt.Errorf("upgrade socket: %w", err)
	}
	u := &upgrades{swap: swap, leave: leave, log: log, dir: dir, path: path}
	if u.listener, err = listenAlone("unix", path); err == nil {
		u.listener.SetUnlinkOnClose(false)
		u.own, err = os.Lstat(path)
	}
	if err != nil {
		if u.listener != nil {
			u.listener.Close()
		}
		dir.Close()
		return nil, fmt.Errorf("upgrade socket: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	u.stop = stop
	u.wait.Go(func() {
		for {
			conn, err := u.listener.AcceptUnix()
			if err != nil {
				return
			}
			u.wait.Go(func() { u.answer(ctx, conn) })
		}
	})
	return u, nil
}

// close ends requests, once the supervisor has ended. The cache is free then,
// and the socket may be another daemon's already.
func (u *upgrades) close() {
	u.stop()
	u.listener.Close()
	u.wait.Wait()
	if now, err := os.Lstat(u.path); err == nil && os.SameFile(now, u.own) {
		_ = os.Remove(u.path)
	}
	u.dir.Close()
	if program := u.program.Load(); program != nil {
		program.Close()
	}
}

// answer serves one connection.
func (u *upgrades) answer(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	var a upgradeAnswer
	if err := u.attend(ctx, conn); err != nil {
		a.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
		a.Incompatible = errors.Is(err, session.ErrIncompatible)
		u.log.Warn("no upgrade", "err", err)
	}
	conn.SetWriteDeadline(time.Now().Add(controlPatience))
	if err := json.NewEncoder(conn).Encode(a); err != nil && ctx.Err() == nil {
		u.log.Warn("the answer to an upgrade was not taken", "err", err)
	}
	if a.Error == "" {
		u.leave() // this process goes on with the new program
	}
}

// attend carries out a request for as long as its peer is there.
func (u *upgrades) attend(ctx context.Context, conn *net.UnixConn) error {
	if err := checkPeer(conn); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(controlPatience))
	newVersion, program, err := receiveProgram(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, upgradePatience, fmt.Errorf("version %s did not serve within %s", newVersion, upgradePatience))
	defer cancel()
	ctx, hangUp := whileConnected(ctx, conn)
	defer hangUp()
	u.one.Lock()
	defer u.one.Unlock()
	if err := u.swap(ctx, program); err != nil {
		program.Close()
		return err
	}
	if old := u.program.Swap(program); old != nil {
		old.Close()
	}
	u.log.Info("upgraded", "version", newVersion)
	return nil
}

// receiveProgram reads a request: a version and one regular file.
func receiveProgram(conn *net.UnixConn) (newVersion string, program *os.File, err error) {
	text := make([]byte, maxUpgradeMessage)
	rights := make([]byte, unix.CmsgSpace(4*4)) // some more than one descriptor, so that all are closed
	n, m, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return "", nil, fmt.Errorf("the request did not come: %w", err)
	}
	files := receivedFiles(rights[:m])
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	if err := json.Unmarshal(text[:n], &newVersion); err != nil {
		return "", nil, fmt.Errorf("the request is not understood: %w", err)
	}
	if len(files) != 1 {
		return "", nil, fmt.Errorf("the request has %d programs with it, not one", len(files))
	}
	info, err := files[0].Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("the program is not a regular file")
	}
	return newVersion, files[0], err
}

// receivedFiles are the descriptors of a message; Go has marked them close-on-exec.
func receivedFiles(rights []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // not of that kind
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "program"))
		}
	}
	return files
}
