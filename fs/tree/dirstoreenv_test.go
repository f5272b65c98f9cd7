package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestVariablesOutOfTheImage: an image of a local folder says itself what is to
// be set on the host, where no env.txt lies beside it.
func TestVariablesOutOfTheImage(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"tool_1_20240101/.singularity.d/env/90-environment.sh":  "#!/bin/sh\nexport DEPLOY_PATH=/opt/t/bin\nexport DEPLOY_ENV_TOOLDIR=BASEPATH/opt/t\nexport DEPLOY_ENV_LD_PRELOAD=/x\n",
		"plain_1_20240101/.singularity.d/env/90-environment.sh": "#!/bin/sh\nexport PATH=/bin\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, func(*cvmfstest.Tree) {})
	s.folders = []*Source{{Dir: dir, Name: "folder", Folder: true}}
	tree := s.open()
	complete(t, tree)
	if got, want := read(t, tree, "apps/tool/1_20240101/env"), "export TOOLDIR='/m/apps/tool/1_20240101/rootfs/opt/t'\n"; got != want {
		t.Errorf("env: %q, want %q", got, want)
	}
	if got, want := read(t, tree, "modules/tool/1.lua"), "io.open(\"/m/apps/tool/1_20240101/env\")\n"; !strings.Contains(got, want) {
		t.Errorf("the module lacks %q: %q", want, got)
	}
	if got := strings.Join(list(t, tree, "apps/tool/1_20240101"), " "); !strings.Contains(got, "env") {
		t.Errorf("ls: %s", got)
	}
	mustBeAbsent(t, tree, ".neurodeskfs/images/"+tree.index.Load().named("tool", "1_20240101").info.ImageID) // nor has it a file whose bytes could be summed
	if got := read(t, tree, "apps/plain/1_20240101/env"); got != "" {
		t.Errorf("env of an image without variables: %q", got)
	}
}

// TestVariablesThatSteerTheHost: what a module sets must not make the host's own programs run an image's files.
func TestVariablesThatSteerTheHost(t *testing.T) {
	var text strings.Builder
	for _, name := range strings.Fields("PATH LD_PRELOAD BASH_ENV PYTHONPATH PYTHONSTARTUP PERL5LIB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS R_PROFILE_USER LESSOPEN VISUAL MODULEPATH APPTAINER_BINDPATH SINGULARITYENV_X NEURODESK_LOCK neurodesk_singularity_opts ZDOTDIR MAKEFILES XDG_CONFIG_HOME VIMINIT OPENSSL_CONF GTK_MODULES FSLDIR SPMMCRCMD FORCE_SPMMCR DEEPWMH_MODEL_DIR FREESURFER_HOME") {
		text.WriteString("DEPLOY_ENV_" + name + "=BASEPATH/x\n")
	}
	var names []string
	for _, v := range variables([]byte(text.String()), "/r") {
		names = append(names, v.name)
	}
	if got := strings.Join(names, " "); got != "FSLDIR SPMMCRCMD FORCE_SPMMCR DEEPWMH_MODEL_DIR FREESURFER_HOME" {
		t.Errorf("%s", got)
	}
}
