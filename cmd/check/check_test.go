package check

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// sandbox makes an image in which /bin/sh and /bin/true run, with more files:
// "-> X" is a link, "copy X" a copy of the host's, "data: X" a file that cannot
// be run, all else a script.
func sandbox(t *testing.T, more map[string]string) string {
	t.Helper()
	files := map[string]string{"bin/sh": "copy /bin/true", "bin/true": "copy /bin/true", ".singularity.d/env/10-x.sh": "export PATH=/opt/t/bin:/usr/bin:/bin\n"}
	linker, err := image.NewLinker(t.Context(), image.HostFiles("/"))
	if err != nil {
		t.Fatal(err)
	}
	needs, err := linker.Start(t.Context(), "/bin/true")
	if err != nil || len(needs.Files) < 3 {
		t.Fatalf("%v, %v", needs, err)
	}
	for _, name := range needs.Files[1:] {
		files[name] = "copy " + name
	}
	// The program names its loader and libraries by the links of the host.
	for _, name := range []string{"lib64", "lib"} {
		if to, err := os.Readlink("/" + name); err == nil {
			files[name] = "-> " + to
		}
	}
	links, _ := filepath.Glob("/usr/lib64/ld-*.so.*")
	for _, name := range links {
		if to, err := os.Readlink(name); err == nil {
			files[name] = "-> " + to
		}
	}
	for name, text := range more {
		files[name] = text
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := put(filepath.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func put(at, text string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if to, link := strings.CutPrefix(text, "-> "); link {
		return os.Symlink(to, at)
	}
	mode := os.FileMode(0o755)
	if from, copied := strings.CutPrefix(text, "copy "); copied {
		b, err := os.ReadFile(from)
		return errors.Join(err, os.WriteFile(at, b, mode))
	}
	if data, plain := strings.CutPrefix(text, "data: "); plain {
		text, mode = data, 0o644
	}
	return errors.Join(os.WriteFile(at, []byte(text), mode), os.Chmod(at, mode))
}

// squashed opens a squashfs of dir.
func squashed(t *testing.T, dir string) image.Files {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	name := filepath.Join(t.TempDir(), "image.squashfs")
	if out, err := exec.Command("mksquashfs", dir, name, "-no-progress", "-processors", "1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files, done, err := image.OpenHost(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return files
}

// said are a report's faults as lines `PROBLEM [COMMANDS]`, sorted.
func said(r Report) (lines []string) {
	for _, f := range r.Faults {
		lines = append(lines, fmt.Sprintf("%s %q", f.Problem, f.Commands))
	}
	slices.Sort(lines)
	return lines
}

// TestFaults makes each fault, in a directory and in a squashfs.
func TestFaults(t *testing.T) {
	script := func(line string) string { return "#!" + line + "\n" }
	const env = ".singularity.d/env/10-x.sh"
	for name, c := range map[string]struct {
		files     map[string]string
		text, env string // commands.txt, env.txt
		want      []string
	}{
		"all in order":        {map[string]string{"opt/t/bin/a": script("/bin/sh"), "opt/t/bin/b": "-> a"}, "a\nb\ntrue\n/opt/t/bin/a\n", "", nil},
		"nothing declared":    {nil, "", "", []string{"no command is declared: it has no commands.txt, DEPLOY_PATH, DEPLOY_BINS or runscript []"}},
		"a command is gone":   {nil, "true\nbet\nfast\n", "", []string{`not in the image's PATH ["bet" "fast"]`}},
		"a path is gone":      {nil, "/opt/run.sh\n", "", []string{`/opt/run.sh: not in the image ["run.sh"]`}},
		"not executable":      {map[string]string{"opt/t/bin/a": "data: #!/bin/sh\n"}, "a\n", "", []string{`/opt/t/bin/a: not executable, chmod +x it ["a"]`}},
		"path not executable": {map[string]string{"opt/a": "data: #!/bin/sh\n"}, "/opt/a\n", "", []string{`/opt/a: not executable ["a"]`}},
		"a directory":         {map[string]string{"opt/a/x": ""}, "/opt/a\n", "", []string{`/opt/a: a directory ["a"]`}},
		"no interpreter":      {map[string]string{"opt/t/bin/a": script("/usr/bin/perl -w")}, "a\n", "", []string{`/usr/bin/perl: not in the image ["a"]`}},
		"two of one":          {map[string]string{"opt/t/bin/a": script("/opt/i"), "opt/t/bin/b": script("/opt/i"), "opt/i": script("/none")}, "a\nb\n", "", []string{`/none: not in the image (/opt/i needs it) ["a" "b"]`}},
		"env finds nothing":   {map[string]string{"opt/t/bin/a": script("/usr/bin/env python3"), "usr/bin/env": "copy /bin/true"}, "a\n", "", []string{`python3: not in the image's PATH ["a"]`}},
		"a link out":          {map[string]string{"opt/t/bin/a": "-> /etc/hostname"}, "/opt/t/bin/a\n", "", []string{`/opt/t/bin/a: not in the image ["a"]`}},
		"a link to itself":    {map[string]string{"opt/t/bin/a": "-> a"}, "a\n", "", []string{`not in the image's PATH ["a"]`}},
		"outside PATH":        {map[string]string{"opt/u/a": script("/bin/sh")}, "a\n", "", []string{`not in the image's PATH ["a"]`}},
		"no shell":            {map[string]string{"bin/sh": "-> gone"}, "true\n", "", []string{"/bin/sh is not in the image: apptainer's own scripts need it []"}},
		"a line of no name":   {nil, "true\nbin/x\n\n", "", []string{`a line of commands.txt can be no command's name ["bin/x"]`}},
		"inside":              {map[string]string{"commands.txt": "data: gone\n"}, "", "", []string{`not in the image's PATH ["gone"]`}},
		"DEPLOY_PATH":         {map[string]string{env: "export PATH=/bin\nexport DEPLOY_PATH=/opt/t/bin:/none\n", "opt/t/bin/a": script("/none/sh"), "opt/t/bin/data": "data: x"}, "", "", []string{`/none/sh: not in the image ["a"]`, "DEPLOY_PATH names /none, which is no directory in the image []"}},
		"DEPLOY_BINS":         {map[string]string{env: "export PATH=/bin\nexport DEPLOY_BINS=true:gone:/opt/x\n"}, "", "", []string{`/opt/x: not in the image ["x"]`, `not in the image's PATH ["gone"]`}},
		"runscript":           {map[string]string{".singularity.d/runscript": script("/bin/bash")}, "", "", []string{`/bin/bash: not in the image ["tool"]`}},
		"DEPLOY_ENV":          {nil, "true\n", "DEPLOY_ENV_DIR=BASEPATH/opt/none\nDEPLOY_ENV_B=BASEPATH/bin\nDEPLOY_ENV_C=x\n", []string{"DEPLOY_ENV_DIR names /opt/none, which is not in the image []"}},
		"control characters":  {nil, "a\x1b[2Jb\ntrue\n", "", []string{`a line of commands.txt can be no command's name ["a\x1b[2Jb"]`}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := sandbox(t, c.files)
			for kind, files := range map[string]image.Files{"directory": image.HostFiles(dir), "squashfs": squashed(t, dir)} {
				s := Subject{Name: "x", App: "tool", Files: files, Raw: true, EnvTxt: []byte(c.env)}
				if c.text != "" {
					s.CommandsTxt = []byte(c.text)
				}
				r, err := Image(t.Context(), s)
				if got := said(r); err != nil || !slices.Equal(got, c.want) {
					t.Errorf("%s: %q, %v\nwant %q", kind, got, err, c.want)
				}
			}
		})
	}
}

// TestLibraries takes one away, and puts one of another machine in its place.
func TestLibraries(t *testing.T) {
	dir := sandbox(t, nil)
	libc, _ := filepath.Glob(filepath.Join(dir, "*/*/*/libc.so.6"))
	if more, _ := filepath.Glob(filepath.Join(dir, "*/*/libc.so.6")); len(libc) == 0 {
		libc = more
	}
	if len(libc) != 1 {
		t.Fatalf("%q", libc)
	}
	check := func() string {
		t.Helper()
		r, err := Image(t.Context(), Subject{App: "tool", Files: image.HostFiles(dir), CommandsTxt: []byte("true\n")})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(said(r), "; ")
	}
	if got := check(); got != "" {
		t.Errorf("in order: %s", got)
	}
	b, err := os.ReadFile(libc[0])
	if err != nil {
		t.Fatal(err)
	}
	b[18], b[19] = 0xb7, 0
	if err := os.WriteFile(libc[0], b, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := check(); !strings.HasPrefix(got, "libc.so.6: ") || !strings.HasSuffix(got, `is for another machine (aarch64) ["true"]`) {
		t.Errorf("another machine: %s", got)
	}
	if err := os.Remove(libc[0]); err != nil {
		t.Fatal(err)
	}
	if got := check(); got != `libc.so.6: not in the image ["true"]` {
		t.Errorf("gone: %s", got)
	}
}

// TestGoodToKnow looks at what is no fault.
func TestGoodToKnow(t *testing.T) {
	dir := sandbox(t, map[string]string{
		"usr/share/big": "data: " + strings.Repeat("x", 5_000_000), "data/x": "data: y", "opt/t/bin/python3": "#!/bin/sh\n", "opt/t/bin/++": "#!/bin/sh\n",
	})
	if err := os.Link(filepath.Join(dir, "usr/share/big"), filepath.Join(dir, "usr/share/again")); err != nil {
		t.Fatal(err)
	}
	for kind, files := range map[string]image.Files{"directory": image.HostFiles(dir), "squashfs": squashed(t, dir)} {
		r, err := Image(t.Context(), Subject{
			App: "tool", Files: files, Raw: true, CommandsTxt: []byte("true\npython3\n++\n"),
			Others: func(c string) []string { return map[string][]string{"true": {"other"}}[c] },
		})
		if err != nil || len(r.Faults) > 0 {
			t.Fatalf("%s: %+v, %v", kind, r.Faults, err)
		}
		if len(r.Hidden) != 3 || len(r.Shared) != 0 { // true is a core utility
			t.Errorf("%s: hidden %v, shared %v", kind, r.Hidden, r.Shared)
		}
		if len(r.MountPoints) != len(usualMountPoints)-1 || slices.Contains(r.MountPoints, "/data") {
			t.Errorf("%s: %d mount points are missing: %v", kind, len(r.MountPoints), r.MountPoints)
		}
		if r.Largest[0] != (Part{"/usr/share", 5_000_000}) || r.Bytes < 5_000_000 || r.Bytes > 10_000_000 || r.Entries < 15 {
			t.Errorf("%s: %+v, %d bytes, %d entries", kind, r.Largest, r.Bytes, r.Entries)
		}
	}
}

func TestPart(t *testing.T) {
	for name, want := range map[string]string{"/a": "/", "/usr/x": "/usr", "/usr/lib/x": "/usr/lib", "/usr/lib/a/b/c": "/usr/lib"} {
		if got := part(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if add(1<<63-1, 5) != 1<<63-1 || add(1, -5) != 1 {
		t.Error("sizes that are lies")
	}
}
