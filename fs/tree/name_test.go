package tree

import (
	"slices"
	"strings"
	"testing"
	"unicode"

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
		{"a\u009b2J", "", ""},  // CSI, as one character
		{"a\u202egnp", "", ""}, // turns the writing direction
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

// FuzzTexts: whatever a commands.txt and an env.txt hold, the names in the tree are
// names, and a shell that reads env on the host sets variables and does nothing else.
func FuzzTexts(f *testing.F) {
	f.Add("bet\n/opt/b/run\n..\nx/y\r\n\x1b[2J")
	f.Add("DEPLOY_ENV_X=BASEPATH/it's\nDEPLOY_ENV_A;reboot=1\nDEPLOY_ENV_LD_PRELOAD=BASEPATH/x.so\nDEPLOY_ENV_Q=$(reboot)`x`\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		seen := map[string]bool{}
		for _, c := range ParseCommands(text) {
			if c.Name == "" || c.Name == "." || c.Name == ".." || seen[c.Name] || strings.ContainsFunc(c.Name, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }) {
				t.Errorf("the command %q", c.Name)
			}
			if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
				t.Errorf("%q is at %q", c.Name, c.Path)
			}
			seen[c.Name] = true
		}
		for _, v := range variables([]byte(text), "/m/rootfs") {
			if !identifier(v.name) || steersHost(v.name) || strings.ContainsFunc(v.value, unicode.IsControl) {
				t.Errorf("the variable %q is %q", v.name, v.value)
			}
		}
	})
}
