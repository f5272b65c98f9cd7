package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// repository has an image of each kind that occurs.
func repository(tree *cvmfstest.Tree) {
	addContainer(tree, "fsl_6.0.7.4_20240101", "bet\nfast\nshared\npython\n")
	addContainer(tree, "fsl_6.0.7.16_20240501", "bet\nfast\nshared\n")
	addContainer(tree, "fsl_6.0.7.16_20250501", "bet\nnew-in-build\n")
	addContainer(tree, "bidsapp_0.1_20240701", "shared\nbet\ndcm2niix\na\nb\nc\n.DS_Store\n++\n-console\n.11\npython\n/opt/run.sh\nbet\nwith space\n")
	addContainer(tree, "dcm2niix_1.0_20240101", "dcm2niix\ndcm2niibatch\nw\nx\ny\nz\nq\nr\ns\nt\nu\nv\n")
	addContainer(tree, "retiredtool_1.0_20220202", "retiredtool\nold\n")
	tree.Remove("containers/retiredtool_1.0_20220202/retiredtool_1.0_20220202.simg")
	addContainer(tree, "gone_1.0_20230101", "goner\n") // its newest version is retired
	addContainer(tree, "gone_2.0_20240101", "goner\n")
	tree.Remove("containers/gone_2.0_20240101/gone_2.0_20240101.simg")
	tree.File("containers/unpublished_1_20240101/README.md", nil, 0o644)
	tree.File("containers/modules/fsl/6.lua", nil, 0o644)
	tree.File("containers/odd_file_20240101", nil, 0o644)
	// an image whose tree has no catalog of its own
	plain := "containers/plain_1_20240101"
	tree.File(plain+"/commands.txt", []byte("plaincmd\n"), 0o644)
	tree.File(plain+"/env.txt", []byte("DEPLOY_ENV_PLAINDIR=BASEPATH/opt/it's here\nDEPLOY_ENV_1BAD=x\nOTHER=y\nDEPLOY_ENV_EMPTY=\nno equals sign\nDEPLOY_ENV_Q=$(reboot)`x`\r\n"), 0o644)
	tree.File(plain+"/plain_1_20240101.simg/bin/plaincmd", []byte("#!/bin/sh\n"), 0o755)
}

