package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSecondProcessIsToldWho(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 3, 1000)
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Error(err)
	}
	info, err := Info(context.Background(), dir)
	if err != nil || info != (DirInfo{dir, 3, 3 * 1064, true, os.Getpid()}) {
		t.Errorf("%+v, %v", info, err)
	}
	d.Close()
	info, err = Info(context.Background(), dir)
	if err != nil || info != (DirInfo{dir, 3, 3 * 1064, false, 0}) {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestLayout(t *testing.T) {
	write := func(t *testing.T, path, text string) {
		t.Helper()
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		file, text string
		refused    bool
		says       string
	}{
		"newer layout":           {"VERSION", "2\n", true, "upgrade neurodeskfs"},
		"somebody's directory":   {"thesis.tex", "", true, "thesis.tex"},
		"somebody's tmp":         {"home/tmp/new-1.part", "", true, "home"},
		"empty VERSION":          {"VERSION", "", false, ""},
		"garbled VERSION":        {"VERSION", "\x00\x00", false, ""},
		"lost VERSION":           {"objects/01/x", "", false, ""},
		"an interrupted start":   {"VERSION~", "1", false, ""},
		"foreign among objects":  {"objects/01/UPPER CASE", "", false, ""},
		"foreign file in tmp":    {"tmp/mine", "", false, ""},
		"a pipe where an object": {"objects/xx", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, c.file)
			write(t, file, c.text)
			d, err := Open(dir, Options{})
			if c.refused {
				if !errors.Is(err, ErrLayout) || !strings.Contains(err.Error(), c.says) {
					t.Error(err)
				}
				if _, err := os.Stat(file); err != nil {
					t.Error("removed what is not ours")
				}
				if _, err := Info(context.Background(), dir); !errors.Is(err, ErrLayout) {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			d.Settle(context.Background())
			fill(t, d, 0, 3, 10)
			checkAccounts(t, d)
			d.Close()
			checkDir(t, dir)
			if b, _ := os.ReadFile(filepath.Join(dir, "VERSION")); string(b) != "1\n" {
				t.Errorf("VERSION %q", b)
			}
			if _, err := os.Stat(filepath.Join(dir, "tmp/mine")); c.file == "tmp/mine" && err != nil {
				t.Error("removed what is not ours")
			}
		})
	}
}

func TestPipeAmongObjects(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{})
	fill(t, d, 0, 1, 10)
	os.Remove(onlyFile(d, keyFor(0)))
	if err := syscall.Mkfifo(onlyFile(d, keyFor(0)), 0o600); err != nil {
		t.Fatal(err)
	}
	if cached(t, d, keyFor(0)) {
		t.Error("served a pipe")
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for mode, want := range map[os.FileMode]string{0: "-rw------- drwx------", 0o644: "-rw-r--r-- drwxr-xr-x", 0o640: "-rw-r----- drwxr-x---"} {
		d := openDisk(t, filepath.Join(t.TempDir(), "cache"), Options{FileMode: mode})
		fill(t, d, 0, 1, 10)
		f, err := os.Stat(onlyFile(d, keyFor(0)))
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range []string{"objects", "objects/00", "tmp"} {
			fi, err := os.Stat(filepath.Join(d.dir, sub))
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Mode().String() + " " + fi.Mode().String(); got != want {
				t.Errorf("%v: %s of %s, want %s", mode, got, sub, want)
			}
		}
		d.Close()
	}
}

// Files come and go while nobody runs; records follow them.
func TestLookAtFolders(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 20, 100)
	d.Close()
	keep := filepath.Join(t.TempDir(), "kept")
	if err := os.Rename(onlyFile(d, keyFor(4)), keep); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Dir(onlyFile(d, keyFor(5))))
	d = openDisk(t, dir, Options{})
	checkAccounts(t, d)
	if d.Stats().Objects != 18 {
		t.Errorf("%+v", d.Stats())
	}
	// A file that turns up under us is served, and counted from then on.
	if err := os.Rename(keep, onlyFile(d, keyFor(4))); err != nil {
		t.Fatal(err)
	}
	wantContent(t, d, keyFor(4), contentFor(keyFor(4), 100))
	if d.Stats().Objects != 19 {
		t.Errorf("%+v", d.Stats())
	}
	checkAccounts(t, d)
}

func TestReadOnlyTier(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{FileMode: 0o644})
	fill(t, d, 0, 3, 1000)
	os.Truncate(onlyFile(d, keyFor(2)), 100)
	tier, err := Open(dir, Options{ReadOnly: true}) // beside the one that fills it
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, tier, keyFor(1), contentFor(keyFor(1), 1000))
	if cached(t, tier, keyFor(2)) {
		t.Error("damaged object served")
	}
	fill(t, tier, 5, 6, 100)
	wantContent(t, tier, keyFor(5), contentFor(keyFor(5), 100))
	tier.Close()
	if _, err := os.Stat(onlyFile(d, keyFor(2))); err != nil {
		t.Error("a read-only tier removed a file")
	}
	if _, err := os.Stat(onlyFile(d, keyFor(5))); err == nil {
		t.Error("a read-only tier wrote a file")
	}
	cached(t, d, keyFor(2))
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Quota: -1}, {HighWater: 2}, {LowWater: 0.9, HighWater: 0.5}, {LowWater: -1}} {
		if _, err := Open(filepath.Join(t.TempDir(), "c"), o); err == nil {
			t.Errorf("%+v taken", o)
		}
	}
	o, err := Options{HighWater: 0.5}.withDefaults()
	if err != nil || o.LowWater != 0.5 {
		t.Errorf("%+v, %v", o, err)
	}
}
