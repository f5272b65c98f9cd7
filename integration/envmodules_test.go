package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// moduleCommand finds what Environment Modules' `module` calls: deps.sh unpacks
// it beside the system, for its package and Lmod's remove each other.
func moduleCommand(t *testing.T) string {
	t.Helper()
	requireTools(t, "tclsh")
	for _, pattern := range []string{"/usr/local/lib/environment-modules/usr/lib/*/modulecmd.tcl", "/usr/local/lib/environment-modules/usr/lib/modulecmd.tcl"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("Environment Modules are missing: make deps unpacks them")
	}
	t.Skip("Environment Modules are missing: make deps unpacks them")
	return ""
}

// tclShell types lines into a shell that has Environment Modules, with $M for
// the mount.
func tclShell(t *testing.T, m *mounted) func(lines string) result {
	t.Helper()
	command, home := moduleCommand(t), shortDir(t)
	return func(lines string) result {
		t.Helper()
		c := exec.Command("bash", "--norc", "-c", `module() { eval "$(tclsh "$MODULECMD" bash "$@")"; }`+"\n"+lines)
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "MODULECMD=" + command, "MODULES_PAGER=", "MODULES_COLOR=never", "M=" + m.Dir}
		return run(t, c)
	}
}

// TestMountEnvironmentModules loads, lists and unloads with the real
// Environment Modules.
func TestMountEnvironmentModules(t *testing.T) {
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	typed := tclShell(t, m)
	build := m.Path("apps/niftitools/3.0.1_20240310")
	r := typed("module use $M/modules-tcl; module load niftitools/3.0.1 && echo $NIFTIDIR && command -v nifti_tool && module unload niftitools && echo \"[$NIFTIDIR]\"")
	if want := build + "/rootfs/opt/nifti-3.0.1\n" + build + "/bin/nifti_tool\n[]\n"; r.Status != 0 || r.Stdout != want || r.Stderr != "" {
		t.Errorf("%+v, want %q", r, want)
	}
	r = typed("module use $M/modules-tcl; module load dcm2niix; command -v dcm2niix")
	if r.Stdout != m.Path("apps/dcm2niix/1.0.20220720_20250601/bin/dcm2niix")+"\n" {
		t.Errorf("the default: %+v", r)
	}
	r = typed("module use $M/modules-tcl; module load niftitools/3.0.1; module load niftitools/2024b && echo both")
	if strings.Contains(r.Stdout, "both") || !strings.Contains(r.Stderr, "conflict") {
		t.Errorf("two versions: %+v", r)
	}
	r = typed("module use $M/modules-tcl; module load retiredtool/1.0 && echo loaded")
	if strings.Contains(r.Stdout, "loaded") || !strings.Contains(r.Stderr, "was retired") || strings.Contains(r.Stderr, "while executing") {
		t.Errorf("a retired image: %+v", r)
	}
	r = typed("module use $M/modules-tcl; module help niftitools/3.0.1; module whatis niftitools/3.0.1; module -t avail")
	if !strings.Contains(r.Stderr, "Image: niftitools_3.0.1_20240310") {
		t.Errorf("help: %+v", r)
	}
	for _, name := range []string{"dcm2niix/1.0.20220720", "niftitools/3.0.1", "niftitools/r7771", "niftitools/2024b", "retiredtool/1.0"} {
		n := 0
		for line := range strings.Lines(r.Stderr) {
			if word, _, _ := strings.Cut(strings.TrimSpace(line), "("); word == name {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s is listed %d times: %s", name, n, r.Stderr)
		}
	}
}

// pipeline is a program on the host, as Nipype's interfaces are: it finds a tool's
// files by a variable, and calls its commands by name.
const pipeline = `
import os, subprocess, sys
tool = os.environ["NIFTIDIR"]
assert os.path.isdir(tool), tool
assert os.access(os.path.join(tool, "bin", "nifti_tool"), os.X_OK), os.listdir(tool)
with open(os.path.join(tool, "bin", "nifti_tool"), "rb") as f:
    assert f.read(4) in (b"\x7fELF", b"#!/b", b"#! /"), "no program"
def run(*args, **more):
    return subprocess.run(args, capture_output=True, text=True, **more)
r = run("nifti_tool", "-make_im", "-prefix", "made file.nii", "-new_dim", *"3 8 7 6 0 0 0 0".split(), "-new_datatype", "4")
assert r.returncode == 0, r
r = run("nifti_tool", "-disp_hdr", "-field", "dim", "-infiles", "made file.nii")
assert r.returncode == 0 and "8 7 6" in r.stdout, r
import struct
with open("made file.nii", "rb") as f:
    assert struct.unpack("<8h", f.read(56)[40:])[:4] == (3, 8, 7, 6)
bad = run("nifti_tool", "-disp_hdr", "-infiles", "none.nii")
assert bad.returncode != 0, bad
procs = [subprocess.Popen(["nifti_tool", "-help"], stdout=subprocess.PIPE, text=True) for _ in range(4)]
assert all("nifti_tool" in p.communicate()[0] for p in procs)
print("done")
`

// TestMountPythonPipeline runs it as Nipype would run, with the variables that
// `neurodeskfs env` prints.
func TestMountPythonPipeline(t *testing.T) {
	needApptainer(t)
	requireTools(t, "python3")
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	file := filepath.Join(shortDir(t), "pipeline.py")
	if err := os.WriteFile(file, []byte(pipeline), 0o644); err != nil {
		t.Fatal(err)
	}
	c := m.Command("sh", "-ec", `. "$1/apps/niftitools/3.0.1/env"; exec python3 "$2"`, "sh", m.Dir, file)
	c.Dir = sampleDir(t)
	if r := run(t, c); r.Status != 0 || r.Stdout != "done\n" {
		t.Errorf("%+v", r)
	}
}
