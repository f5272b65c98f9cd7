package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// lmodInit is where Debian's lmod defines the module command.
const lmodInit = "/usr/share/lmod/lmod/init/bash"

// mountWithModules mounts the golden Neurodesk repository and returns what
// types lines into a shell that has Lmod.
func mountWithModules(t *testing.T) (m *mounted, typed func(lines string) result) {
	t.Helper()
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m = mount(t, setup{Sources: []source{src}})
	m.Indexed()
	return m, lmodShell(t, m)
}

// lmodShell types lines into a shell that has Lmod, with $M for the mount.
func lmodShell(t *testing.T, m *mounted) func(lines string) result {
	t.Helper()
	if _, err := os.Stat(lmodInit); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	home := shortDir(t) // Lmod keeps a cache there
	return func(lines string) result {
		t.Helper()
		c := exec.Command("bash", "--norc", "-c", ". "+lmodInit+"\n"+lines)
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "USER=" + os.Getenv("USER"), "LANG=C.UTF-8", "LMOD_PAGER=none", "M=" + m.Dir}
		return run(t, c)
	}
}

func TestMountModulesLoadWithLmod(t *testing.T) {
	m, typed := mountWithModules(t)
	r := typed("module use $M/modules && module load niftitools/3.0.1 && echo $NIFTIDIR && command -v nifti_tool && module unload niftitools && echo \"[$NIFTIDIR]\"")
	build := m.Path("apps/niftitools/3.0.1_20240310")
	want := build + "/rootfs/opt/nifti-3.0.1\n" + build + "/bin/nifti_tool\n[]\n"
	if r.Status != 0 || r.Stdout != want || r.Stderr != "" {
		t.Errorf("%+v, want %q", r, want)
	}
	r = typed("module use $M/modules; module load dcm2niix && command -v dcm2niix")
	if r.Stdout != m.Path("apps/dcm2niix/1.0.20220720_20250601/bin/dcm2niix")+"\n" {
		t.Errorf("the default: %+v", r)
	}
	r = typed("module use $M/modules; module help niftitools/3.0.1; module whatis niftitools/3.0.1")
	if !strings.Contains(r.Stderr+r.Stdout, "Image: niftitools_3.0.1_20240310") || strings.Contains(r.Stderr, "error") {
		t.Errorf("help: %+v", r)
	}
}

func TestMountModulesConflictAndRetire(t *testing.T) {
	_, typed := mountWithModules(t)
	r := typed("export LMOD_DISABLE_SAME_NAME_AUTOSWAP=yes; module use $M/modules; module load niftitools/3.0.1; module load niftitools/2024b; echo $?")
	if r.Stdout != "1\n" || r.Stderr == "" {
		t.Errorf("two versions: %+v", r)
	}
	r = typed("module use $M/modules; module load retiredtool/1.0; echo $?")
	if r.Stdout != "1\n" || !strings.Contains(strings.Join(strings.Fields(r.Stderr), " "), "was retired") {
		t.Errorf("a retired image: %+v", r)
	}
}

func TestMountModulesListEachVersionOnce(t *testing.T) {
	_, typed := mountWithModules(t)
	for _, dir := range []string{"modules", "modules-tcl"} {
		r := typed("module use $M/" + dir + "; module -t avail 2>&1")
		for _, name := range []string{"dcm2niix/1.0.20220720", "niftitools/3.0.1", "niftitools/r7771", "niftitools/2024b", "retiredtool/1.0"} {
			n := 0
			for line := range strings.Lines(r.Stdout) {
				if word, _, _ := strings.Cut(strings.TrimSpace(line), "("); word == name {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %s is listed %d times: %s", dir, name, n, r.Stdout)
			}
		}
	}
}

func TestMountModulesInTclLoad(t *testing.T) {
	m, typed := mountWithModules(t)
	r := typed("module use $M/modules-tcl && module load niftitools/3.0.1 && echo $NIFTIDIR && module load retiredtool/1.0; echo $?")
	if want := m.Path("apps/niftitools/3.0.1_20240310/rootfs/opt/nifti-3.0.1") + "\n1\n"; r.Stdout != want {
		t.Errorf("%+v, want %q", r, want)
	}
}

func TestMountEnvAndShell(t *testing.T) {
	m, _ := mountWithModules(t)
	dir := m.Path("apps/niftitools/3.0.1_20240310/rootfs/opt/nifti-3.0.1")
	if r := m.Run(program(t), "env", "niftitools/3.0.1"); r.Status != 0 || r.Stdout != "export NIFTIDIR='"+dir+"'\n" {
		t.Errorf("env: %+v", r)
	}
	if r := m.Run(program(t), "env", "niftitools/3.0.1", "--json"); r.Status != 0 || !strings.Contains(r.Stdout, `"NIFTIDIR": "`+dir+`"`) {
		t.Errorf("env --json: %+v", r)
	}
	if r := m.Run(program(t), "env", "retiredtool"); r.Status != 1 || !strings.Contains(r.Stderr, "was retired") {
		t.Errorf("env of a retired image: %+v", r)
	}
	c := m.Command(program(t), "shell", "niftitools/3.0.1")
	c.Stdin = strings.NewReader("ls -d /opt/nifti-3.0.1; exit 7\n")
	if r := run(t, c); r.Status != 7 || r.Stdout != "/opt/nifti-3.0.1\n" {
		t.Errorf("shell: %+v", r)
	}
}
