package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/trace"
)

// The control socket lies in the cache directory. It carries one request and
// then lines of progress, if any, and one answer, a line of JSON each. It serves
// only the daemon's owner and root, by the peer's credentials. A request ends
// when its peer hangs up.
const controlName = "control.sock"

// controlPatience is how long a peer may take to send its request, or to take a
// line of the answer.
const controlPatience = 10 * time.Second

// maxRequest bounds a request, bytes: a file of traces is the longest.
const maxRequest = trace.MaxFile + 64<<10

type controlRequest struct {
	Do     string `json:"do"`
	Target int64  `json:"target,omitempty"` // prune: bytes to come down to
	All    bool   `json:"all,omitempty"`    // clear: pinned objects too
	Key    string `json:"key,omitempty"`    // pin, unpin: which object
	// Apps are what prefetch is about: APP[/VERSION].
	Apps []string `json:"apps,omitempty"`
	// Locked are those of Apps that a lock file names.
	Locked []launch.Locked `json:"locked,omitempty"`
	// Trace says what the trace commands are about.
	Trace *traceRequest `json:"trace,omitempty"`
}

// step is how far a request is. Bytes are of content.
type step struct {
	What             string `json:",omitempty"` // prefetch: which image
	Checked, Objects int
	Bytes            int64
	OfBytes, Here    int64 `json:",omitempty"` // prefetch: in all; those that were there already
}

// controlAnswer is a line from the daemon. One with Progress is followed by others.
type controlAnswer struct {
	Progress *step           `json:"progress,omitempty"`
	Text     string          `json:"text,omitempty"`  // for people
	Error    string          `json:"error,omitempty"` // what went wrong
	Data     json.RawMessage `json:"data,omitempty"`  // for the command
}

// control answers requests until it is closed.
type control struct {
	listener *net.UnixListener
	dir      *os.File
	wait     sync.WaitGroup
	stop     context.CancelFunc
}

// socketIn returns a path for the socket name in dir that is short enough for
// sockaddr_un, however long dir is; the file stays open as long as the path is used.
func socketIn(dir, name string) (path string, f *os.File, err error) {
	f, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name), f, nil
}

// listenAlone listens at path, in place of what a killed daemon left there; the
// cache's lock says that it is gone. The socket has its mode before it has its
// name, which in a directory of another user's may mean something else at once.
func listenAlone(network, path string) (*net.UnixListener, error) {
	_ = os.Remove(path)
	mode := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := mode.Listen(context.Background(), network, path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

func (d *daemon) startControl(dir string) (*control, error) {
	path, f, err := socketIn(dir, controlName)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := listenAlone("unix", path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &control{listener: l, dir: f, stop: stop}
	c.wait.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c.wait.Go(func() { d.answer(ctx, conn) })
		}
	})
	return c, nil
}

func (c *control) close() {
	c.stop()
	c.listener.Close()
	c.wait.Wait()
	c.dir.Close()
}

// answer serves one connection.
func (d *daemon) answer(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(controlPatience))
	var a controlAnswer
	if err := checkPeer(conn); err != nil {
		a.Error = err.Error()
	} else {
		var r controlRequest
		err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&r)
		if err == nil {
			a, err = d.attend(ctx, conn, r)
		}
		if err != nil {
			a.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
	}
	if err := sendLine(conn, a); err != nil && ctx.Err() == nil {
		d.log.Warn("a control answer was not taken", "err", err)
	}
}

// attend carries out a request for as long as its peer is there.
func (d *daemon) attend(ctx context.Context, conn *net.UnixConn, r controlRequest) (controlAnswer, error) {
	ctx, hangUp := whileConnected(ctx, conn)
	defer hangUp()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return d.do(ctx, r, func(p step) {
		if sendLine(conn, controlAnswer{Progress: &p}) != nil {
			stop()
		}
	})
}

// whileConnected returns a context that ends when the peer hangs up, or with the
// function, which must be called once.
func whileConnected(ctx context.Context, conn *net.UnixConn) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	conn.SetReadDeadline(time.Time{})
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		io.Copy(io.Discard, conn) // ends when the peer hangs up, or below
		cancel()
	}()
	return ctx, func() {
		cancel()
		conn.SetReadDeadline(time.Unix(1, 0))
		<-listening
	}
}

func sendLine(conn *net.UnixConn, a controlAnswer) error {
	conn.SetWriteDeadline(time.Now().Add(controlPatience))
	return json.NewEncoder(conn).Encode(a)
}

// checkPeer refuses everybody but the daemon's owner and root.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return errors.New("only the owner of the mount and root may do that")
	}
	return nil
}

// idle closes what is only kept open for the next reader.
func (d *daemon) idle() {
	for _, s := range d.sources {
		if s.repo != nil {
			s.repo.Idle()
		}
	}
}

// do carries out one request.
func (d *daemon) do(ctx context.Context, r controlRequest, progress func(step)) (controlAnswer, error) {
	switch {
	case r.Do == "reload":
		text, err := d.reload(ctx)
		return controlAnswer{Text: text}, err
	case r.Do == "prefetch":
		report, err := d.prefetch(ctx, wanted{r.Apps, r.Locked}, progress)
		return answerOr(report, err)
	case strings.HasPrefix(r.Do, "trace ") && r.Trace != nil:
		return d.traceOperation(ctx, r, progress)
	case r.Do == "cache verify":
		defer d.traces.Forget() // it may have removed what they name
		return d.verifyCache(ctx, progress)
	case r.Do == "cache prune", r.Do == "cache clear":
		d.idle() // what nobody reads now is not in use
	}
	if operation, ok := cacheOperations[r.Do]; ok {
		defer d.traces.Forget() // it may have removed what they name
		return operation(ctx, d.disk, r, progress)
	}
	return controlAnswer{}, fmt.Errorf("the daemon (version %s) does not know the request %q", version, r.Do)
}
