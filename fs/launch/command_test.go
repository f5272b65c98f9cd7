package launch

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCommandRoundTrip(t *testing.T) {
	full := bet()
	full.Revision, full.Args = 123, []string{"--writable-tmpfs", "--env", "A=b c\n\"'"}
	retired := bet()
	retired.Retired, retired.Rootfs = " two\nlines ", ""
	strange := bet()
	strange.Command, strange.Version, strange.Image = `"q"`, " 1", "a\xff: b\t"
	for name, c := range map[string]Command{"plain": bet(), "full": full, "retired": retired, "strange": strange} {
		got, err := ParseCommand(c.Format())
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %v\n got %#v\nwant %#v\n%s", name, err, got, c, c.Format())
		}
	}
}

func TestCommandFileText(t *testing.T) {
	c := bet()
	c.Revision, c.Args = 123, []string{"--writable-tmpfs"}
	want := `#!/nd/.neurodeskfs/launcher
# neurodeskfs: what runs when this name is typed
command: bet
app: fsl
version: 6.0.7.22
date: 20260416
image: neurodesk.ardc.edu.au:/containers/x
hash: H1
revision: 123
rootfs: /nd/.neurodeskfs/images/H1/rootfs
path: /opt/fsl/bin/bet
args: ["--writable-tmpfs"]
`
	if got := string(c.Format()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParseCommandRefuses(t *testing.T) {
	good := string(bet().Format())
	for name, test := range map[string]struct{ text, says string }{
		"no interpreter":      {strings.TrimPrefix(good, "#!"), "line 1"},
		"relative launcher":   {strings.Replace(good, "#!/nd", "#!nd", 1), "launcher"},
		"empty":               {"", "line 1"},
		"no app":              {strings.Replace(good, "app: fsl\n", "", 1), "app is missing"},
		"no rootfs":           {strings.Replace(good, "rootfs: ", "x: ", 1), "rootfs is missing"},
		"an option as rootfs": {strings.Replace(good, "rootfs: ", "rootfs: --bind=", 1), "rootfs"},
		"rootfs with dots":    {strings.Replace(good, "rootfs: ", "rootfs: /a/..", 1), "rootfs"},
		"rootfs is /":         {strings.Replace(good, "rootfs: "+testRootfs, "rootfs: /", 1), "rootfs"},
		"relative path":       {strings.Replace(good, "path: /", "path: -", 1), "path"},
		"twice":               {good + "app: x\n", "app is given twice"},
		"bad revision":        {good + "revision: -1\n", "revision"},
		"bad args":            {good + "args: --nv\n", "args"},
		"bad quoting":         {good + "retired: \"x\n", "retired"},
		"no key":              {good + "hello\n", "no key"},
		"NUL":                 {good + "retired: \"a\\x00\"\n", "retired"},
		"too long":            {good + strings.Repeat("#\n", MaxCommandFile), "larger"},
	} {
		if _, err := ParseCommand([]byte(test.text)); !errors.Is(err, ErrCommandFile) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
	if _, err := ParseCommand([]byte(good + "\n# more\nfuture: yes\n")); err != nil {
		t.Errorf("unknown keys: %v", err)
	}
}

func FuzzCommand(f *testing.F) {
	c := bet()
	c.Revision, c.Args, c.Retired = 7, []string{"--nv"}, " \"\n"
	f.Add(c.Format())
	f.Add(bet().Format())
	f.Add([]byte("#!/l\ncommand: -x\napp: \"\\xff\"\nversion:1\nhash: h\nrootfs: /r\nargs: null\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCommand(text)
		if err != nil {
			if !errors.Is(err, ErrCommandFile) {
				t.Fatalf("no sentinel: %v", err)
			}
			return
		}
		again, err := ParseCommand(c.Format())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%v\n got %#v\nwant %#v", err, again, c)
		}
	})
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                nil,
		" \t\n ":                          nil,
		"--nv --bind /a:/b":               {"--nv", "--bind", "/a:/b"},
		`--bind "/a b" '' ""`:             {"--bind", "/a b", "", ""},
		`a\ b 'c\d' "e\"f\g\\"`:           {"a b", `c\d`, `e"f\g\`},
		`x'y'"z"`:                         {"xyz"},
		`$HOME $(id) * ; # | "` + "`q`\"": {"$HOME", "$(id)", "*", ";", "#", "|", "`q`"},
		"a\\\nb":                          {"ab"},
	} {
		if got, err := Split(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{`'`, `"`, `a"b\"`, `\`, `"\`} {
		if _, err := Split(text); !errors.Is(err, ErrUnbalanced) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`--bind "/a b" 'c'\ d`)
	f.Add("it's \"\\$x\"")
	f.Fuzz(func(t *testing.T, text string) {
		words, err := Split(text)
		if err != nil {
			if !errors.Is(err, ErrUnbalanced) {
				t.Fatal(err)
			}
			words = []string{text}
		}
		line := make([]string, len(words))
		for i, w := range words {
			line[i] = Quote(w)
		}
		again, err := Split(strings.Join(line, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q -> %q -> %q, %v", words, line, again, err)
		}
	})
}

func TestPolicy(t *testing.T) {
	text := `{"mountpoint": "/nd", "env": "host", "pass": ["MY_*"], "binds": ["/a"], "set": {"A": "1"}, "future": 1,
	  "apps": {"fsl": {"gpu": "off", "pass": ["B"], "set": {"A": "2"}, "args": ["--x"], "contain": true}}}`
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got := p.For("fsl")
	want := AppPolicy{Runtime: "auto", Env: "host", GPU: "off", Pass: []string{"MY_*", "B"}, Binds: []string{"/a"}, Set: map[string]string{"A": "2"}, Args: []string{"--x"}, Contain: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v\nwant %#v", got, want)
	}
	if other := p.For("ants"); other.GPU != "auto" || other.Contain || len(other.Pass) != 1 {
		t.Errorf("another app has %#v", other)
	}
	out, err := p.Format()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParsePolicy(out); err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("read back: %v %#v", err, again)
	}
	for name, text := range map[string]string{
		"no JSON": `{`, "runtime": `{"runtime": "docker"}`, "env": `{"env": "some"}`, "gpu of an app": `{"apps": {"x": {"gpu": "2"}}}`,
		"variable": `{"set": {"A-B": "1"}}`, "mountpoint": `{"mountpoint": "x/"}`, "pattern": `{"pass": ["[a"]}`, "empty word": `{"args": [""]}`,
		"NUL": `{"binds": ["/a\u0000"]}`, "type": `{"pass": "A"}`, "size": `{"x": "` + strings.Repeat("x", MaxPolicyFile) + `"}`,
	} {
		if _, err := ParsePolicy([]byte(text)); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPolicyOfASiteWithNothingToSay(t *testing.T) {
	for point, plain := range map[string]bool{"/neurodesk": true, "/home/ü/nd": true, "/a\"b": false, "/a\\b": false, "/a<b": false, "/a\u2028b": false} {
		p := Policy{Mountpoint: point}
		text, err := p.Format()
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := soleMountpoint(string(text)); ok != plain || ok && got != point {
			t.Errorf("%s: %q, %t", text, got, ok)
		}
		got, err := ParsePolicy(text)
		want := DefaultPolicy()
		want.Mountpoint = point
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v", text, got, err)
		}
	}
	const more = "{\n  \"mountpoint\": \"/x\",\n  \"env\": \"host\"\n}\n"
	if got, ok := soleMountpoint(more); ok || got != "" {
		t.Errorf("%s: %q, %t", more, got, ok)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"mountpoint": "/nd", "env": "host", "pass": ["MY_*"], "set": {"A": "1"}, "apps": {"fsl": {"gpu": "off"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Fatalf("no sentinel: %v", err)
			}
			return
		}
		out, err := p.Format()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(out); err != nil && len(out) <= MaxPolicyFile {
			t.Fatalf("%v in %s", err, out)
		}
		p.For("fsl")
	})
}
