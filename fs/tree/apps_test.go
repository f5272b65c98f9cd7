package tree

import (
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestARetiredBuildGivesWayToOneOfItsVersion: where the newest build of a version was
// retired and an older one was not, that version's name means the older one, in apps,
// in modules, and for a site's pin.
func TestARetiredBuildGivesWayToOneOfItsVersion(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) {
		for _, name := range []string{"tool_1.0_20240101", "tool_1.0_20250101", "tool_0.9_20230101"} {
			addContainer(tree, name, "command\n")
		}
		tree.Remove("containers/tool_1.0_20250101/tool_1.0_20250101.simg")
	})
	for _, s.pins = range []map[string]string{nil, {"tool": "1.0"}} {
		tree := s.open()
		complete(t, tree)
		for path, want := range map[string]string{
			"apps/tool/1.0":           "1.0_20240101",
			"apps/tool/default":       "1.0",
			"modules/tool/1.0.lua":    `"/m/apps/tool/1.0_20240101/bin"`,
			"modules-tcl/tool/1.0":    `"/m/apps/tool/1.0_20240101/bin"`,
			"bin/command":             "date: 20240101\n",
			".neurodeskfs/index.json": `{"command":"command","owner":"tool/1.0_20240101"`,
		} {
			if got := read(t, tree, path); !strings.Contains(got, want) {
				t.Errorf("pins %v: %s holds %s\nwant %s", s.pins, path, got, want)
			}
		}
		tree.Close()
	}
}
