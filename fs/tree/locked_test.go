package tree

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// TestLockedRevision: an image that the newest revision has lost is found by its lock, and by nothing less.
func TestLockedRevision(t *testing.T) {
	s := newSite(t, repository)
	const name = "fsl_6.0.7.4_20240101"
	first := s.open()
	complete(t, first)
	cmd, err := launch.ParseCommand([]byte(read(t, first, ".neurodeskfs/apps/fsl/6.0.7.4_20240101")))
	if err != nil {
		t.Fatal(err)
	}
	lock := launch.Locked{
		Name: "fsl", Version: "6.0.7.4", Date: "20240101", Image: "/containers/" + name + "/" + name + ".simg", Hash: cmd.Hash,
		Repository: fqrn, Revision: s.rev.Number, RootHash: s.rev.Root.String(),
	}
	first.Close()

	s.content.Remove("containers/" + name)
	if _, err := s.repo.Publish(t.Context(), s.content); err != nil {
		t.Fatal(err)
	}
	tree := s.open()
	complete(t, tree)
	mustBeAbsent(t, tree, "apps/fsl/6.0.7.4_20240101")
	at := ".neurodeskfs/locked/" + lock.Place()
	if got := read(t, tree, at+"/rootfs/etc/name"); got != name {
		t.Errorf("etc/name: %q", got)
	}
	got, err := launch.ParseCommand([]byte(read(t, tree, at+"/bin/fast")))
	want := cmd
	want.Command, want.Rootfs = "fast", "/m/"+at+"/rootfs"
	if got.Revision = want.Revision; err != nil || got.Format() == nil || string(got.Format()) != string(want.Format()) {
		t.Errorf("%v\n%s\nwant\n%s", err, got.Format(), want.Format())
	}
	if list := strings.Join(list(t, tree, at+"/bin"), " "); list != "bet fast python shared" {
		t.Errorf("bin: %s", list)
	}
	mustBeAbsent(t, tree, at+"/bin/none")
	mustBeAbsent(t, tree, at+"/none")
	if names := list(t, tree, ".neurodeskfs/locked"); len(names) > 0 {
		t.Errorf("locked lists %q", names)
	}
	if names := list(t, tree, ".neurodeskfs/images"); strings.Contains(strings.Join(names, " "), lock.Hash) {
		t.Error("what nobody signed stands among the images")
	}
	for what, change := range map[string]func(l *launch.Locked){
		"another hash":       func(l *launch.Locked) { l.Hash = strings.Repeat("0", 40) },
		"another repository": func(l *launch.Locked) { l.Repository = "other.example.org" },
		"another place":      func(l *launch.Locked) { l.Image = "/containers/" + name },
		"outside the images": func(l *launch.Locked) { l.Image = "/other/" + name + "/" + name + ".simg" },
		"no image":           func(l *launch.Locked) { l.Image = "/containers/none/none.simg" },
		"a nested catalog":   func(l *launch.Locked) { l.RootHash = l.Hash }, // no root catalog, though it is one of the repository's
		"no hash at all":     func(l *launch.Locked) { l.RootHash = "x-y" },
	} {
		bad := lock
		change(&bad)
		if _, err := walk(t.Context(), tree, ".neurodeskfs/locked/"+bad.Place()); err == nil {
			t.Errorf("%s: it is found", what)
		}
	}
	for _, name := range []string{"x", "a@b@c", "a@b@c@d", "@@@", lock.Hash} {
		mustBeAbsent(t, tree, ".neurodeskfs/locked/"+name)
	}
}

// TestSitePins: the configuration's pins shape bin, the default link and the modules.
func TestSitePins(t *testing.T) {
	s := newSite(t, repository)
	s.pins = map[string]string{"fsl": "6.0.7.4", "bidsapp": "0.1_20240701", "gone": "9"}
	tree := s.open()
	complete(t, tree)
	var l Listing
	if err := json.Unmarshal([]byte(read(t, tree, ".neurodeskfs/index.json")), &l); err != nil {
		t.Fatal(err)
	}
	owners := map[string]Decided{}
	for _, d := range l.Names {
		owners[d.Command] = d
	}
	for name, want := range map[string][2]string{
		"bet":          {"fsl/6.0.7.4_20240101", "the site pins fsl to 6.0.7.4_20240101"}, // both are pinned: the usual rules between them
		"fast":         {"fsl/6.0.7.4_20240101", "the site pins fsl to 6.0.7.4_20240101"},
		"dcm2niix":     {"bidsapp/0.1_20240701", "the site pins bidsapp to 0.1_20240701"},
		"new-in-build": {"fsl/6.0.7.16_20250501", "the only image that has it"},
		"goner":        {"gone/1.0_20230101", "the newest version of the only app that has it"},
	} {
		if d := owners[name]; d.Owner != want[0] || d.Reason != want[1] {
			t.Errorf("%s: %s because %s, want %q", name, d.Owner, d.Reason, want)
		}
	}
	if got := read(t, tree, "apps/fsl/default"); got != "6.0.7.4" {
		t.Errorf("fsl's default is %s", got)
	}
	if got := read(t, tree, "modules/fsl/.modulerc.lua"); !strings.Contains(got, "fsl/6.0.7.4\"") {
		t.Errorf("the modules' default: %s", got)
	}
	want := []Pinned{{"bidsapp", "0.1_20240701", "0.1_20240701"}, {"fsl", "6.0.7.4", "6.0.7.4_20240101"}, {"gone", "9", ""}}
	if len(l.Pins) != len(want) || l.Pins[0] != want[0] || l.Pins[1] != want[1] || l.Pins[2] != want[2] {
		t.Errorf("pins %+v", l.Pins)
	}
	if text := read(t, tree, ".neurodeskfs/conflicts.tsv"); !strings.Contains(text, "fast\tfsl/6.0.7.4_20240101\tthe site pins fsl to 6.0.7.4_20240101\tfsl/6.0.7.16_20240501\n") {
		t.Errorf("conflicts.tsv:\n%s", text)
	}
}
