package integration

import (
	"encoding/json"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// apps mounts the golden Neurodesk repository.
func apps(t *testing.T) *mounted {
	t.Helper()
	src := newStratum(t).Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	return m
}

// wantRun runs a command and fails the test unless it ends with the status.
func wantRun(t *testing.T, status int, args ...string) result {
	t.Helper()
	r := neurodeskfs(t, args...)
	if r.Status != status {
		t.Errorf("neurodeskfs %q: exit status %d, want %d\nstdout: %s\nstderr: %s", args, r.Status, status, r.Stdout, r.Stderr)
	}
	if status != 0 && !strings.HasPrefix(lastLine(r.Stderr), "neurodeskfs: ") {
		t.Errorf("neurodeskfs %q: no reason on stderr: %q", args, r.Stderr)
	}
	return r
}

func lastLine(text string) string {
	text = strings.TrimSuffix(text, "\n")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// decode reads a command's JSON.
func decode[T any](t *testing.T, r result) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatalf("%v in %q (stderr %q)", err, r.Stdout, r.Stderr)
	}
	return v
}

// wantNarrow fails the test if a line is wider than a terminal, and is more
// than one word, which cannot be broken.
func wantNarrow(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 && len(strings.Fields(line)) > 1 {
			t.Errorf("%s: a line of %d columns: %s", what, n, line)
		}
	}
}

type cacheListing struct {
	Quota   int64 `json:"quota_bytes"`
	Used    int64 `json:"used_bytes"`
	Objects []struct {
		Key      string   `json:"key"`
		Size     int64    `json:"size_bytes"`
		LastUsed string   `json:"last_used"`
		Owners   []string `json:"pinned_by"`
	} `json:"objects"`
	Pins []struct {
		Owner   string `json:"owner"`
		Objects int    `json:"objects"`
		Absent  int    `json:"absent"`
	} `json:"pins"`
}

// TestCacheCommands runs each cache command with a mount, whose daemon then
// does the work, and again without one.
func TestCacheCommands(t *testing.T) {
	s := newStratum(t)
	sources := []source{s.Golden("alpha.golden.test")}
	m := mount(t, setup{Sources: sources})
	read := func(m *mounted) {
		t.Helper()
		if b, err := os.ReadFile(m.Raw("alpha.golden.test", "README.txt")); err != nil || len(b) == 0 {
			t.Fatalf("%q, %v", b, err)
		}
	}
	read(m)
	place := "--cache=" + m.Cache
	t.Run("mounted", func(t *testing.T) {
		checkCacheCommands(t, m.Cache, "--mount="+m.Dir)
		if got := m.Status(); got.IOErrors != 0 {
			t.Errorf("%d I/O errors", got.IOErrors)
		}
		read(m)
	})
	wantRun(t, 2, "cache", "list", "--mount="+m.Dir, place)
	m.Unmount()
	again := mount(t, setup{Sources: sources, Cache: m.Cache}) // whose kernel has nothing of it
	read(again)
	again.Unmount()
	t.Run("not mounted", func(t *testing.T) { checkCacheCommands(t, m.Cache, place) })
	for _, name := range []string{"list", "verify", "prune", "clear"} {
		r := wantRun(t, 1, "cache", name, "--cache="+filepath.Join(m.Cache, "absent"))
		if !strings.Contains(r.Stderr, "neurodeskfs mount") || exists(filepath.Join(m.Cache, "absent")) {
			t.Errorf("%s of no cache: %q", name, r.Stderr)
		}
		other := shortDir(t)
		if wantRun(t, 1, "cache", name, "--cache="+other); exists(filepath.Join(other, "VERSION")) {
			t.Errorf("%s made a cache", name)
		}
	}
}

