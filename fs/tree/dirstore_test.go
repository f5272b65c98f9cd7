package tree

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// openFolder is the tree over a folder of the host.
func openFolder(t *testing.T, dir string, public bool, memo *memMemo) *Tree {
	t.Helper()
	tree := openSources(t, []*Source{{Dir: dir, Name: "local", Folder: true, Public: public}}, memo, nil)
	complete(t, tree)
	return tree
}

// openSources is the tree over folders, whose index begins with begin.
func openSources(t *testing.T, sources []*Source, memo *memMemo, begin <-chan struct{}) *Tree {
	t.Helper()
	table := openTable(t, filepath.Join(t.TempDir(), "nodes"))
	images := image.New(nil, table, func() []string { return nil })
	t.Cleanup(images.Close)
	tree, err := New(Options{
		Sources: sources, Images: images, Table: table, Memo: memo, Begin: begin,
		Mountpoint: "/m", Launcher: NewLauncher([]byte("\x7fELF")), Status: func() []byte { return nil }, Version: "v1", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

// put makes a file of the host, with the folders above it.
func put(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, []byte(text), mode)
	}
	if err == nil {
		err = os.Chmod(name, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openTempDir is a new directory that everybody may enter.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFolderShowsOthersWhatTheyMayRead: on a mount for everybody, neither an image
// nor a text beside it is shown that not everybody may read, be it for its own mode
// or for that of a folder above it, also where a link leads to it.
func TestFolderShowsOthersWhatTheyMayRead(t *testing.T) {
	top := openTempDir(t)
	dir := filepath.Join(top, "images")
	put(t, dir+"/plain_1.0.sif", "x", 0o644)
	put(t, dir+"/own_1.0.sif", "x", 0o600)
	put(t, dir+"/closed_1_20240101/closed_1_20240101.sif", "x", 0o644)
	put(t, top+"/private/x.sif", "x", 0o644)
	put(t, dir+"/texts_1_20240101/texts_1_20240101.sif", "x", 0o644)
	put(t, dir+"/texts_1_20240101/README.md", "secret", 0o600)
	put(t, dir+"/texts_1_20240101/env.txt", "DEPLOY_ENV_X=secret\n", 0o600)
	put(t, dir+"/texts_1_20240101/commands.txt", "secret\n", 0o600)
	for _, closed := range []string{dir + "/closed_1_20240101", top + "/private"} {
		if err := os.Chmod(closed, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../private/x.sif", dir+"/linked_1.0.sif"); err != nil {
		t.Fatal(err)
	}
	s := dirStore{source: "local", dir: dir, public: true}
	for name, refused := range map[string]string{
		"plain_1.0.sif": "", "own_1.0.sif": "own_1.0.sif", "closed_1_20240101": "closed_1_20240101", "linked_1.0.sif": "private", "texts_1_20240101": "",
	} {
		c, ok := s.container(name)
		_, err := c.rootfs(t.Context())
		switch {
		case !ok:
			t.Errorf("%s is no image", name)
		case refused == "" && err != nil, refused != "" && (!errors.Is(err, image.ErrRefused) || !strings.Contains(err.Error(), " "+filepath.Join(top, "images", refused)+",") && !strings.Contains(err.Error(), " "+filepath.Join(top, refused)+",")):
			t.Errorf("%s: %v", name, err)
		}
		for _, text := range []string{"README.md", "env.txt", "commands.txt"} {
			if b, err := c.text(t.Context(), text); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("%s: %s is %q, %v", name, text, b, err)
			}
		}
		if !c.about().silent {
			t.Errorf("%s has a commands.txt", name)
		}
	}
	own := dirStore{source: "local", dir: dir}
	c, _ := own.container("texts_1_20240101")
	if b, err := c.text(t.Context(), "README.md"); err != nil || string(b) != "secret" || c.about().silent {
		t.Errorf("on one's own mount: %q, %v", b, err)
	}
	if err := CheckFolder(filepath.Join(top, "private"), true); !errors.Is(err, image.ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := os.Symlink(top+"/private", top+"/way"); err != nil {
		t.Fatal(err)
	}
	if err := CheckFolder(top+"/way", true); !errors.Is(err, image.ErrRefused) {
		t.Errorf("through a link: %v", err)
	}
}

// TestFolderTextsThatAreNone: a pipe or a directory where a text is looked for, or
// one that is too long, holds nobody up, and the rest is listed.
func TestFolderTextsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for _, app := range []string{"pipe", "folder", "long"} {
		put(t, dir+"/"+app+"_1_20240101/"+app+"_1_20240101.sif", "x", 0o644)
	}
	if err := errors.Join(unix.Mkfifo(dir+"/pipe_1_20240101/README.md", 0o644), unix.Mkfifo(dir+"/pipe_1_20240101/commands.txt", 0o644),
		os.Mkdir(dir+"/folder_1_20240101/README.md", 0o755)); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/long_1_20240101/README.md", strings.Repeat("x", maxText+1), 0o644)
	tree := openFolder(t, dir, false, &memMemo{})
	for app, want := range map[string]string{
		"pipe": "bin env image.sif rootfs", "folder": "bin env image.sif rootfs", "long": "README.md bin env image.sif rootfs",
	} {
		listed := make(chan []string, 1)
		go func() { listed <- list(t, tree, "apps/"+app+"/1_20240101") }()
		select {
		case got := <-listed:
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %q", app, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the listing waits", app)
		}
	}
}

// TestSandboxCommandsAreSeenAnew: what was installed into a root tree of the host
// is found, by a refresh and by the next mount, though nothing in its name or in
// the folder tells of it.
func TestSandboxCommandsAreSeenAnew(t *testing.T) {
	dir, memo := t.TempDir(), &memMemo{}
	bin := dir + "/tool_1.0/usr/local/bin/"
	put(t, dir+"/tool_1.0/.singularity.d/x", "", 0o644)
	put(t, bin+"one", "#!/bin/sh\n", 0o755)
	tree := openFolder(t, dir, false, memo)
	has := func(tree *Tree, want string) {
		t.Helper()
		if got := strings.Join(list(t, tree, "apps/tool/1.0/bin"), " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	has(tree, "one")
	put(t, bin+"two", "#!/bin/sh\n", 0o755)
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(tree, "one two")
	put(t, bin+"three", "#!/bin/sh\n", 0o755)
	has(openFolder(t, dir, false, memo), "one three two")
}

// TestRootTreesOfAFolder: an unpacked image without .singularity.d is known by its
// shell, whatever links lead to that inside; a link to the host's says nothing.
func TestRootTreesOfAFolder(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/alpine_3/bin/box", "x", 0o755)
	put(t, dir+"/merged_1/usr/bin/sh", "x", 0o755)
	put(t, dir+"/documents/text", "x", 0o644)
	for name, to := range map[string]string{"alpine_3/bin/sh": "/bin/box", "merged_1/bin": "/usr/bin", "documents/bin": "/bin"} {
		if err := os.Symlink(to, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(list(t, openFolder(t, dir, false, &memMemo{}), "apps"), " "); got != "alpine merged" {
		t.Error(got)
	}
}

// TestWatchFolderBehindLinks: what a link in the folder leads to is an image of it,
// so that its replacement is told too.
func TestWatchFolderBehindLinks(t *testing.T) {
	top := t.TempDir()
	put(t, top+"/store/v1.sif", "one", 0o644)
	put(t, top+"/store/box_1_20240101/box_1_20240101.sif", "one", 0o644)
	if err := os.Mkdir(top+"/images", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"tool_1.sif": "../store/v1.sif", "box_1_20240101": "../store/box_1_20240101"} {
		if err := os.Symlink(to, top+"/images/"+name); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	told, ended := make(chan struct{}, 10), make(chan struct{})
	go func() {
		defer close(ended)
		WatchFolder(ctx, top+"/images", func() { told <- struct{}{} })
	}()
	defer func() { stop(); <-ended }()
	next := func(what string) {
		t.Helper()
		select {
		case <-told:
		case <-time.After(20 * time.Second):
			t.Fatalf("not told: %s", what)
		}
	}
	next("what it is at the beginning")
	for _, name := range []string{"v1.sif", "box_1_20240101/box_1_20240101.sif"} {
		put(t, top+"/store/new", "another", 0o644)
		if err := os.Rename(top+"/store/new", top+"/store/"+name); err != nil {
			t.Fatal(err)
		}
		next(name)
	}
}

// TestFolderTellsWhyAnImageIsRefused: the command of an image that not everybody may
// read says so, until it is opened to all; there is no tree, and nothing beside
// fails for it.
func TestFolderTellsWhyAnImageIsRefused(t *testing.T) {
	dir := openTempDir(t)
	put(t, dir+"/silent_1.0.sif", "x", 0o600)
	put(t, dir+"/told_1_20240101/told_1_20240101.sif", "x", 0o600)
	put(t, dir+"/told_1_20240101/commands.txt", "told\nother\n", 0o644)
	memo := &memMemo{}
	tree := openFolder(t, dir, true, memo)
	for round, reason := range []string{"chmod o+r ", "chmod o+r ", ""} {
		for _, at := range []string{"bin/silent", "bin/told", "bin/other", "apps/silent/1.0/bin/silent", "apps/told/1/bin/other"} {
			at = strings.Replace(at, "told/1/", "told/1_20240101/", 1)
			if got := read(t, tree, at); strings.Contains(got, "chmod o+r ") != (reason != "") {
				t.Errorf("round %d: %s:\n%s", round, at, got)
			}
		}
		want := "README.md bin env image.sif rootfs"
		if reason != "" {
			want = "bin env image.sif"
			mustBeAbsent(t, tree, "apps/silent/1.0/rootfs")
		}
		if got := strings.Join(list(t, tree, "apps/told/1_20240101"), " "); got != strings.TrimPrefix(want, "README.md ") {
			t.Errorf("round %d: %s", round, got)
		}
		switch round {
		case 0: // a refresh that changes nothing
			if changes, err := tree.Refresh(t.Context()); err != nil || len(changes) != 0 {
				t.Errorf("%v, %v", changes, err)
			}
		case 1:
			if err := errors.Join(os.Chmod(dir+"/silent_1.0.sif", 0o644), os.Chmod(dir+"/told_1_20240101/told_1_20240101.sif", 0o644)); err != nil {
				t.Fatal(err)
			}
			changes, err := tree.Refresh(t.Context())
			var names []string
			for _, c := range changes {
				names = append(names, c.Names...)
			}
			if err != nil || !strings.Contains(strings.Join(names, " "), "other") {
				t.Errorf("%q, %v", names, err)
			}
		}
	}
}

// TestRenamedImageTellsItsName: the command of an image that was given another name
// says the new one; the kernel is told that the text is another.
func TestRenamedImageTellsItsName(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/tool_1.0.sif", "x", 0o644)
	tree := openFolder(t, dir, false, &memMemo{})
	if got := read(t, tree, "bin/tool"); !strings.Contains(got, dir+"/tool_1.0.sif\n") {
		t.Error(got)
	}
	if err := os.Rename(dir+"/tool_1.0.sif", dir+"/tool_1.1.sif"); err != nil {
		t.Fatal(err)
	}
	changes, err := tree.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, c := range changes {
		told = told || c.Dir == find(t, tree, "bin").Node && strings.Join(c.Names, " ") == "tool"
	}
	if got := read(t, tree, "bin/tool"); !told || !strings.Contains(got, "version: 1.1\n") || !strings.Contains(got, dir+"/tool_1.1.sif\n") {
		t.Errorf("told: %v\n%s", told, got)
	}
}

// TestCheckFolder: a file in place of a folder is called one, whatever its mode.
func TestCheckFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.sif")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, public := range []bool{false, true} {
		if err := CheckFolder(file, public); err == nil || !strings.Contains(err.Error(), "is no folder") {
			t.Errorf("public %v: %v", public, err)
		}
	}
}

// TestABuildWithoutADateIsItsVersion: where one folder has tool_1.0 and another
// tool_1.0_20240101, apps/tool/1.0 can be the former only, so that bin, default,
// modules and a site's pin mean that one too.
func TestABuildWithoutADateIsItsVersion(t *testing.T) {
	plain, dated := t.TempDir(), t.TempDir()
	put(t, plain+"/tool_1.0.sqsh", "hsqs", 0o644)
	put(t, dated+"/tool_1.0_20240101.sqsh", "hsqs", 0o644)
	put(t, dated+"/tool_1.0_20250101.sqsh", "hsqs", 0o644)
	folder := func(name, dir string) *Source { return &Source{Dir: dir, Name: name, Folder: true} }
	tree := openSources(t, []*Source{folder("a", plain), folder("b", dated)}, &memMemo{}, nil)
	complete(t, tree)
	if got := read(t, tree, "apps/tool/default"); got != "1.0" {
		t.Errorf("default is %s", got)
	}
	if got := read(t, tree, "modules/tool/1.0.lua"); !strings.Contains(got, `"/m/apps/tool/1.0/bin"`) {
		t.Errorf("the module is of another build:\n%s", got)
	}
	o, _, err := tree.index.Load().owner(t.Context(), "tool")
	if err != nil || o.Winner.build() != "tool/1.0" || o.Others[0].build() != "tool/1.0_20250101" {
		t.Errorf("bin has %s, then %+v: %v", o.Winner.build(), o.Others, err)
	}
	list, _, err := tree.index.Load().app(t.Context(), "tool")
	if m := (pins{"tool": "1.0"}).of("tool", list); err != nil || m.build() != "1.0" {
		t.Errorf("a pin is of %s: %v", m.build(), err)
	}
}
