package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/session"
)

// TestOnlyAnOrderOfOnesOwnIsBelieved: a worker of root's that was taken over may hand
// the next supervisor what it likes, but not what root then gives away or runs.
func TestOnlyAnOrderOfOnesOwnIsBelieved(t *testing.T) {
	text, err := json.Marshal(order{Mountpoint: "/nd", As: "nobody", Config: &config.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(seals int) func() (*os.File, error) {
		return func() (*os.File, error) {
			f, err := newMemoryFile("order", unix.MFD_ALLOW_SEALING)
			if err != nil {
				return nil, err
			}
			_, err = f.Write(text)
			_, sealErr := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
			return f, errors.Join(err, sealErr)
		}
	}
	own := func() (*os.File, error) { return sealedFile("order", text) }
	for name, c := range map[string]struct {
		make func() (*os.File, error)
		good bool
	}{
		"its own":           {own, true},
		"not sealed":        {sealed(0), false},
		"may be written to": {sealed(allSeals &^ unix.F_SEAL_WRITE), false},
		"may grow":          {sealed(allSeals &^ unix.F_SEAL_GROW), false},
		"may be cut":        {sealed(allSeals &^ unix.F_SEAL_SHRINK), false},
		"a file on the disk": {func() (*os.File, error) {
			file := filepath.Join(t.TempDir(), "order")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				return nil, err
			}
			return os.Open(file)
		}, false},
		"another user's": {func() (*os.File, error) {
			f, err := own()
			if err != nil || os.Geteuid() != 0 { // who is not root cannot make one
				return sealed(0)()
			}
			return f, f.Chown(65534, 65534)
		}, false},
	} {
		f, err := c.make()
		if err != nil {
			t.Fatal(name, err)
		}
		o, err := ownOrder(f)
		if (err == nil) != c.good || c.good && (o.Mountpoint != "/nd" || o.As != "nobody") {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
		f.Close()
	}
	if _, err := ownOrder(nil); !errors.Is(err, session.ErrIncompatible) {
		t.Errorf("none at all: %v", err)
	}
}