func checkCacheCommands(t *testing.T, dir, place string) {
	l := decode[cacheListing](t, wantRun(t, 0, "cache", "list", "--json", place))
	if len(l.Objects) < 2 || l.Used <= 0 || l.Quota <= 0 {
		t.Fatalf("list: %+v", l)
	}
	if !slices.IsSortedFunc(l.Objects, func(a, b struct {
		Key      string   `json:"key"`
		Size     int64    `json:"size_bytes"`
		LastUsed string   `json:"last_used"`
		Owners   []string `json:"pinned_by"`
	}) int {
		return strings.Compare(b.LastUsed, a.LastUsed)
	}) {
		t.Errorf("list is not sorted by last use: %+v", l.Objects)
	}
	key := l.Objects[len(l.Objects)-1].Key
	wantRun(t, 1, "cache", "pin", place, "no key")
	wantRun(t, 0, "cache", "pin", place, key)
	r := wantRun(t, 0, "cache", "list", place)
	if !strings.Contains(r.Stdout, "pinned by user: 1 objects") || strings.Count(r.Stdout, "\n") != len(l.Objects)+3 {
		t.Errorf("list: %s", r.Stdout)
	}
	wantNarrow(t, "cache list", r.Stdout)
	r = wantRun(t, 0, "cache", "verify", place)
	if r.Stderr != "" || !strings.HasPrefix(r.Stdout, fmt.Sprintf("checked %d objects", len(l.Objects))) {
		t.Errorf("verify: %q, %q", r.Stdout, r.Stderr)
	}

	// Bit rot in an object.
	file := filepath.Join(dir, "objects", key[:2], key[2:])
	b, err := os.ReadFile(file)
	if err == nil {
		b[0] ^= 1
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r = wantRun(t, 1, "cache", "verify", place)
	if !strings.Contains(r.Stdout, "damaged, removed: "+key) || exists(file) {
		t.Errorf("verify after damage: %q", r.Stdout)
	}
	if r = wantRun(t, 0, "cache", "verify", "--json", place); !strings.Contains(r.Stdout, `"damaged": []`) {
		t.Errorf("the damage was found twice: %s", r.Stdout)
	}
	wantRun(t, 0, "cache", "unpin", place, key)

	wantRun(t, 0, "cache", "prune", place) // far below the quota
	if got := decode[cacheListing](t, wantRun(t, 0, "cache", "list", "--json", place)); len(got.Objects) != len(l.Objects)-1 {
		t.Errorf("prune without a size removed down to %d of %d", len(got.Objects), len(l.Objects))
	}
	wantRun(t, 2, "cache", "prune", place, "--to", "much")
	wantRun(t, 0, "cache", "pin", place, l.Objects[0].Key)
	wantRun(t, 0, "cache", "clear", place)
	got := decode[cacheListing](t, wantRun(t, 0, "cache", "list", "--json", place))
	if !slices.ContainsFunc(got.Pins, func(p struct {
		Owner   string `json:"owner"`
		Objects int    `json:"objects"`
		Absent  int    `json:"absent"`
	}) bool {
		return p.Owner == "user" && p.Objects == 1
	}) {
		t.Errorf("clear removed what was pinned: %+v", got)
	}
	wantRun(t, 0, "cache", "clear", "--all", place)
	if got = decode[cacheListing](t, wantRun(t, 0, "cache", "list", "--json", place)); len(got.Pins) != 0 {
		t.Errorf("clear --all: %+v", got)
	}
}

// TestOthersMayNotUseTheControlSocket needs root, to become somebody else.
func TestOthersMayNotUseTheControlSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	for _, name := range []string{"list", "verify", "clear"} {
		c := exec.Command("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", program(t), "cache", name, "--cache="+m.Cache)
		r := run(t, c)
		if r.Status != 1 || !strings.Contains(r.Stderr, "only the owner") {
			t.Errorf("%s: exit status %d, %q", name, r.Status, r.Stderr)
		}
	}
	before := m.Status()
	r := run(t, exec.Command("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", program(t), "upgrade", m.Dir))
	if r.Status != 1 || !strings.Contains(r.Stderr, "only the owner") || m.Status().Worker.PID != before.Worker.PID {
		t.Errorf("upgrade: exit status %d, %q", r.Status, r.Stderr)
	}
	r = run(t, exec.Command("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", program(t), "umount", m.Dir))
	if r.Status != 1 || !strings.Contains(r.Stderr, "another user's mount") || m.Status().PID != before.PID {
		t.Errorf("umount: exit status %d, %q", r.Status, r.Stderr)
	}
}

