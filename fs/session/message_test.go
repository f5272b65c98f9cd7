package session

import (
	"errors"
	"io"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// channelPair are the two ends of a socket between supervisor and worker; raw is
// the first one's descriptor.
func channelPair(t testing.TB) (raw int, other *channel) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if other, err = newChannel(pair[1]); err != nil {
		t.Fatal(err)
	}
	return pair[0], other
}

// TestMessages: what is sent arrives, files and all, and then the end.
func TestMessages(t *testing.T) {
	fd, b := channelPair(t)
	a, err := newChannel(fd)
	if err != nil {
		t.Fatal(err)
	}
	f, err := memoryFile("x", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sent := message{Files: []string{"one", "two"}, Init: &Init{Request: []byte{1, 2}, Reply: []byte{3}}, Suspects: []uint64{1 << 62}}
	if err := a.send(sent, f, f); err != nil {
		t.Fatal(err)
	}
	a.close()
	got, files, err := b.receive()
	if err != nil || !reflect.DeepEqual(got, sent) || len(files) != 2 {
		t.Errorf("%+v, %d files, %v", got, len(files), err)
	}
	closeAll(files)
	if _, _, err := b.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	b.close()
}

// FuzzMessage: whatever the other side sends, it is a message or an error, and no
// descriptor stays open.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"files":["device"],"init":{"Request":"AQ==","Reply":""}}`), uint8(1))
	f.Add([]byte(`{"failure":{"status":1,"reason":"x"}}`), uint8(0))
	f.Add([]byte(`{"suspects":[1,18446744073709551615]}`), uint8(maxFiles))
	f.Add([]byte("{"), uint8(maxFiles+1))
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	defer null.Close()
	f.Fuzz(func(t *testing.T, text []byte, n uint8) {
		raw, c := channelPair(t)
		defer c.close()
		defer unix.Close(raw)
		n %= 2 * maxFiles
		var rights []byte
		if n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = int(null.Fd())
			}
			rights = unix.UnixRights(fds...)
		}
		if len(text) == 0 || len(text) > 2*maxMessage || unix.Sendmsg(raw, text, rights, nil, unix.MSG_DONTWAIT) != nil {
			return // nothing was sent
		}
		m, files, err := c.receive()
		if err != nil && len(files) > 0 || err == nil && len(files) != int(n) {
			t.Errorf("%d files of %d, %v", len(files), n, err)
		}
		if err == nil {
			// What it says to an estate or a duty is no reason to fall over.
			if e, err := Inherit(named(m.Files, files)); err == nil {
				t.Errorf("an estate of %q: %+v", m.Files, e)
			}
		}
		closeAll(files)
	})
}
