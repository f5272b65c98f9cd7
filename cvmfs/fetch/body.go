package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// watch ends an attempt that waits too long for the network. It counts only
// while armed.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration

	mu    sync.Mutex // guards all below
	timer *time.Timer
	turn  uint64 // grows with each arm and disarm; a timer of an older turn is void
}

func newWatch(ctx context.Context, limit time.Duration) *watch {
	w := &watch{limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w
}

// arm starts the time-out anew; cause is what the attempt then fails with.
func (w *watch) arm(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop()
	turn := w.turn
	w.timer = time.AfterFunc(w.limit, func() {
		w.mu.Lock()
		due := turn == w.turn
		w.mu.Unlock()
		if due {
			w.cancel(cause)
		}
	})
}

func (w *watch) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop()
}

// stop voids the running timer. mu is held.
func (w *watch) stop() {
	w.turn++
	if w.timer != nil {
		w.timer.Stop()
	}
}

// end gives back what the watch holds.
func (w *watch) end() {
	w.disarm()
	w.cancel(context.Canceled)
}

// explain returns what the watch ended the attempt for, else err. A dialer has
// the same time-out, and may be the first.
func (w *watch) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" && op.Timeout() {
		return errConnect
	}
	return err
}

// body hands an answer's bytes to Accept. It bounds them, sees that they keep
// coming, and remembers how reading ended, since what a decompressor makes of
// that is anyone's guess. Not safe for concurrent use.
type body struct {
	rc       io.ReadCloser
	w        *watch
	count    func(n int)
	minSpeed int64  // bytes/s
	want     int64  // exact length, -1: not known
	limit    int64  // greatest length, -1: none
	closed   func() // gives back the slot
	header   http.Header

	n      int64
	err    error         // of the last Read; io.EOF: complete
	head   []byte        // the first bytes, to know a web page by
	waited time.Duration // in the current stretch
	got    int64
}

// Size is the length in bytes that the server announced, -1 if it did not.
func (b *body) Size() int64 { return b.want }

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	start := time.Now()
	b.w.arm(errStalled)
	n, err := b.rc.Read(p)
	b.w.disarm()
	b.count(n)
	if room := headSize - len(b.head); room > 0 {
		b.head = append(b.head, p[:min(n, room)]...)
	}
	b.n += int64(n)
	switch {
	case b.limit >= 0 && b.n > b.limit:
		n -= int(b.n - b.limit)
		err = errTooLong
	case err == io.EOF && b.want >= 0 && b.n < b.want, err == io.ErrUnexpectedEOF:
		err = errTooShort
	case err != nil && err != io.EOF:
		err = b.w.explain(err)
	case err == nil:
		err = b.speed(n, time.Since(start))
	}
	b.err = err
	return n, err
}

// speed takes account of one read. A stretch is one time-out of waiting.
func (b *body) speed(n int, waited time.Duration) error {
	b.waited += waited
	b.got += int64(n)
	if b.waited < b.w.limit {
		return nil
	}
	if float64(b.got) < float64(b.minSpeed)*b.waited.Seconds() {
		return errSlow
	}
	b.waited, b.got = 0, 0
	return nil
}

// Close may be called more than once.
func (b *body) Close() error {
	err := b.rc.Close()
	b.w.end()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	if b.closed != nil {
		b.closed()
		b.closed = nil
	}
	return err
}

// finish reads the end of a body of which every byte was read, so that the
// connection can be used again.
func (b *body) finish(length int64) {
	if b.err == nil && length >= 0 && b.n == length {
		_, _ = b.Read(make([]byte, 1))
	}
}

// headSize is how many bytes are kept to tell a web page by.
const headSize = 512

// webPage reports whether the body looks like HTML, as a captive portal sends it.
// The type alone does not tell: some servers give it to every name they don't know.
func (b *body) webPage() bool {
	head := bytes.TrimSpace(b.head)
	if len(head) > 0 && head[0] != '<' {
		return false
	}
	return strings.HasPrefix(strings.ToLower(b.header.Get("Content-Type")), "text/html") ||
		strings.HasPrefix(http.DetectContentType(head), "text/html")
}
