package launch

import (
	"errors"
	"os"
	"path"
	"reflect"
	"strings"
	"testing"
)

func lockedBet() Locked {
	return Locked{
		Name: "fsl", Version: "6.0.7.22", Date: "20260416", Image: "/containers/fsl_6.0.7.22_20260416/fsl_6.0.7.22_20260416.simg",
		Hash: strings.Repeat("ab", 20), Repository: "neurodesk.ardc.edu.au", Revision: 12345, RootHash: strings.Repeat("cd", 20) + "-shake128",
	}
}

func TestLockRoundTrip(t *testing.T) {
	l := Lock{Apps: []Locked{
		lockedBet(),
		{Name: "local", Version: "a b'\"ü\\", Image: "/data/x.sif", Hash: "12", SHA256: strings.Repeat("0f", 32)},
		{Name: "unlocked", Version: "1"},
		{Name: "flat", Version: "1:2--3", Image: "/all/100%/a:b@c", Hash: "a", Repository: "r", RootHash: "b"},
	}}
	text, err := l.Format()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLock(text)
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("%v\n got %+v\nwant %+v\n%s", err, got, l, text)
	}
	for _, a := range got.Apps {
		if a.RootHash == "" {
			continue
		}
		p, ok := ParsePlace(a.Place())
		if !ok || p.Hash != a.Hash || p.RootHash != a.RootHash || p.Repository != a.Repository || p.Image != a.Image || strings.Contains(a.Place(), "/") {
			t.Errorf("%s: %+v, %v", a.Place(), p, ok)
		}
	}
}

