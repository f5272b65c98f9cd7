package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// upgraded is a socket for upgrades in dir, whose supervisor swap is.
func upgraded(t *testing.T, dir string, swap func(context.Context, *os.File) error) *upgrades {
	t.Helper()
	u, err := startUpgrades(dir, swap, func() {}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// thisProgram is what is handed over.
func thisProgram(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestUpgradeAnswers(t *testing.T) {
	program := thisProgram(t)
	want, err := program.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		result error
		answer upgradeAnswer
	}{
		"it serves": {nil, upgradeAnswer{}},
		"it cannot": {fmt.Errorf("a test: %w", session.ErrIncompatible), upgradeAnswer{Error: "a test: " + session.ErrIncompatible.Error(), Incompatible: true}},
		"it fell":   {errors.New("it\nfell"), upgradeAnswer{Error: "it; fell"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var handed *os.File
			u := upgraded(t, dir, func(_ context.Context, f *os.File) error {
				handed = f
				if got, err := f.Stat(); err != nil || !os.SameFile(got, want) {
					t.Errorf("another program came: %v, %v", got, err)
				}
				return c.result
			})
			for range 2 {
				if a, err := askUpgrade(t.Context(), dir, program); a != c.answer || err != nil {
					t.Errorf("%+v, %v", a, err)
				}
			}
			if _, err := handed.Stat(); (err == nil) != (c.result == nil) {
				t.Errorf("the program is kept open for workers to come: %v", err)
			}
			u.close()
			if _, err := handed.Stat(); err == nil {
				t.Error("the program is still open")
			}
			if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestUpgradeRequestsThatAreNone: no message may reach the supervisor that has
// not one regular file with it.
func TestUpgradeRequestsThatAreNone(t *testing.T) {
	program := thisProgram(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	dir := t.TempDir()
	u := upgraded(t, dir, func(context.Context, *os.File) error {
		t.Error("it was asked for")
		return nil
	})
	defer u.close()
	one := int(program.Fd())
	for name, c := range map[string]struct {
		text   string
		rights []byte
		want   string
	}{
		"no program":   {`"v2"`, nil, "0 programs"},
		"two programs": {`"v2"`, unix.UnixRights(one, one), "2 programs"},
		"many":         {`"v2"`, unix.UnixRights(one, one, one, one, one, one, one, one), "programs"},
		"a pipe":       {`"v2"`, unix.UnixRights(int(r.Fd())), "not a regular file"},
		"no JSON":      {"v2", unix.UnixRights(one), "not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, upgradeName), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, _, err := conn.WriteMsgUnix([]byte(c.text), c.rights, nil); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 1<<10)
			if n, err := conn.Read(answer); err != nil || !strings.Contains(string(answer[:n]), c.want) {
				t.Errorf("%s, %v", answer[:n], err)
			}
		})
	}
}

func TestAnUpgradeEndsWhenItsPeerHangsUp(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	u := upgraded(t, dir, func(request context.Context, _ *os.File) error {
		cancel()
		<-request.Done()
		ended <- request.Err()
		return request.Err()
	})
	defer u.close()
	if a, err := askUpgrade(ctx, dir, thisProgram(t)); err == nil {
		t.Errorf("an answer came: %+v", a)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestUpgradeSocketOfAnother: a killed supervisor's socket is replaced, and one
// that came later is not removed.
func TestUpgradeSocketOfAnother(t *testing.T) {
	dir := t.TempDir()
	served := func(context.Context, *os.File) error { return nil }
	first := upgraded(t, dir, served)
	second := upgraded(t, dir, served)
	first.close()
	if a, err := askUpgrade(t.Context(), dir, thisProgram(t)); a.Error != "" || err != nil {
		t.Errorf("%+v, %v", a, err)
	}
	second.close()
	if _, err := askUpgrade(t.Context(), dir, thisProgram(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