// TestRootLeavesNothingOfItsOwnInACache needs root, to work on another's cache.
func TestRootLeavesNothingOfItsOwnInACache(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	m := mount(t, setup{Sources: []source{newStratum(t).Golden("alpha.golden.test")}})
	m.Unmount()
	const nobody = 65534
	own := func(change bool) {
		err := filepath.WalkDir(m.Cache, func(path string, e iofs.DirEntry, err error) error {
			if err == nil && change {
				return os.Lchown(path, nobody, nobody)
			}
			info, err := os.Lstat(path)
			if err == nil && info.Sys().(*syscall.Stat_t).Uid != nobody {
				t.Errorf("%s is root's", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	own(true)
	if err := os.Remove(filepath.Join(m.Cache, "index.db")); err != nil {
		t.Fatal(err)
	}
	wantRun(t, 0, "cache", "verify", "--cache="+m.Cache)
	wantRun(t, 0, "cache", "clear", "--cache="+m.Cache)
	own(false)
}

func TestConfigShow(t *testing.T) {
	s := newStratum(t)
	_, file := setup{Sources: []source{s.Golden("alpha.golden.test")}, Quota: "3GiB"}.prepare(t)
	r := wantRun(t, 0, "config", "show", "--config", file)
	for _, want := range []string{`quota = "3GiB"  `, "# line 3\n", "# lines are those of " + file, "fqrn = \"alpha.golden.test\"", "proxies = \"DIRECT\"                        # default"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q in:\n%s", want, r.Stdout)
		}
	}
	if root := os.Geteuid() == 0; root != strings.Contains(r.Stdout, ", else root without capabilities # default\n") {
		t.Errorf("whom root's daemon serves as:\n%s", r.Stdout)
	}
	// What it prints is a configuration that means the same.
	again := filepath.Join(shortDir(t), "again.toml")
	if err := os.WriteFile(again, []byte(r.Stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	wantRun(t, 0, "config", "validate", again)
	type value struct {
		Key, Origin, File, Flag string
		Line                    int
		Value                   any
	}
	list := decode[[]value](t, wantRun(t, 0, "config", "show", "--json", "--config", file, "--cache", "/elsewhere"))
	if i := slices.IndexFunc(list, func(v value) bool { return v.Key == "dir" }); i < 0 || list[i].Flag != "--cache" || list[i].Value != "/elsewhere" {
		t.Errorf("%+v", list)
	}
	if r := wantRun(t, 0, "config", "show", "--config", "/dev/null"); strings.Count(r.Stdout, "# built-in") != 4 {
		t.Errorf("the Neurodesk repository:\n%s", r.Stdout)
	}
}

func TestSearchAndInfo(t *testing.T) {
	m := apps(t)
	place := "--mount=" + m.Dir
	type match struct {
		App      string
		Versions []string
		Commands []string
		Rank     int
	}
	type listed struct {
		App, Version, Date, Hash string
		Retired                  bool
		Commands                 []string
	}
	images := decode[[]listed](t, wantRun(t, 0, "list", "--json", place))
	var image listed
	for _, i := range images {
		if !i.Retired && len(i.Commands) > len(image.Commands) {
			image = i
		}
	}
	command := image.Commands[0]
	found := decode[[]match](t, wantRun(t, 0, "search", "--json", place, strings.ToUpper(command)))
	if len(found) == 0 || found[0].Rank != 0 || !strings.EqualFold(found[0].Commands[0], command) {
		t.Errorf("search %s: %+v", command, found)
	}
	found = decode[[]match](t, wantRun(t, 0, "search", "--json", place, image.App, command))
	if i := slices.IndexFunc(found, func(f match) bool { return f.App == image.App }); i < 0 {
		t.Errorf("search %s %s: %+v", image.App, command, found)
	}
	wantNarrow(t, "search", wantRun(t, 0, "search", place, "e").Stdout)
	wantNarrow(t, "list", wantRun(t, 0, "list", place).Stdout)
	wantRun(t, 1, "search", place, "nothing-is-named-so")

	type info struct {
		App, Version, Date, Hash, Repository, Image, Path, Rootfs, Readme string
		Revision                                                          uint64
		Builds                                                            []struct {
			Name    string
			Default bool
		}
		Commands []string
	}
	for _, i := range images {
		build := i.App + "/" + i.Version + "_" + i.Date
		got := decode[info](t, wantRun(t, 0, "info", "--json", place, build))
		if got.Hash != i.Hash || len(got.Commands) != len(i.Commands) || got.Path != m.Path("apps", build) || got.Repository != "neurodesk.golden.test" || got.Revision == 0 {
			t.Errorf("info %s: %+v, the list has %+v", build, got, i)
		}
		if !exists(got.Path) || got.Rootfs != "" && !exists(got.Rootfs) {
			t.Errorf("info %s: %s or %s is not there", build, got.Path, got.Rootfs)
		}
		text := wantRun(t, 0, "info", place, build).Stdout
		wantNarrow(t, "info "+build, text)
		for _, r := range text {
			if r < 0x20 && r != '\n' || r == 0x7f {
				t.Errorf("info %s: a control character %q", build, r)
			}
		}
	}
	got := decode[info](t, wantRun(t, 0, "info", "--json", place, image.App))
	if !slices.ContainsFunc(got.Builds, func(b struct {
		Name    string
		Default bool
	}) bool {
		return b.Default && b.Name == got.Version+"_"+got.Date
	}) {
		t.Errorf("info %s is not about the default: %+v", image.App, got)
	}
	if r := wantRun(t, 1, "info", place, "nothing"); !strings.Contains(r.Stderr, "neurodeskfs search") {
		t.Errorf("%q", r.Stderr)
	}
}

func TestManualPages(t *testing.T) {
	dir := shortDir(t)
	wantRun(t, 0, "man", dir)
	pages, _ := filepath.Glob(filepath.Join(dir, "*.1"))
	if len(pages) < 20 {
		t.Errorf("%d pages", len(pages))
	}
	if groff, err := exec.LookPath("groff"); err == nil {
		for _, page := range pages {
			if r := run(t, exec.Command(groff, "-man", "-Tutf8", "-ww", page)); r.Status != 0 || r.Stderr != "" {
				t.Errorf("%s: %s", page, r.Stderr)
			}
		}
	}
	wantRun(t, 2, "man", filepath.Join(dir, "absent"))
}