func TestParseLockRefuses(t *testing.T) {
	good, err := Lock{Apps: []Locked{lockedBet()}}.Format()
	if err != nil {
		t.Fatal(err)
	}
	line := func(key, value string) string {
		var out []string
		for l := range strings.Lines(string(good)) {
			if strings.HasPrefix(l, key+" = ") {
				l = key + " = " + value + "\n"
			}
			out = append(out, l)
		}
		return strings.Join(out, "")
	}
	for name, c := range map[string]struct{ text, says string }{
		"no TOML":               {"[[app]\n", "line 2"},
		"a number for a text":   {line("version", "6"), "version"},
		"no name":               {"[[app]]\nversion = \"1\"\n", "name"},
		"a name that leads out": {line("name", `"../fsl"`), "name"},
		"a version of dots":     {line("version", `".."`), "version"},
		"a newline":             {line("version", `"1\n2"`), "version"},
		"a date that is none":   {line("date", `"../x"`), "date"},
		"a relative image":      {line("image", `"containers/x"`), "image"},
		"an image with dots":    {line("image", `"/containers/../x"`), "image"},
		"a hash with a slash":   {line("hash", `"ab/cd"`), "hash"},
		"an odd sha256":         {line("hash", `"ab"`+"\nsha256 = \"0g\""), "sha256"},
		"an odd root hash":      {line("root_hash", `"ab@cd"`), "root_hash"},
		"an odd repository":     {line("repository", `"a/b"`), "repository"},
		"a root hash alone":     {line("hash", `""`), "root_hash has no use"},
		"too long a path":       {line("image", `"/`+strings.Repeat("x", 300)+`"`), "too long"},
		"twice":                 {string(good) + strings.TrimPrefix(string(good), lockComment), "twice"},
		"a negative revision":   {line("revision", "-1"), "revision"},
		"too large":             {strings.Repeat("#\n", MaxLockFile), "larger"},
	} {
		if _, err := ParseLock([]byte(c.text)); !errors.Is(err, ErrLock) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if l, err := ParseLock([]byte("future = 1\n[[app]]\nname = \"a\"\nversion = \"1\"\nother = [1]\n")); err != nil || len(l.Apps) != 1 {
		t.Errorf("keys of a newer program: %+v, %v", l, err)
	}
}

// TestFindLock: the nearest one holds, no automounter is woken, and nobody else's word counts.
func TestFindLock(t *testing.T) {
	const text = "[[app]]\nname = \"fsl\"\nversion = \"1\"\nhash = \"ab\"\n"
	for name, c := range map[string]struct {
		prepare func(h *testHost)
		want    string
		says    string
	}{
		"none":  {func(*testHost) {}, "", ""},
		"here":  {func(h *testHost) { h.file("/work/d/neurodesk.lock", 0o644, text) }, "/work/d/neurodesk.lock", ""},
		"above": {func(h *testHost) { h.file("/work/neurodesk.lock", 0o644, text) }, "/work/neurodesk.lock", ""},
		"the nearest": {func(h *testHost) {
			h.file("/work/neurodesk.lock", 0o644, "broken")
			h.file("/work/d/neurodesk.lock", 0o644, text)
		}, "/work/d/neurodesk.lock", ""},
		"a directory": {func(h *testHost) { h.dir("/work/d/neurodesk.lock") }, "", ""},
		"a link": {func(h *testHost) {
			h.file("/work/real.lock", 0o644, text)
			h.link("../real.lock", "/work/d/neurodesk.lock")
		}, "/work/d/neurodesk.lock", ""},
		"a link that leads nowhere": {func(h *testHost) {
			h.file("/work/neurodesk.lock", 0o644, text)
			h.link("../.git/annex/objects/k", "/work/d/neurodesk.lock")
		}, "", "is a link to what cannot be read"},
		"not asked of the automounter": {func(h *testHost) {
			h.file("/work/neurodesk.lock", 0o644, text)
			h.MountInfo = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /work rw - autofs x rw\n3 2 0:3 / /work/d rw - nfs x rw\n"
		}, "", ""},
		"below the automounter's": {func(h *testHost) {
			h.file("/work/d/neurodesk.lock", 0o644, text)
			h.MountInfo = "2 1 0:2 / /work rw - autofs x rw\n3 2 0:3 / /work/d rw - nfs x rw\n"
		}, "/work/d/neurodesk.lock", ""},
		"the variable":           {func(h *testHost) { h.Env = append(h.Env, "NEURODESK_LOCK=../l"); h.file("/work/l", 0o666, text) }, "/work/l", ""},
		"everybody may write it": {func(h *testHost) { h.file("/work/neurodesk.lock", 0o644, text); h.mode("/work/neurodesk.lock", 0o666) }, "", "everybody may write"},
		"another's, in a sticky directory": {func(h *testHost) {
			h.file("/work/neurodesk.lock", 0o644, text)
			h.mode("/work", 0o777|os.ModeSticky)
			h.UID = os.Getuid() + 1
			h.foreign = true
		}, "", "another user's"},
		"another's, in his own directory": {func(h *testHost) {
			h.file("/work/neurodesk.lock", 0o644, text)
			h.UID = os.Getuid() + 1
		}, "/work/neurodesk.lock", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.UID = os.Getuid()
			c.prepare(h)
			if h.foreign && os.Getuid() == 0 {
				if err := os.Chown(path.Join(h.root, "/work/neurodesk.lock"), 12345, 12345); err != nil {
					t.Fatal(err)
				}
			}
			got, err := h.FindLock()
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%q, %v, want %q", got, err, c.says)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func (h *testHost) mode(name string, mode os.FileMode) {
	h.t.Helper()
	if err := os.Chmod(path.Join(h.root, name), mode); err != nil {
		h.t.Fatal(err)
	}
}

// showImage puts an image into the test's mount, as the daemon shows it: below apps, or from a lock's revision.
func (h *testHost) showImage(l Locked, current bool, commands ...string) {
	h.t.Helper()
	c := Command{Launcher: "/nd/.neurodeskfs/launcher", App: l.Name, Version: l.Version, Date: l.Date, Hash: l.Hash, Rootfs: "/nd/.neurodeskfs/images/" + l.Hash + "/rootfs"}
	dir, description := path.Join("/nd/apps", l.Name, l.Build()), path.Join("/nd/.neurodeskfs/apps", l.Name, l.Build())
	if !current {
		dir = path.Join("/nd/.neurodeskfs/locked", l.Place())
		description = path.Join(dir, "description")
		c.App, c.Rootfs = "as-the-daemon-calls-it", dir+"/rootfs"
	}
	for _, name := range commands {
		c.Command = name
		h.file(path.Join(dir, "bin", name), 0o755, string(c.Format()))
	}
	c.Command = "sh"
	h.file(description, 0o644, string(c.Format()))
}

func TestApplyPins(t *testing.T) {
	fsl, old := lockedBet(), lockedBet()
	old.Version, old.Hash = "5", strings.Repeat("05", 20)
	ants := Locked{Name: "ants", Version: "2", Date: "20250101", Hash: "a2"}
	gone := lockedBet()
	gone.Name, gone.Hash = "gone", strings.Repeat("99", 20)
	for name, c := range map[string]struct {
		lock    []Locked
		env     string
		command string // that M/bin gives to fsl 6.0.7.22
		want    string // APP/VERSION, "" = as M/bin has it
		warns   bool
		code    int
	}{
		"nothing pinned":                {nil, "", "bet", "", false, 0},
		"the lock, today's":             {[]Locked{fsl}, "", "bet", "fsl/6.0.7.22", false, 0},
		"the lock, of its revision":     {[]Locked{old}, "", "bet", "fsl/5", false, 0},
		"the owner goes first":          {[]Locked{ants, old}, "", "bet", "fsl/5", false, 0},
		"another app of the lock":       {[]Locked{ants}, "", "bet", "ants/2", false, 0},
		"its own name":                  {[]Locked{fsl, ants}, "", "ants", "ants/2", false, 0},
		"the locked owner lacks it":     {[]Locked{old}, "", "newer", "", false, StatusNotFound},
		"but another locked app has it": {[]Locked{old, {Name: "ants", Version: "2", Date: "20250101", Hash: "a2"}}, "", "ants", "ants/2", false, 0},
		"another locked app lacks it":   {[]Locked{ants}, "", "newer", "", false, 0},
		"the variable":                  {nil, "ants=2", "bet", "ants/2", false, 0},
		"the variable, by build":        {nil, "ants=2_20250101", "bet", "ants/2", false, 0},
		"the lock before the variable":  {[]Locked{old}, "ants=2 fsl=6.0.7.22", "bet", "fsl/5", false, 0},
		"a pinned owner that is absent": {nil, "fsl=9", "bet", "", false, StatusError},
		"another pin that is absent":    {nil, "ants=9", "bet", "", true, 0},
		"a locked owner that is gone":   {[]Locked{{Name: "fsl", Version: "1", Hash: "zz"}}, "", "bet", "", false, StatusRetired},
		"gone from the revision too":    {[]Locked{gone}, "", "gone", "", false, StatusRetired},
		"another lock that is gone":     {[]Locked{gone}, "", "bet", "", true, 0},
		"no hash":                       {[]Locked{{Name: "fsl", Version: "1"}}, "", "bet", "", false, StatusError},
		"nonsense":                      {nil, "fsl", "bet", "", false, StatusError},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.UID = os.Getuid()
			h.showImage(fsl, true, "bet", "newer", "ants", "gone")
			h.showImage(ants, true, "bet", "ants")
			h.showImage(old, false, "bet")
			h.link("2_20250101", "/nd/apps/ants/2")
			if c.lock != nil {
				text, err := Lock{c.lock}.Format()
				if err != nil {
					t.Fatal(err)
				}
				h.file("/work/d/neurodesk.lock", 0o644, string(text))
			}
			h.Env = append(h.Env, "NEURODESK_PIN="+c.env)
			cmd := bet()
			cmd.Command, cmd.App, cmd.Default = c.command, "fsl", true
			if c.command == "gone" {
				cmd.App = "gone"
			}
			got, pin, warn, err := h.ApplyPins("/nd", cmd)
			var exit *Exit
			if err != nil {
				if !errors.As(err, &exit) || exit.Code != c.code || strings.Contains(exit.Message, "\n") {
					t.Errorf("%v, want status %d", err, c.code)
				}
				return
			}
			found := ""
			if pin != nil {
				found = got.App + "/" + got.Version
			} else if !reflect.DeepEqual(got, cmd) {
				t.Errorf("no pin, and the command changed: %+v", got)
			}
			if c.code != 0 || found != c.want || (len(warn) > 0) != c.warns {
				t.Errorf("%q, warnings %q, want %q and status %d", found, warn, c.want, c.code)
			}
		})
	}
}

// FuzzLock: whatever a lock file and the variable say, what is looked at lies in the mount, and a lock that was read can be
// written and read again.
func FuzzLock(f *testing.F) {
	text, err := Lock{Apps: []Locked{lockedBet()}}.Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, "fsl=6.0.7.22 ants=2.5.3", "bet")
	f.Add([]byte("[[app]]\nname = \"..\"\nversion = \"-B\"\nhash = \"x\"\n"), "--bind=/", "-c")
	f.Fuzz(func(t *testing.T, text []byte, env, command string) {
		l, err := ParseLock(text)
		if err != nil {
			l = Lock{}
		} else if again, err := l.Format(); err != nil {
			t.Fatalf("%+v cannot be written: %v", l, err)
		} else if back, err := ParseLock(again); err != nil || len(l.Apps) > 0 && !reflect.DeepEqual(back, l) {
			t.Fatalf("%v\n%+v\n%+v", err, back, l)
		}
		look := func(name string) {
			if path.Clean(name) != name || !within(name, "/nd") && !within(name, "/work") || len(path.Base(name)) > maxPlace {
				t.Fatalf("looked at %q", name)
			}
		}
		h := Host{
			Env: []string{"NEURODESK_PIN=" + env}, Cwd: "/work/d",
			Stat:     func(n string) (os.FileInfo, error) { return nil, os.ErrNotExist },
			Lstat:    func(n string) (os.FileInfo, error) { look(n); return nil, os.ErrNotExist },
			Readlink: func(n string) (string, error) { look(n); return command, nil },
			ReadAt:   func(n string, _ int64, _ int) ([]byte, error) { look(n); return nil, os.ErrNotExist },
		}
		h.Env = append(h.Env, "NEURODESK_LOCK=/work/l")
		h.ReadAt = func(n string, _ int64, _ int) ([]byte, error) {
			if n == "/work/l" {
				return text, nil
			}
			look(n)
			return nil, os.ErrNotExist
		}
		c := bet()
		if c.Command = command; !pathPart(command) {
			return // no name of a file
		}
		if _, _, _, err := h.ApplyPins("/nd", c); err != nil {
			var exit *Exit
			if !errors.As(err, &exit) || strings.ContainsAny(exit.Message, "\n\x1b") {
				t.Fatalf("%q", err)
			}
		}
	})
}

