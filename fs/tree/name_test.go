package tree

import (
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

func TestExposed(t *testing.T) {
	for _, c := range []struct{ line, name, abs string }{
		{"bet\n", "bet", ""},
		{"  bet \r\n", "bet", ""},
		{"/opt/run.sh\n", "run.sh", "/opt/run.sh"},
		{"/opt//x/../run.sh", "run.sh", "/opt/run.sh"},
		{"/opt/dir/", "dir", "/opt/dir"},
		{"with space", "with space", ""},
		{".DS_Store", ".DS_Store", ""},
		{"++", "++", ""},
		{"-console", "-console", ""},
		{"ümlaut", "ümlaut", ""},
		{strings.Repeat("x", 255), strings.Repeat("x", 255), ""},
		{"", "", ""},
		{"\n", "", ""},
		{"/", "", ""},
		{"/..", "", ""},
		{".", "", ""},
		{"..", "", ""},
		{"dir/bet", "", ""},
		{"../bet", "", ""},
		{"a\tb", "", ""},
		{"a\x00b", "", ""},
		{"a\x1bb", "", ""},
		{"a\x7fb", "", ""},
		{"/opt/a\rb", "", ""},
		{strings.Repeat("x", 256), "", ""},
	} {
		name, abs, ok := exposed(c.line)
		if name != c.name || abs != c.abs || ok != (c.name != "") {
			t.Errorf("%.30q: %.30q, %q, %v", c.line, name, abs, ok)
		}
	}
}

func TestParseCommandsTakesEachNameOnce(t *testing.T) {
	got := ParseCommands("bet\n/opt/b/run\n\nbet\n/usr/run\r\nx/y\nlast")
	want := []Command{{Name: "bet"}, {"run", "/opt/b/run"}, {Name: "last"}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestPlausible(t *testing.T) {
	never := neverSet(DefaultNever)
	for _, name := range []string{
		"bet", "dcm2niix", "3dcalc", "3dTstat", "@auto_tlrc", "hd-bet", "N4BiasFieldCorrection", "mri_convert.bin",
		"5ttgen", "run_spm12.sh", "fsl_sub", "Atropos", "afni_proc.py", "1d_tool.py", "R2star", "pythonista", "lsdyna", "catalog", "a",
	} {
		if !plausible(name, never) {
			t.Errorf("%q is not shown in bin", name)
		}
	}
	for _, name := range []string{
		"", ".DS_Store", ".11", "++", "-console", "-ctrl.py", "with space", "a/b", "a\nb", "123", "7.1", "$HOME", "a;b", "a*", "a'b", "ümlaut", "a\\b", "a|b", "a&b", "(a)", "a<b", "a\"b", "#a", "!a",
		"python", "python3", "python3.11", "python2.7", "R", "Rscript", "R-4.3", "julia", "julia-1.9", "bash", "sh", "conda", "pip", "pip3", "pip3.10",
		"ls", "cat", "curl", "perl5.36.0", "tclsh8.6", "2to3", "2to3-3.11", "gcc-12", "g++-12", "node18", "[", "env", "test", "pydoc3.11", "idle3.11", "php8.2", "lua5.4", "apptainer", "bwrap", "mpirun", "srun",
	} {
		if plausible(name, never) {
			t.Errorf("%q is shown in bin", name)
		}
	}
	if !plausible("curl", neverSet(nil)) {
		t.Error("the list of names that never stand in bin is not the caller's")
	}
}

func TestSameName(t *testing.T) {
	for _, c := range []struct {
		app, command string
		want         bool
	}{
		{"dcm2niix", "dcm2niix", true}, {"hdbet", "hd-bet", true}, {"hd_bet", "HD-BET", true},
		{"fsl", "fslmaths", false}, {"spm12", "spm", false}, {"", "-", true},
	} {
		if launch.SameName(c.app, c.command) != c.want {
			t.Errorf("SameName(%q, %q) is not %v", c.app, c.command, c.want)
		}
	}
}

func TestIdentifier(t *testing.T) {
	for _, good := range []string{"A", "_", "FSLDIR", "a1", "_9"} {
		if !identifier(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", "1A", "A-B", "A B", "A;B", "A\n", "É", "A=B", "A$B"} {
		if identifier(bad) {
			t.Errorf("%q is taken", bad)
		}
	}
}
