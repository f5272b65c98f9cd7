package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/check"
)

// checked runs `neurodeskfs check` as JSON, and as text, which must be narrow.
func checked(t *testing.T, args ...string) (faults string, report check.Report) {
	t.Helper()
	r := neurodeskfs(t, append([]string{"check", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("check %q: %v: %+v", args, err, r)
	}
	if (r.Status == 1) != (len(report.Faults) > 0) || r.Status > 1 {
		t.Errorf("check %q: exit status %d, %d faults: %s", args, r.Status, len(report.Faults), r.Stderr)
	}
	for _, f := range report.Faults {
		faults += fmt.Sprintf("%s %v;", f.Problem, f.Commands)
	}
	return faults, report
}

// TestGoldenCheck examines the golden images, all of which run. What is wrong
// with two of them is so indeed.
func TestGoldenCheck(t *testing.T) {
	wrong := map[string]string{
		"mrtrix3": "/usr/bin/python3: not in the image [dwigradcheck];",
		"bidsapp": "not in the image's PATH [bash];",
	}
	for fqrn, layout := range map[string]string{"galaxy.golden.test": "flat", "unpacked.golden.test": "unpacked", "neurodesk.golden.test": "neurodesk"} {
		t.Run(fqrn, func(t *testing.T) {
			src := newStratum(t).Golden(fqrn)
			src.Layout = layout
			m := mount(t, setup{Sources: []source{src}})
			m.Indexed()
			seen := map[string]bool{}
			apps, _ := filepath.Glob(m.Path("apps/*/*"))
			for _, at := range apps {
				app := path.Base(path.Dir(at))
				st, err := os.Lstat(at)
				if err != nil || !st.IsDir() || seen[app] || app == "retiredtool" {
					continue // one build of each is enough
				}
				seen[app] = true
				faults, report := checked(t, "--mount", m.Dir, app+"/"+path.Base(at))
				if faults != wrong[app] || len(report.Commands) == 0 || report.Bytes == 0 || report.Architecture != "x86_64" || !report.Compared {
					t.Errorf("%s: %q, want %q: %+v", app, faults, wrong[app], report)
				}
			}
			if len(seen) < 3 {
				t.Errorf("%d apps only", len(seen))
			}
			if layout == "neurodesk" {
				checkText(t, m)
			}
		})
	}
}

// checkText looks at what people see.
func checkText(t *testing.T, m *mounted) {
	t.Helper()
	r := neurodeskfs(t, "check", "--mount", m.Dir, "bidsapp")
	for _, want := range []string{"\nWRONG\n  bash  not in the image's PATH\n", "\n  dcm2niix     dcm2niix\n", "  python, bash   a shell"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("there is no %q in %s", want, r.Stdout)
		}
	}
	for line := range strings.Lines(r.Stdout) {
		if len([]rune(line)) > 81 {
			t.Errorf("a line of %d columns: %s", len([]rune(line))-1, line)
		}
	}
	if r := neurodeskfs(t, "check", "--mount", m.Dir, "retiredtool"); r.Status != 1 || !strings.Contains(r.Stderr, "was retired") {
		t.Errorf("a retired image: %+v", r)
	}
	if r := neurodeskfs(t, "check", "--mount", m.Dir, "nosuchapp"); r.Status != 2 || !strings.Contains(r.Stderr, "neurodeskfs search") {
		t.Errorf("no such app: %+v", r)
	}
}

// TestMountlessCheckOfBuiltImages examines SIFs that apptainer builds: one in
// order, and one in which something of each kind is broken.
func TestMountlessCheckOfBuiltImages(t *testing.T) {
	rootfs := buildTool(t)
	dir := filepath.Join(shortDir(t), "tool_1.0_20240101")
	sif := filepath.Join(dir, "tool_1.0_20240101.simg")
	build := func(commands string) {
		t.Helper()
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "commands.txt"), []byte(commands), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command("apptainer", "--quiet", "build", "--force", sif, rootfs)
		c.Env = append(os.Environ(), "HOME="+shortDir(t))
		if r := run(t, c); r.Status != 0 {
			t.Fatalf("apptainer build: %s", r.Stderr)
		}
	}
	build("nd-sh\nnd-argv\n")
	for _, name := range []string{sif, dir, rootfs} {
		faults, report := checked(t, name)
		if !slices.Contains(report.Commands, "nd-sh") && name != rootfs || faults != "" && name != rootfs {
			t.Errorf("%s: %s %+v", name, faults, report.Commands)
		}
	}
	for name, text := range map[string]string{"bin/lost": "#!/usr/bin/python3\n", "bin/plain": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(rootfs, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(rootfs, "bin/plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	build("nd-sh\nlost\nplain\ngone\na\x1b[31mb\n")
	want := "a line of commands.txt can be no command's name [a\x1b[31mb];/usr/bin/python3: not in the image [lost];/bin/plain: not executable, chmod +x it [plain];not in the image's PATH [gone];"
	if faults, _ := checked(t, sif); faults != want {
		t.Errorf("%q, want %q", faults, want)
	}
	if r := neurodeskfs(t, "check", sif); r.Status != 1 || strings.Contains(r.Stdout+r.Stderr, "\x1b") {
		t.Errorf("control characters: %+v", r)
	}
	t.Setenv("NEURODESK_MOUNT", dir) // where none is: there is nothing to compare with
	for name, status := range map[string]int{filepath.Join(dir, "commands.txt"): 1, shortDir(t): 2, filepath.Join(dir, "none.sif"): 2} {
		if r := neurodeskfs(t, "check", name); r.Status != status || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %+v, want status %d", name, r, status)
		}
	}
}

// TestCheckBesideAHangingMount: a mount that is there only has names to compare
// with; one that hangs keeps no image from being examined. doctor names it,
// though the kernel knows some of its files by heart.
func TestCheckBesideAHangingMount(t *testing.T) {
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	box := t.TempDir()
	if err := os.MkdirAll(filepath.Join(box, ".singularity.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NEURODESK_MOUNT", m.Dir)
	if _, report := checked(t, box); !report.Compared {
		t.Error("it was not compared with a mount that answers")
	}
	daemon := m.Status().Worker.PID
	if err := syscall.Kill(daemon, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(daemon, syscall.SIGCONT)
	began := time.Now()
	r := wantRun(t, 1, "check", "--json", box)
	if took := time.Since(began); took > 20*time.Second || !strings.Contains(r.Stderr, "does not answer within 3s: its apps are not compared with") {
		t.Errorf("after %s: %s", took, r.Stderr)
	}
	if r := neurodeskfs(t, "doctor"); !strings.Contains(strings.Join(strings.Fields(r.Stdout), " "), "mount "+m.Dir+": does not answer within 3s") {
		t.Errorf("doctor: %s", r.Stdout)
	}
}
