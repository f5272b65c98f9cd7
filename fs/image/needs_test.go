package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ldd lists what the host's own linker loads for a program: path by name, ""
// where it finds none. ok is false where the linker says it is no business of its.
func ldd(t *testing.T, program string) (libraries map[string]string, ok bool) {
	t.Helper()
	c := exec.Command("ldd", program)
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	out, err := c.Output()
	if err != nil {
		return nil, false
	}
	libraries = map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, rest, found := strings.Cut(strings.TrimSpace(line), " => ")
		if !found {
			continue // the loader itself, the kernel's page
		}
		at, _, _ := strings.Cut(rest, " (0x")
		if at == "not found" {
			at = ""
		} else if at, err = filepath.EvalSymlinks(at); err != nil {
			t.Fatal(err)
		}
		libraries[name] = at
	}
	return libraries, true
}

// sameAsLdd compares what we find with what ldd does.
func sameAsLdd(t *testing.T, l *Linker, program string) bool {
	t.Helper()
	want, ok := ldd(t, program)
	if !ok {
		return false
	}
	s, err := l.Start(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	for _, m := range s.Missing {
		missing = append(missing, m.Name)
	}
	missing = append(missing, s.Host...)
	for name, at := range want {
		switch {
		case at == "" && !slices.Contains(missing, name):
			t.Errorf("%s: ldd does not find %s, we do: %v", program, name, s.Files)
		case at != "" && !slices.Contains(s.Files, at):
			t.Errorf("%s: ldd finds %s at %s, we have %v, missing %v", program, name, at, s.Files, s.Missing)
		}
	}
	for _, name := range missing {
		if at := want[name]; at != "" {
			t.Errorf("%s: %s is missing, ldd has it at %s", program, name, at)
		}
	}
	// Besides the libraries there are the program and its loader.
	if len(want) > 0 && len(s.Files) > len(want)+2 {
		t.Errorf("%s: %d files for %d libraries: %v", program, len(s.Files), len(want), s.Files)
	}
	return true
}

// TestNeedsAsTheHostsLinker asks for all programs of this machine.
func TestNeedsAsTheHostsLinker(t *testing.T) {
	if _, err := exec.LookPath("ldd"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l, err := NewLinker(t.Context(), HostFiles("/"))
	if err != nil {
		t.Fatal(err)
	}
	programs, _ := filepath.Glob("/usr/bin/[a-zA-Z]*")
	compared := 0
	for i, name := range programs {
		name, err := filepath.EvalSymlinks(name) // $ORIGIN of what runs, which ldd does not know
		if i%25 != 0 && !strings.HasSuffix(name, "/git") || err != nil {
			continue // some are enough, ldd is slow
		}
		head := make([]byte, 4)
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		_, _ = f.Read(head)
		f.Close()
		if string(head) == "\x7fELF" && sameAsLdd(t, l, name) {
			compared++
		}
	}
	if compared < 5 {
		t.Errorf("%d programs compared only", compared)
	}
}

// compile makes an object with the host's compiler, or a small program.
func compile(t *testing.T, out string, args ...string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "x.c")
	text := "int main(void) { return 0; }\n"
	if slices.Contains(args, "-shared") {
		text = fmt.Sprintf("int of_%d(void) { return 0; }\n", len(out))
	}
	err := errors.Join(os.WriteFile(source, []byte(text), 0o644), os.MkdirAll(filepath.Dir(out), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("gcc", append([]string{"-o", out, source, "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"}, args...)...)
	if b, err := c.CombinedOutput(); err != nil {
		if _, missing := exec.LookPath("gcc"); missing != nil && os.Getenv("CI") != "true" {
			t.Skip(missing)
		}
		t.Fatalf("gcc %v: %v\n%s", args, err, b)
	}
}

// TestNeedsSearchOrder links in all ways that the linker knows, and compares
// with the linker.
func TestNeedsSearchOrder(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	lib := func(name string, args ...string) {
		compile(t, in(name), append([]string{"-shared", "-Wl,-soname," + filepath.Base(name)}, args...)...)
	}
	lib("deep/libdeep.so.1")
	lib("two/libtwo.so.1")
	lib("alt/libtwo.so.1")
	lib("one/libone.so.1", in("two/libtwo.so.1"), "-L"+in("two"))
	lib("self/libself.so.1", in("deep/libdeep.so.1"), "-Wl,-rpath,$ORIGIN/../deep", "-Wl,--enable-new-dtags")
	lib("selfold/libself.so.1", in("deep/libdeep.so.1"), "-Wl,-rpath,$ORIGIN/../deep", "-Wl,--disable-new-dtags")
	lib("caps/glibc-hwcaps/x86-64-v2/libcaps.so.1") // which all processors have that this runs on
	for name, args := range map[string][]string{
		"for some processors only":  {in("caps/glibc-hwcaps/x86-64-v2/libcaps.so.1"), "-Wl,-rpath," + in("none") + ":" + in("caps")},
		"rpath is inherited":        {in("one/libone.so.1"), "-Wl,-rpath," + in("one") + ":" + in("two"), "-Wl,--disable-new-dtags"},
		"runpath is not":            {in("one/libone.so.1"), "-Wl,-rpath," + in("one") + ":" + in("two"), "-Wl,--enable-new-dtags"},
		"origin":                    {in("self/libself.so.1"), "-Wl,-rpath,${ORIGIN}/../self", "-Wl,--enable-new-dtags"},
		"origin, old":               {in("selfold/libself.so.1"), "-Wl,-rpath,$ORIGIN/../selfold", "-Wl,--disable-new-dtags"},
		"the first directory":       {in("two/libtwo.so.1"), "-Wl,-rpath," + in("none") + ":" + in("alt") + ":" + in("two")},
		"nowhere":                   {in("two/libtwo.so.1"), "-Wl,-rpath," + in("none")},
		"all but one":               {in("one/libone.so.1"), "-Wl,-rpath," + in("one")},
		"static":                    {"-static"},
		"nothing but libc":          nil,
		"loaded before by a parent": {in("alt/libtwo.so.1"), in("one/libone.so.1"), "-Wl,-rpath," + in("alt") + ":" + in("one"), "-Wl,--enable-new-dtags"},
	} {
		program := in("bin/" + strings.ReplaceAll(name, " ", "-"))
		compile(t, program, append([]string{"-Wl,-rpath-link," + in("two") + ":" + in("deep")}, args...)...)
		l, err := NewLinker(t.Context(), HostFiles("/"))
		if err != nil {
			t.Fatal(err)
		}
		if !sameAsLdd(t, l, program) && name != "static" {
			t.Errorf("%s: ldd refuses it", name)
		}
		if s, err := l.Start(t.Context(), program); err != nil || s.Files[0] != program || name == "static" && len(s.Files) != 1 {
			t.Errorf("%s: %v, %v", name, s.Files, err)
		}
	}
}

// sandbox makes an image of texts and of what is copied from the host.
func sandbox(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		at := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch to, link := strings.CutPrefix(text, "-> "); {
		case err != nil:
		case link:
			err = os.Symlink(to, at)
		case strings.HasPrefix(text, "copy "):
			var b []byte
			if b, err = os.ReadFile(strings.TrimPrefix(text, "copy ")); err == nil {
				err = os.WriteFile(at, b, 0o755)
			}
		default:
			err = os.WriteFile(at, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNeedsInsideTheImage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "p")
	compile(t, program)
	s, err := (&Linker{files: HostFiles("/"), known: map[string]*object{}}).Start(t.Context(), program)
	if err != nil || len(s.Files) != 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	o, err := readObject(bytes.NewReader(must(os.ReadFile(program))))
	if err != nil {
		t.Fatal(err)
	}
	loader, libc := s.Files[1], s.Files[2]
	dir := sandbox(t, map[string]string{
		"opt/real/p": "copy " + program, "bin/p": "-> /opt/link/p", "opt/link": "-> ../opt/../opt/real", "opt/escape": "-> ../../../../../../../opt/real/p",
		o.interpreter[1:]: "-> /elsewhere/ld.so", "elsewhere/ld.so": "copy " + loader, "elsewhere/libc.so.6": "copy " + libc,
		"usr/lib/libc.so.6": "-> ../../elsewhere/libc.so.6",
		"bin/sh":            "-> p", "s": "#! /bin/sh -e\n", "t": "#!/s\n", "plain": "echo hello\n", "empty": "",
		"usr/bin/env": "copy " + program, "e": "#!/usr/bin/env -S A=1 q -x\n", "usr/local/bin/q": "#!/t\n", "f": "#!/usr/bin/env nothing\n",
		"no": "#!/usr/bin/none\n", "relative": "#!bin/sh\n", "blank": "#!\n", "loop1": "#!/loop2\n", "loop2": "#!/loop1\n",
		"round": "-> round", "host": "-> /etc/hostname", "etc/ld.so.conf": "include ld.so.conf.d/*.conf\n/opt/a /opt/b:/opt/c # x\n",
		"etc/ld.so.conf.d/z.conf": "/opt/z\n", "etc/ld.so.conf.d/other": "/opt/none\n", "data": "x",
	})
	if err := os.Chmod(filepath.Join(dir, "data"), 0o644); err != nil {
		t.Fatal(err)
	}
	files := HostFiles(dir)
	l, err := NewLinker(t.Context(), files)
	if err != nil || strings.Join(l.conf, " ") != "/opt/a /opt/b /opt/c /opt/z" {
		t.Fatalf("%q, %v", l.conf, err)
	}
	const elf = "/opt/real/p /elsewhere/ld.so /elsewhere/libc.so.6"
	for name, want := range map[string]string{
		"/bin/p": elf, "/opt/escape": elf, "/opt/link/../real/p": elf, "/s": "/s " + elf, "/t": "/t /s " + elf, "/plain": "/plain " + elf, "/empty": "/empty " + elf,
		"/e":  "/e /usr/bin/env /elsewhere/ld.so /elsewhere/libc.so.6 /usr/local/bin/q /t /s /opt/real/p",
		"/f":  "/f /usr/bin/env /elsewhere/ld.so /elsewhere/libc.so.6; nothing: not in the image's PATH",
		"/no": "/no; /usr/bin/none: not in the image", "/relative": "/relative; bin/sh: no absolute path", "/blank": "/blank; #!: names no interpreter",
		"/loop1": "/loop1 /loop2; /loop1: an interpreter of too many interpreters", "/round": "; /round: not in the image", "/host": "; /host: not in the image",
		"/data": "; /data: not executable", "/opt": "; /opt: a directory", "/data/x": "; /data/x: not in the image", "/gone": "; /gone: not in the image",
	} {
		s, err := l.Start(t.Context(), name)
		got := strings.Join(s.Files, " ")
		for _, m := range s.Missing {
			got += "; " + m.Name + ": " + m.Why
		}
		if err != nil || got != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", name, got, err, want)
		}
	}
	if _, err := files.Resolve(t.Context(), "/round"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("a link to itself: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := must(NewLinker(t.Context(), files)).Start(cancelled, "/bin/p"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestNeedsOfOtherMachines has libraries that are there, for somebody else.
func TestNeedsOfOtherMachines(t *testing.T) {
	program := filepath.Join(t.TempDir(), "p")
	compile(t, program)
	b := must(os.ReadFile(program))
	o := must(readObject(bytes.NewReader(b)))
	s, err := (&Linker{files: HostFiles("/"), known: map[string]*object{}}).Start(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	other := must(os.ReadFile(s.Files[2]))
	other[18], other[19] = 183, 0 // e_machine
	dir := sandbox(t, map[string]string{"p": "copy " + program, o.interpreter[1:]: "copy " + s.Files[1], "lib/libc.so.6": string(other), "foreign": string(b[:18]) + "\xb7\x00" + string(b[20:])})
	l := must(NewLinker(t.Context(), HostFiles(dir)))
	s, err = l.Start(t.Context(), "/p")
	if err != nil || len(s.Missing) != 1 || s.Missing[0].Why != "/lib/libc.so.6 is for another machine (aarch64)" {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = l.Start(t.Context(), "/foreign")
	if err != nil || s.Architecture != "aarch64" || len(s.Missing) != 1 || s.Missing[0].Why != "the loader is for another machine" {
		t.Errorf("%+v, %v", s, err)
	}
}

// FuzzObject reads changed programs and libraries.
func FuzzObject(f *testing.F) {
	for _, name := range []string{"/bin/true", "/proc/self/exe", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libpthread.so.0"} {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b[:min(len(b), 64<<10)])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readObject(bytes.NewReader(b))
		if err != nil && !errors.Is(err, errNotELF) || err == nil && (len(o.needed) > maxNeeded || len(o.interpreter) > maxString) {
			t.Errorf("%+v, %v", o, err)
		}
		if err == nil {
			(&loaded{object: o, at: "/x/y"}).expand(o.rpath)
			_ = o.standard()
		}
	})
}

// FuzzLibraryCache reads changed caches of the linker.
func FuzzLibraryCache(f *testing.F) {
	if b, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		if len(parseCache(b)) < 10 {
			f.Error("this machine's ld.so.cache cannot be read")
		}
		f.Add(b)
		f.Add(append([]byte("ld.so-1.7.0\x00\x00\x00\x00\x00"), b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		for name, files := range parseCache(b) {
			for _, file := range files {
				size += len(name) + len(file)
			}
		}
		if size > maxCache+2*maxString {
			t.Errorf("%d bytes of names in %d bytes", size, len(b))
		}
	})
}
