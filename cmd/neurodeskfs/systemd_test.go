package main

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// serviceManager is the socket of one, as NOTIFY_SOCKET names it.
func serviceManager(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	return c
}

// told reads one message and the files with it.
func told(t *testing.T, c *net.UnixConn) (text string, files []*os.File) {
	t.Helper()
	b, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	n, m, _, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		t.Fatal(err)
	}
	files = receivedFiles(rights[:m])
	t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	return string(b[:n]), files
}

// TestNotify: what a service manager is told, at a path and at an abstract address,
// and that workers do not see it.
func TestNotify(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "notify"), "@" + filepath.Join(t.TempDir(), "notify")} {
		manager := serviceManager(t, address)
		n := findNotifier()
		if os.Getenv("NOTIFY_SOCKET") != "" || strings.Join(n.env(), " ") != "NOTIFY_SOCKET="+address {
			t.Errorf("%s: %q stays, %q goes on", address, os.Getenv("NOTIFY_SOCKET"), n.env())
		}
		if err := n.say("READY=1"); err != nil {
			t.Fatal(err)
		}
		if text, files := told(t, manager); text != "READY=1" || len(files) > 0 {
			t.Errorf("%q, %d files", text, len(files))
		}
		f, err := memoryFile("kept")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("content"); err != nil {
			t.Fatal(err)
		}
		kept := map[string]*os.File{"ledger": f}
		if err := n.keep(kept); err != nil {
			t.Fatal(err)
		}
		if text, _ := told(t, manager); text != "FDSTOREREMOVE=1\nFDNAME=ledger" {
			t.Errorf("%q: the one of a mount before would be kept as well", text)
		}
		text, files := told(t, manager)
		if text != "FDSTORE=1\nFDNAME=ledger" || len(files) != 1 {
			t.Fatalf("%q, %d files", text, len(files))
		}
		b := make([]byte, 7)
		if _, err := files[0].ReadAt(b, 0); err != nil || string(b) != "content" {
			t.Errorf("%q, %v", b, err)
		}
		if err := n.drop(kept); err != nil {
			t.Fatal(err)
		}
		if text, _ := told(t, manager); text != "FDSTOREREMOVE=1\nFDNAME=ledger" {
			t.Errorf("%q", text)
		}
	}
	if err := findNotifier().say("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}

func TestNamedDescriptors(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want map[string]int
	}{
		{nil, map[string]int{}},
		{map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "device:board"}, map[string]int{"device": 3, "board": 4}},
		{map[string]string{"LISTEN_PID": "8", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "device"}, map[string]int{}},
		{map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "device"}, map[string]int{"device": 3}},
		{map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "-1", "LISTEN_FDNAMES": "device"}, map[string]int{}},
		{map[string]string{keptVariable: "device=12,board=9,odd=x,stdin=0"}, map[string]int{"device": 12, "board": 9}},
	} {
		if got := namedDescriptors(c.env, 7); !maps.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.env, got, c.want)
		}
	}
}

// TestInherited: what handOn names is what inherited takes, and no program after
// sees the variable.
func TestInherited(t *testing.T) {
	f, err := memoryFile("kept")
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]*os.File{"ledger": f}
	variable, err := handOn(kept)
	if err != nil {
		t.Fatal(err)
	}
	flags := func() int {
		n, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if flags() != 0 {
		t.Error("it would be closed")
	}
	keepBack(kept)
	if flags() != unix.FD_CLOEXEC {
		t.Error("it would be kept for every program")
	}
	defer f.Close()
	if want := fmt.Sprintf("%s=ledger=%d", keptVariable, f.Fd()); variable != want {
		t.Errorf("%q, want %q", variable, want)
	}
	other, err := unix.Dup(int(f.Fd())) // which becomes a file of its own
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(keptVariable, fmt.Sprintf("ledger=%d", other))
	files, err := inherited()
	if err != nil || len(files) != 1 || int(files["ledger"].Fd()) != other || os.Getenv(keptVariable) != "" {
		t.Fatalf("%v, %v, %q", files, err, os.Getenv(keptVariable))
	}
	defer files["ledger"].Close()
	if n, err := unix.FcntlInt(uintptr(other), unix.F_GETFD, 0); err != nil || n != unix.FD_CLOEXEC {
		t.Errorf("every program would get it: %d, %v", n, err)
	}
}