func TestTheTree(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	for path, want := range map[string]string{
		"":                              ".neurodeskfs apps bin cvmfs modules modules-tcl share",
		"bin":                           "a b bet c dcm2niibatch dcm2niix fast goner new-in-build old plaincmd q r retiredtool run.sh s shared t u v w x y z",
		"apps":                          "bidsapp dcm2niix fsl gone plain retiredtool",
		"apps/fsl":                      "6.0.7.16 6.0.7.16_20240501 6.0.7.16_20250501 6.0.7.4 6.0.7.4_20240101 default",
		"apps/fsl/6.0.7.4_20240101":     "README.md bin env rootfs",
		"apps/bidsapp/0.1_20240701/bin": "++ -console .11 .DS_Store a b bet c dcm2niix python run.sh shared with space",
		"apps/retiredtool/1.0_20220202": "README.md bin env",
		"cvmfs":                         fqrn,
		"cvmfs/" + fqrn:                 "containers",
		".neurodeskfs":                  "apps conflicts.tsv images index.json launch.json launcher locked starts status.json version",
		".neurodeskfs/apps/fsl":         "6.0.7.16_20240501 6.0.7.16_20250501 6.0.7.4_20240101",
	} {
		if got := strings.Join(list(t, tree, path), " "); got != want {
			t.Errorf("ls %q:\n got %s\nwant %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"apps/fsl/default":                    "6.0.7.16",
		"apps/fsl/6.0.7.16":                   "6.0.7.16_20250501",
		"apps/fsl/6.0.7.4":                    "6.0.7.4_20240101",
		"apps/gone/default":                   "1.0", // the newest that still has its image
		"apps/retiredtool/default":            "1.0",
		"apps/fsl/6.0.7.4_20240101/README.md": "about fsl_6.0.7.4_20240101\n",
		"apps/fsl/6.0.7.4_20240101/env":       "",
		"apps/plain/1_20240101/env":           "export PLAINDIR='/m/apps/plain/1_20240101/rootfs/opt/it'\\''s here'\nexport EMPTY=''\nexport Q='$(reboot)`x`'\n",
		".neurodeskfs/version":                "v1\n",
		".neurodeskfs/launcher":               "\x7fELF launcher",
		".neurodeskfs/launch.json":            "{}\n",
	} {
		if got := read(t, tree, path); got != want {
			t.Errorf("%s:\n got %q\nwant %q", path, got, want)
		}
	}
	for _, path := range []string{
		"bin/python", "bin/.DS_Store", "bin/++", "bin/-console", "bin/.11", "bin/with space", "bin/none", "none",
		"apps/unpublished", "apps/modules", "apps/odd", "apps/fsl/7", "apps/fsl/6.0.7.4_20240102", "apps/none",
		"apps/fsl/6.0.7.4_20240101/none", "apps/fsl/6.0.7.4_20240101/bin/none", "apps/retiredtool/1.0_20220202/rootfs",
		"cvmfs/none.example.org", ".neurodeskfs/none", ".neurodeskfs/images/" + strings.Repeat("0", 40), ".neurodeskfs/apps/fsl/none",
	} {
		mustBeAbsent(t, tree, path)
	}
	if p := tree.Progress(); p != (Progress{Apps: 6, Commands: 24, Pending: 0}) {
		t.Errorf("progress %+v", p)
	}
}

func TestCommandFilesSayWhatRuns(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	for name, want := range map[string]string{
		"bet": "fsl 6.0.7.16 20250501", "fast": "fsl 6.0.7.16 20240501", "shared": "fsl 6.0.7.16 20240501",
		"dcm2niix": "dcm2niix 1.0 20240101", "goner": "gone 1.0 20230101", "run.sh": "bidsapp 0.1 20240701", "plaincmd": "plain 1 20240101",
	} {
		c, err := launch.ParseCommand([]byte(read(t, tree, "bin/"+name)))
		if got := c.App + " " + c.Version + " " + c.Date; err != nil || got != want || c.Command != name || c.Launcher != "/m/.neurodeskfs/launcher" || c.Retired != "" {
			t.Errorf("%s is %s, want %s (%+v, %v)", name, got, want, c, err)
		}
		if a := find(t, tree, "bin/"+name).Attr; a.Mode != unix.S_IFREG|0o755 || a.MTime <= 0 {
			t.Errorf("%s: %+v", name, a)
		}
		rootfs := strings.TrimPrefix(c.Rootfs, "/m/")
		app := c.App + "_" + c.Version + "_" + c.Date
		if c.App != "plain" && read(t, tree, rootfs+"/etc/name") != app {
			t.Errorf("%s runs in %s, not in %s", name, c.Rootfs, app)
		}
		if link := read(t, tree, "apps/"+c.App+"/"+c.Version+"_"+c.Date+"/rootfs"); link != "../../../"+rootfs {
			t.Errorf("%s: rootfs is %s", name, link)
		}
	}
	if c, _ := launch.ParseCommand([]byte(read(t, tree, "bin/run.sh"))); c.Path != "/opt/run.sh" {
		t.Errorf("run.sh is %q in the image", c.Path)
	}
	c, err := launch.ParseCommand([]byte(read(t, tree, "bin/retiredtool")))
	if err != nil || !strings.Contains(c.Retired, "no longer holds its image (retiredtool_1.0_20220202)") || c.Rootfs != "" {
		t.Errorf("a retired command: %+v, %v", c, err)
	}
}

func TestIndexAndConflicts(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	var l Listing
	if err := json.Unmarshal([]byte(read(t, tree, ".neurodeskfs/index.json")), &l); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(l.Names, func(d Decided) bool { return d.Command == "bet" })
	want := Decided{"bet", "fsl/6.0.7.16_20250501", "the app exposes the fewest commands (5)", []string{"fsl/6.0.7.16_20240501", "fsl/6.0.7.4_20240101", "bidsapp/0.1_20240701"}}
	if d := l.Names[i]; d.Command != want.Command || d.Owner != want.Owner || d.Reason != want.Reason || !slices.Equal(d.Others, want.Others) {
		t.Errorf("bet: %+v", d)
	}
	if l.Pending != 0 || len(l.Images) != 9 || len(l.Names) != 24 {
		t.Errorf("%d images, %d names, %d pending", len(l.Images), len(l.Names), l.Pending)
	}
	conflicts := read(t, tree, ".neurodeskfs/conflicts.tsv")
	lines := strings.Split(strings.TrimSuffix(conflicts, "\n"), "\n")
	for _, l := range lines {
		if strings.Count(l, "\t") != 3 {
			t.Errorf("conflicts.tsv has the line %q", l)
		}
	}
	if lines[0] != "command\towner\treason\tothers" || len(lines) != 6 { // bet, dcm2niix, fast, goner, shared
		t.Errorf("conflicts.tsv:\n%s", conflicts)
	}
	if !strings.Contains(conflicts, "\ndcm2niix\tdcm2niix/1.0_20240101\tthe app has the command's own name\tbidsapp/0.1_20240701\n") {
		t.Errorf("conflicts.tsv:\n%s", conflicts)
	}
}

// TestGeneratedFilesAreFrozen: each look-up of status.json is a node of its own.
func TestGeneratedFilesAreFrozen(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	first := find(t, tree, ".neurodeskfs/status.json")
	if first.Valid != 0 {
		t.Errorf("status.json may be believed for %s", first.Valid)
	}
	for range keepFrozen {
		if c := find(t, tree, ".neurodeskfs/status.json"); c.Entry == first.Entry {
			t.Fatal("two look-ups gave one node")
		}
	}
	if _, err := tree.Stat(t.Context(), first.Entry); !errors.Is(err, volume.ErrStale) {
		t.Errorf("the oldest is kept for ever: %v", err)
	}
}

// TestNodesOutliveTheTree opens a second tree over the same table, with
// nothing fetched yet, as a restarted daemon does.
func TestNodesOutliveTheTree(t *testing.T) {
	s := newSite(t, repository)
	first := s.open()
	complete(t, first)
	paths := []string{
		"bin", "apps", "cvmfs", "apps/fsl", "apps/fsl/default", "apps/fsl/6.0.7.4_20240101/bin", "apps/fsl/6.0.7.4_20240101/rootfs",
		"bin/bet", "apps/plain/1_20240101/env", ".neurodeskfs/launcher", ".neurodeskfs/version", "cvmfs/" + fqrn + "/containers",
	}
	before := map[string]volume.Child{}
	text := map[string]string{}
	for _, p := range paths {
		before[p] = find(t, first, p)
		if before[p].Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
			text[p] = read(t, first, p)
		}
	}
	first.Close()
	second := s.open()
	for _, p := range paths { // by number, before any look-up
		if before[p].Volume.Key() != second.Key() {
			continue
		}
		a, err := second.Stat(t.Context(), before[p].Entry)
		if err != nil || a.Mode != before[p].Attr.Mode || a.Size != before[p].Attr.Size {
			t.Errorf("%s after a restart: %+v, %v", p, a, err)
		}
	}
	complete(t, second)
	for _, p := range paths {
		c := find(t, second, p)
		if c.Entry != before[p].Entry || c.Volume.Key() != before[p].Volume.Key() {
			t.Errorf("%s was node %d, is %d", p, before[p].Entry, c.Entry)
		}
		if want, ok := text[p]; ok && read(t, second, p) != want {
			t.Errorf("%s reads otherwise after a restart", p)
		}
	}
}

// TestTheIndexIsKept: a second start reads no container's directory again.
func TestTheIndexIsKept(t *testing.T) {
	s := newSite(t, repository)
	complete(t, s.open())
	s.server.Reset()
	complete(t, s.open())
	// The manifest, the whitelist, the certificate, the root catalog, since the
	// second store is empty; no container's catalog.
	if n := s.server.Stats().Requests; n != 4 {
		t.Errorf("the second start made %d requests", n)
	}
}

func TestChangesAreTold(t *testing.T) {
	s := newSite(t, repository)
	tree := s.open()
	complete(t, tree)
	told := <-s.changes
	want := map[uint64]string{}
	for _, p := range []string{"bin", "apps", "modules", "modules-tcl", desktopDir, directoryDir, menuDir} {
		want[find(t, tree, p).Entry] = p
	}
	if len(told) != len(want) {
		t.Errorf("told of %+v, want %v", told, want)
	}
	for _, n := range told {
		if want[n.Entry] == "" {
			t.Errorf("told of node %d, want %v", n.Entry, want)
		}
	}
	if a := find(t, tree, "bin").Attr; time.Since(time.Unix(a.MTime, 0)) > time.Minute {
		t.Errorf("bin's mtime is %d", a.MTime)
	}
}

func TestWrongUseOfNodes(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	file, link, dir := find(t, tree, "bin/bet"), find(t, tree, "apps/fsl/default"), find(t, tree, "bin")
	ctx := t.Context()
	if _, err := tree.Lookup(ctx, file.Entry, "x"); !errors.Is(err, volume.ErrNotDir) {
		t.Errorf("look-up below a file: %v", err)
	}
	if _, err := tree.Readlink(ctx, dir.Entry); !errors.Is(err, volume.ErrNotLink) {
		t.Errorf("readlink of a directory: %v", err)
	}
	if _, err := tree.ReadAt(ctx, dir.Entry, make([]byte, 9), 0); !errors.Is(err, volume.ErrIsDir) {
		t.Errorf("read of a directory: %v", err)
	}
	if n, err := tree.ReadAt(ctx, file.Entry, make([]byte, 9), 1<<40); n != 0 || err != nil {
		t.Errorf("read past the end: %d, %v", n, err)
	}
	if _, err := tree.Xattr(ctx, link.Entry, "user.x"); !errors.Is(err, volume.ErrNoXattr) {
		t.Errorf("xattr: %v", err)
	}
	for _, entry := range []uint64{0, 1 << 38, frozenBase, frozenBase + 99, volume.MaxEntry} {
		if _, err := tree.Stat(ctx, entry); !errors.Is(err, volume.ErrStale) {
			t.Errorf("entry %d: %v", entry, err)
		}
	}
}

// TestImagesThatAreGoneAreForgotten, when there are many of them; but not those of the
// revision before.
func TestImagesThatAreGoneAreForgotten(t *testing.T) {
	s := newSite(t, func(tree *cvmfstest.Tree) { addContainer(tree, "fsl_6_20240101", "bet\n") })
	tree := s.open()
	complete(t, tree)
	kept := func() (n int) {
		s.memo.Each(infoMemo, func(string, []byte) { n++ })
		return n
	}
	for i := range maxGone {
		s.memo.Put(infoMemo, fmt.Sprintf("gone%d", i), []byte("{}"))
	}
	move := func(commands string) {
		s.content.File("containers/fsl_6_20240101/commands.txt", []byte(commands), 0o644)
		s.publish()
		if _, err := tree.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	move("bet\nfast\n")
	if n := kept(); n != maxGone+2 {
		t.Errorf("%d images are remembered, want %d", n, maxGone+2)
	}
	before := tree.index.Load().order[0].key
	move("bet\nflirt\n") // the first revision's image is one too many
	if n := kept(); n != 2 {
		t.Errorf("%d images are remembered, want 2", n)
	}
	for _, key := range []string{before, tree.index.Load().order[0].key} {
		if _, ok := s.memo.Get(infoMemo, key); !ok {
			t.Errorf("%s is forgotten", key)
		}
	}
}