// FuzzPlace: a name that is taken apart is the one that its parts make.
func FuzzPlace(f *testing.F) {
	f.Add(lockedBet().Place())
	f.Add("a@b@c@%2Fx%25")
	f.Add("a@b@c@%2F..%2F..")
	f.Fuzz(func(t *testing.T, name string) {
		l, ok := ParsePlace(name)
		if ok && (l.Place() != name || !path.IsAbs(l.Image) || path.Clean(l.Image) != l.Image) {
			t.Fatalf("%q: %+v", name, l)
		}
	})
}

// BenchmarkApplyPins is what a lock file of 20 apps costs one start, the process's own start aside.
func BenchmarkApplyPins(b *testing.B) {
	h := newHost(b)
	h.UID = os.Getuid()
	var l Lock
	for i := range 20 {
		a := lockedBet()
		a.Name = "app" + strings.Repeat("x", i)
		l.Apps = append(l.Apps, a)
	}
	l.Apps = append(l.Apps, lockedBet())
	text, err := l.Format()
	if err != nil {
		b.Fatal(err)
	}
	h.file("/work/neurodesk.lock", 0o644, string(text))
	h.showImage(lockedBet(), true, "bet")
	cmd := bet()
	cmd.Default = true
	for b.Loop() {
		if _, pin, _, err := h.ApplyPins("/nd", cmd); err != nil || pin == nil {
			b.Fatal(err)
		}
	}
}
