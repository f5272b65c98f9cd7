package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestKeeperTrustsOnlyOwnFiles(t *testing.T) {
	for name, spoil := range map[string]func(dir, file string) error{
		"file that others write":      func(_, file string) error { return os.Chmod(file, 0o622) },
		"directory that others write": func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"parent that others write":    func(dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o770) },
		"a link": func(_, file string) error {
			return errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file))
		},
		"a directory": func(_, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			k := keeper{filepath.Join(t.TempDir(), "neurodeskfs")}
			if err := k.put("env", "H1", []byte("x")); err != nil {
				t.Fatal(err)
			}
			if text, err := k.get("env", "H1"); err != nil || string(text) != "x" {
				t.Fatalf("%q, %v", text, err)
			}
			if err := spoil(filepath.Join(k.dir, "env"), filepath.Join(k.dir, "env/H1")); err != nil {
				t.Fatal(err)
			}
			if text, err := k.get("env", "H1"); err == nil {
				t.Errorf("trusted: %q", text)
			}
		})
	}
	k := keeper{filepath.Join(t.TempDir(), "neurodeskfs")}
	for _, name := range []string{"", "..", ".x", "a/b", "a\x00"} {
		if err := k.put("env", name, nil); err == nil {
			t.Errorf("%q was kept", name)
		}
	}
	if err := (keeper{}).put("env", "H1", nil); err == nil {
		t.Error("kept nowhere")
	}
}

// TestKeeperThinsOut: years of images do not fill a home; the newest stay, and what
// was left half written goes.
func TestKeeperThinsOut(t *testing.T) {
	k := keeper{filepath.Join(t.TempDir(), "neurodeskfs")}
	if err := k.put("env", "H0000", []byte("x")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(k.dir, "env")
	begin := time.Now().Add(-24 * time.Hour)
	at := func(name string, i int) {
		err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600)
		if err := errors.Join(err, os.Chtimes(filepath.Join(dir, name), time.Time{}, begin.Add(time.Duration(i)*time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	at(".new-killed", 0)
	for i := range maxFiles - 2 {
		at(fmt.Sprintf("H%04d", i), i+1)
	}
	count := func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if err := k.put("env", "Hlast", []byte("x")); err != nil || count() != maxFiles {
		t.Fatalf("%d files, %v; want %d", count(), err, maxFiles)
	}
	if err := k.put("env", "Hone-more", []byte("x")); err != nil || count() != maxFiles/2 {
		t.Errorf("%d files, %v; want %d", count(), err, maxFiles/2)
	}
	for name, want := range map[string]bool{".new-killed": false, "H0000": false, fmt.Sprintf("H%04d", maxFiles-3): true, "Hlast": true, "Hone-more": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvIsReadBack(t *testing.T) {
	text := envMagic + "\x00/home/u\x00A=1\n2\x00PATH=/bin\x00end"
	want := []Var{{"A", "1\n2"}, {"PATH", "/bin"}}
	if got, ok := parseEnv([]byte(text), "/home/u"); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"", "end", envMagic + "\x00/home/u\x00PATH=/bin\x00", envMagic + "\x00/other\x00PATH=/bin\x00end", envMagic + "\x00/home/u\x00A=1\x00end",
		envMagic + "\x00/home/u\x00B-D=1\x00PATH=/bin\x00end"} {
		if got, ok := parseEnv([]byte(bad), "/home/u"); ok {
			t.Errorf("%q gives %v", bad, got)
		}
	}
}

func FuzzKeptEnv(f *testing.F) {
	f.Add([]byte(envMagic + "\x00/h\x00A=1\x00PATH=/bin\x00end"))
	f.Fuzz(func(t *testing.T, text []byte) {
		vars, ok := parseEnv(text, "/h")
		for _, v := range vars {
			if ok && !validName(v.Name) {
				t.Fatalf("%q", v.Name)
			}
		}
	})
}

// TestRuntimeVersionIsAskedOnce counts the starts of a runtime that is asked for its version.
func TestRuntimeVersionIsAskedOnce(t *testing.T) {
	dir := t.TempDir()
	program, log := filepath.Join(dir, "apptainer"), filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho x >>%s\necho 1.2.3\n", log)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	k := keeper{filepath.Join(dir, "cache/neurodeskfs")}
	for range 3 {
		if got := k.runtimeVersion(program); got != "1.2.3" {
			t.Errorf("version %q", got)
		}
	}
	if text, err := os.ReadFile(log); err != nil || string(text) != "x\n" {
		t.Errorf("asked %q, %v", text, err)
	}
	if err := os.WriteFile(program, []byte(script+"# newer\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	k.runtimeVersion(program)
	if text, err := os.ReadFile(log); err != nil || string(text) != "x\nx\n" {
		t.Errorf("a changed program was asked %q, %v", text, err)
	}
	if got := (keeper{}).runtimeVersion(program); got != "" {
		t.Errorf("asked though nothing can be kept: %q", got)
	}
}

func TestKeptEnvNeedsNoProbe(t *testing.T) {
	k := keeper{filepath.Join(t.TempDir(), "neurodeskfs")}
	if err := k.put("env", "H1", []byte(envMagic+"\x00/home/u\x00PATH=/bin\x00end")); err != nil {
		t.Fatal(err)
	}
	refused := &Exit{StatusError, "no probe"}
	probe := func() (*Exec, error) { return nil, refused }
	if vars, err := k.imageEnv("H1", "/home/u", probe); err != nil || len(vars) != 1 {
		t.Errorf("%v, %v", vars, err)
	}
	if vars, err := k.imageEnv("H1", "/home/other", probe); !errors.Is(err, refused) {
		t.Errorf("%v, %v", vars, err)
	}
}
