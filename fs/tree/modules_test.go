package tree

import (
	"slices"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

const testApps = `{
 "fsl": {"apps": {"fsl 6.0.7.16": {"version": "20250501", "exec": ""},
   "fsleyesGUI-fsl 6.0.7.16": {"version": "20250501", "exec": "bet"},
   "odd GUI-fsl 6.0.7.4": {"version": "20240101", "exec": "bash run.sh '/opt/a b/' $HOME 100%"},
   "unbalancedGUI-fsl 6.0.7.4": {"version": "20240101", "exec": "bash 'x"},
   "goneGUI-fsl 9": {"version": "20240101", "exec": "bet"}},
   "categories": ["functional imaging", "Q<&>\n\"x\""]},
 "retiredtool": {"apps": {"oldGUI-retiredtool 1.0": {"version": "20220202", "exec": "old"}}, "categories": ["functional imaging"]},
 "plain": {"apps": {"plainGUI-plain 1": {"version": "20240101", "exec": "plaincmd"}}, "categories": ["spine"], "show_in_menu": false}}`

func listedRepository(tree *cvmfstest.Tree) {
	repository(tree)
	tree.File("neurocommand/neurodesk/apps.json", []byte(testApps), 0o644)
	tree.File("neurocommand/cvmfs/log.txt", []byte("plain_1_20240101 categories:spine,body,\nnot a line\n"), 0o644)
	tree.File("containers/plain_1_20240101/README.md", []byte("# plain\r\n]] \"quoted\" $x [y] {\n"), 0o644)
}

func TestModules(t *testing.T) {
	tree := newSite(t, listedRepository).open()
	complete(t, tree)
	for path, want := range map[string]string{
		"modules":         "bidsapp dcm2niix fsl gone plain retiredtool",
		"modules-tcl":     "bidsapp dcm2niix fsl gone plain retiredtool",
		"modules/fsl":     ".modulerc.lua 6.0.7.16.lua 6.0.7.4.lua",
		"modules-tcl/fsl": ".modulerc .version 6.0.7.16 6.0.7.4",
	} {
		if got := strings.Join(list(t, tree, path), " "); got != want {
			t.Errorf("ls %q:\n got %s\nwant %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"modules/fsl/.modulerc.lua":     "module_version(\"fsl/6.0.7.16\", \"default\")\n",
		"modules-tcl/fsl/.modulerc":     "#%Module1.0\nmodule-version \"fsl/6.0.7.16\" default\n",
		"modules-tcl/gone/.version":     "#%Module1.0\nset ModulesVersion \"1.0\"\n",
		"modules/fsl/6.0.7.16.lua":      "-- -*- lua -*-\nhelp([[\nabout fsl_6.0.7.16_20250501\n]])\nwhatis(\"Name: fsl\")\nwhatis(\"Version: 6.0.7.16\")\nwhatis(\"Image: fsl_6.0.7.16_20250501\")\nwhatis(\"Category: Q<&> \\\"x\\\", functional imaging\")\nif type(extensions) == \"function\" then\n    extensions(\"bet/6.0.7.16, new-in-build/6.0.7.16\")\nend\nconflict(\"fsl\")\nprepend_path(\"PATH\", \"/m/apps/fsl/6.0.7.16_20250501/bin\")\n",
		"modules/plain/1.lua":           "-- -*- lua -*-\nhelp([=[\n# plain\n]] \"quoted\" $x [y] {\n]=])\nwhatis(\"Name: plain\")\nwhatis(\"Version: 1\")\nwhatis(\"Image: plain_1_20240101\")\nwhatis(\"Category: body, spine\")\nif type(extensions) == \"function\" then\n    extensions(\"plaincmd/1\")\nend\nconflict(\"plain\")\nprepend_path(\"PATH\", \"/m/apps/plain/1_20240101/bin\")\nsetenv(\"PLAINDIR\", \"/m/apps/plain/1_20240101/rootfs/opt/it's here\")\nsetenv(\"EMPTY\", \"\")\nsetenv(\"Q\", \"$(reboot)`x`\")\n",
		"modules-tcl/plain/1":           "#%Module1.0\nproc ModulesHelp { } {\n    puts stderr \"# plain\\012\\]\\] \\\"quoted\\\" \\$x \\[y\\] \\{\\012\"\n}\nmodule-whatis \"Name: plain\"\nmodule-whatis \"Version: 1\"\nmodule-whatis \"Image: plain_1_20240101\"\nmodule-whatis \"Category: body, spine\"\nconflict \"plain\"\nprepend-path PATH \"/m/apps/plain/1_20240101/bin\"\nsetenv PLAINDIR \"/m/apps/plain/1_20240101/rootfs/opt/it's here\"\nsetenv EMPTY \"\"\nsetenv Q \"\\$(reboot)`x`\"\n",
		"modules/bidsapp/.modulerc.lua": "module_version(\"bidsapp/0.1\", \"default\")\n",
	} {
		if got := read(t, tree, path); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	for _, path := range []string{"modules/none", "modules/fsl/6.0.7.16", "modules/fsl/6.0.7.16_20250501.lua", "modules/fsl/.modulerc", "modules-tcl/fsl/6.0.7.16.lua", "modules/unpublished"} {
		mustBeAbsent(t, tree, path)
	}
	bids := read(t, tree, "modules/bidsapp/0.1.lua")
	for _, name := range []string{".DS_Store", "++/", "-console", "python", "with space"} {
		if strings.Contains(bids, name) {
			t.Errorf("%s is an extension: %s", name, bids)
		}
	}
}

func TestRetiredModulesFailToLoad(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	for path, want := range map[string]string{
		"modules/retiredtool/1.0.lua": "if mode() == \"load\" then\n    LmodError(\"retiredtool/1.0 was retired: the repository",
		"modules-tcl/retiredtool/1.0": "if {[module-info mode load]} {\n    puts stderr \"retiredtool/1.0 was retired: the repository",
		"modules/gone/2.0.lua":        "LmodError",
	} {
		if got := read(t, tree, path); !strings.Contains(got, want) || strings.Contains(strings.ToLower(got), "path(") {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// TestModulesFollowTheRevision looks at what the kernel is told to forget.
func TestModulesFollowTheRevision(t *testing.T) {
	s := newSite(t, listedRepository)
	tree := s.open()
	complete(t, tree)
	before := read(t, tree, "modules/fsl/6.0.7.4.lua")
	for _, path := range []string{"modules/fsl", "modules-tcl/fsl", "modules/plain", "modules"} {
		list(t, tree, path)
	}
	addContainer(s.content, "fsl_6.0.7.4_20260101", "bet\n")
	addContainer(s.content, "newapp_1_20260101", "newcmd\n")
	s.content.File("neurocommand/cvmfs/log.txt", []byte("plain_1_20240101 categories:body,\n"), 0o644)
	s.publish()
	changes, err := tree.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range changes {
		record, err := tree.record(c.Dir.Entry)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(c.Names)
		got[strings.TrimPrefix(record, dirRecord(""))] = c.Names
	}
	for path, want := range map[string]string{
		"modules": "newapp", "modules/fsl": "6.0.7.4.lua", "modules-tcl/fsl": "6.0.7.4", "modules/plain": "1.lua",
	} {
		if names := strings.Join(got[path], " "); names != want {
			t.Errorf("%s: changed %q, want %q", path, names, want)
		}
	}
	if after := read(t, tree, "modules/fsl/6.0.7.4.lua"); after == before || !strings.Contains(after, "6.0.7.4_20260101/bin") {
		t.Errorf("the module is still %s", after)
	}
}

func TestBrokenListsSayNothing(t *testing.T) {
	tree := newSite(t, func(c *cvmfstest.Tree) {
		repository(c)
		c.File("neurocommand/neurodesk/apps.json", []byte(`{"fsl": [`), 0o644)
	}).open()
	complete(t, tree)
	if got := read(t, tree, "modules/fsl/6.0.7.4.lua"); strings.Contains(got, "Category") || !strings.Contains(got, "prepend_path") {
		t.Error(got)
	}
}

// TestOptionsOfTheLists: what apps.json wants the runtime to be given stands in the command files of that very build, and
// follows the revision.
func TestOptionsOfTheLists(t *testing.T) {
	lists := func(args string) []byte {
		return []byte(`{"fsl": {"apps": {"fsl 6.0.7.16": {"version": "20250501", "exec": "", "apptainer_args": ` + args + `},
			"fsleyesGUI-fsl 6.0.7.4": {"version": "20240101", "apptainer_args": ["--gui-only"]},
			"fsl 6.0.7.4": {"version": 3, "apptainer_args": ["--odd"]}, "fsl": {}, "x y": []}}, "other": {}}`)
	}
	s := newSite(t, func(tree *cvmfstest.Tree) {
		repository(tree)
		tree.File("neurocommand/neurodesk/apps.json", lists(`["--writable-tmpfs", "", "--env", "A=b c"]`), 0o644)
	})
	tree := s.open()
	complete(t, tree)
	const want = "\nargs: [\"--writable-tmpfs\",\"--env\",\"A=b c\"]\n"
	for _, path := range []string{"bin/bet", "apps/fsl/6.0.7.16_20250501/bin/bet", ".neurodeskfs/apps/fsl/6.0.7.16_20250501"} {
		if got := read(t, tree, path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, path := range []string{"bin/fast", "apps/fsl/6.0.7.4_20240101/bin/bet", "bin/dcm2niix"} {
		if got := read(t, tree, path); strings.Contains(got, "args:") {
			t.Errorf("%s: %s", path, got)
		}
	}
	s.content.File("neurocommand/neurodesk/apps.json", lists(`["--nv"]`), 0o644)
	s.publish()
	changes, err := tree.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, tree, "bin/bet"); !strings.Contains(got, "\nargs: [\"--nv\"]\n") {
		t.Errorf("after the refresh: %s", got)
	}
	if !slices.ContainsFunc(changes, func(c volume.Change) bool { return slices.Contains(c.Names, "bet") }) {
		t.Errorf("the kernel is not told: %v", changes)
	}
}
