package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// deployingImage makes a single-file image that wants two variables to be set on
// the host, one of them with a quote in it.
func deployingImage(t *testing.T) []byte {
	t.Helper()
	requireTools(t, "mksquashfs")
	dir := shortDir(t)
	script := filepath.Join(dir, "root/.singularity.d/env/90-environment.sh")
	err := os.MkdirAll(filepath.Dir(script), 0o755)
	if err == nil {
		err = os.WriteFile(script, []byte("#!/bin/sh\nexport DEPLOY_ENV_TOOLDIR=BASEPATH/opt/t\nexport DEPLOY_ENV_WORDS=\"it's here\"\n"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "image")
	if r := run(t, exec.Command("mksquashfs", filepath.Join(dir, "root"), file, "-all-root", "-no-progress")); r.Status != 0 {
		t.Fatal(r.Stderr)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMountVariablesOfOtherImages: what flat, unpacked, local and http images
// want to be set on the host reaches `neurodeskfs env` and both kinds of
// modules, and no listing opens an image for it.
func TestMountVariablesOfOtherImages(t *testing.T) {
	file := deployingImage(t)
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	tree.File("all/flattool:1--h_0", file, 0o755)
	tree.Nested("all")
	_, _, flat := s.publish(cvmfstest.Options{FQRN: "flat.example.org"}, tree)
	flat.Layout, flat.Path = "flat", "/all"
	tree = cvmfstest.NewTree()
	tree.File(".flat/aa/aa/.singularity.d/env/90-environment.sh", []byte("export DEPLOY_ENV_TOOLDIR=BASEPATH/opt/t DEPLOY_ENV_WORDS=\"it's here\"\n"), 0o755)
	tree.Symlink("reg.example.org/unpackedtool:1", "../.flat/aa/aa")
	_, _, unpacked := s.publish(cvmfstest.Options{FQRN: "unpacked.example.org"}, tree)
	unpacked.Layout = "unpacked"
	shelf, folder := shortDir(t), shortDir(t)
	for name, content := range map[string][]byte{
		shelf + "/httptool_1_20240101.simg": file, folder + "/localtool_1_20240101.simg": file, shelf + "/list.txt": []byte("httptool_1_20240101.simg\n"),
	} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	web := startFileServer(t, shelf)
	m := mount(t, setup{Sources: []source{flat, unpacked, {Kind: "dir", Path: folder}, shelfSource(web.addr)}})
	m.Indexed()
	lmod, tcl := lmodShell(t, m), tclShell(t, m)
	builds := map[string]string{"flattool": "1--h_0", "unpackedtool": "1", "localtool": "1_20240101", "httptool": "1_20240101"}
	data := s.Stats().Requests
	for _, r := range []result{lmod("module use $M/modules; module avail; module spider flattool"), tcl("module use $M/modules-tcl; module avail; module whatis")} {
		if r.Status != 0 {
			t.Errorf("%+v", r)
		}
	}
	names(t, m.Path("apps/flattool/1--h_0"))
	if n := s.Stats().Requests - data; n > 0 {
		t.Errorf("to list the modules took %d requests", n)
	}
	for app, build := range builds {
		dir := m.Path("apps", app, build, "rootfs/opt/t")
		if r := m.Run(program(t), "env", app); r.Status != 0 || r.Stdout != fmt.Sprintf("export TOOLDIR='%s'\nexport WORDS='it'\\''s here'\n", dir) {
			t.Errorf("env %s: %+v", app, r)
		}
		want := dir + " it's here\n[]\n"
		const load = "; module load $APP; echo $TOOLDIR $WORDS; module unload $APP; echo \"[$TOOLDIR$WORDS]\""
		if r := lmod("APP=" + app + "; module use $M/modules" + load); r.Stdout != want || r.Stderr != "" {
			t.Errorf("Lmod, %s: %+v, want %q", app, r, want)
		}
		if r := lmod("APP=" + app + "; module use $M/modules-tcl" + load); r.Stdout != want || r.Stderr != "" {
			t.Errorf("Lmod with Tcl, %s: %+v, want %q", app, r, want)
		}
		if r := tcl("APP=" + app + "; module use $M/modules-tcl" + load); r.Stdout != want || r.Stderr != "" {
			t.Errorf("Environment Modules, %s: %+v, want %q", app, r, want)
		}
	}
}
