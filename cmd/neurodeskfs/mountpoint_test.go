package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShebangCheck(t *testing.T) {
	room := 255 - len("#!"+launcherSuffix+"\n")
	for _, c := range []struct {
		mountpoint string
		limit      int
		want       string // "": it can be mounted on
	}{
		{"/neurodesk", 255, ""}, {"/", 255, ""}, {"/über", 255, ""}, {"/a'b\"c", 255, ""},
		{"/" + strings.Repeat("x", room-1), 255, ""},
		{"/" + strings.Repeat("x", room), 255, "1 bytes too long"},
		{"/" + strings.Repeat("x", room), 127, "129 bytes too long, for this kernel reads 127 bytes"},
		{"/with blank", 255, "has a blank"}, {"/with\ttab", 255, "has a blank"}, {"/with\nline", 255, "has a blank"}, {"/end ", 255, "has a blank"},
	} {
		err := checkShebang(c.mountpoint, c.limit)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || exitStatus(err) != exitUsage) {
			t.Errorf("%.30q: %v", c.mountpoint, err)
		}
	}
	if n := shebangLimit(); n != 127 && n != 255 {
		t.Errorf("this kernel reads %d bytes", n)
	}
}

func TestOverlaps(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"m/sub", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"link": "m", "loop": "loop", "into": "m/sub"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"m", "m", true}, {"m", "m/sub", true}, {"m", "m/sub/not/there/yet", true}, {"m", "link/sub", true}, {"link", "m/sub", true}, {"m", "into", true}, {"m", "into/not/yet", true},
		{"m", "cache", false}, {"m/sub", "m", false}, {"m", "mm", false}, {"m", "m2/sub", false}, {"m", "m/../cache", false}, {"m", "..m", false}, {".", "m", true}, {"m", "loop/x", false},
	} {
		if got := overlaps(filepath.Join(dir, c.outer), filepath.Join(dir, c.inner)); got != c.want {
			t.Errorf("%s is in %s: %v", c.inner, c.outer, got)
		}
	}
	if !overlaps("/", dir) {
		t.Errorf("%s is not in /", dir)
	}
}

func TestCheckMountpoint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if got, err := checkMountpoint(".", "/nowhere/cache"); got != dir || err != nil {
		t.Errorf("a relative mount point: %s, %v", got, err)
	}
	for _, c := range []struct{ mountpoint, cache, want string }{
		{"none", "/c", "does not exist: mkdir -p " + dir + "/none"}, {"file", "/c", "is not a directory"}, {"file/x", "/c", "mount point"},
		{".", dir + "/cache", "would hide the cache"}, {".", dir, "would hide the cache"}, {".", filepath.Dir(dir), "lies in the cache"},
	} {
		_, err := checkMountpoint(c.mountpoint, c.cache)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitStatus(err) != exitUsage {
			t.Errorf("%s with the cache %s: %v", c.mountpoint, c.cache, err)
		}
	}
}

func TestReadOwnWithoutAMount(t *testing.T) {
	_, err := readOwn(t.TempDir(), "status.json")
	if err == nil || exitStatus(err) != exitNoMount {
		t.Errorf("%v", err)
	}
	if exitStatus(errors.New("x")) != exitFailure {
		t.Error("an unknown error has no status 1")
	}
}

func TestUnknownCommands(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", ""}, {"mount x", ""}, {"cache info --json", ""}, {"help", ""}, {"help mount", ""}, {"__complete st", ""}, {"__completeNoDesc st", ""}, {"--version", ""}, {"cache --help", ""}, {"exec fsl -- bet", ""},
		{"bogus", `there is no command "neurodeskfs bogus" (see neurodeskfs --help)`},
		{"stat", `did you mean status`}, {"cache inf", `did you mean info`}, {"config x y", `"neurodeskfs config x"`}, {"completion ksh", `"neurodeskfs completion ksh"`},
	} {
		err := checkCommand(newRoot(), strings.Fields(c.args))
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || exitStatus(err) != exitUsage) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
