package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parse reads one text.
func parse(text string) (Parameters, error) {
	p := Parameters{FQRN: "repo.example.org", values: map[string]Setting{}}
	return p, p.read("f", text)
}

func TestShell(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // KEY=value@line, in the order of names
		note string // in one of the notes; "": there is none
	}{
		{"", "", ""},
		{"A=1\nB=2 # two\n#C=3\n\n  D=4\n", "A=1@1 B=2@2 D=4@5", ""},
		{"A=1;B=2; C=3", "A=1@1 B=2@1 C=3@1", ""},
		{"A=1 B=2", "A=1@1 B=2@1", ""},
		{"A=1\r\nB=2\r\n", "A=1@1 B=2@2", ""},
		{"export A=1\n\treadonly\tB=2", "A=1@1 B=2@2", ""},
		{"A=\nB=''\nC=\"\"", "A=@1 B=@2 C=@3", ""},
		{`A="x;y|z # no"`, "A=x;y|z # no@1", ""},
		{`A='x $B "y"'`, `A=x $B "y"@1`, ""},
		{`A=a"b c"'d e'f\ g`, "A=ab cd ef g@1", ""},
		{`A="a\"b\$c\\d\e"`, `A=a"b$c\d\e@1`, ""},
		{"A=\"a\nb\"\nB=1", "A=a\nb@1 B=1@3", ""},
		{"A=a\\\nb\nB=1", "A=ab@1 B=1@3", ""},
		{"A=1#2\nB=#3", "A=1#2@1 B=#3@2", ""},
		{"A=1\nA=2", "A=2@2", ""},
		{"A=1\nB=$A-${A}x\"$A\"'$A'", "A=1@1 B=1-1x1$A@2", ""},
		{"B=$A$", "B=$@1", "$A is not set"},
		{"if [ \"x$ENV\" = \"x\" ]; then\n  readonly DIR=/cvmfs\nfi\nB=$DIR/${CVMFS_FQRN}", "B=/cvmfs/repo.example.org@4 DIR=/cvmfs@2", ""},
		{"B=${A:-x}${A-'y'}\nA=\nC=${A:-\"z\"}${A-q}", "A=@2 B=xy@1 C=z@3", ""},
		{"A=$(hostname)\nB=2", "B=2@2", "A is passed over"},
		{"A=\"$(echo \"x y\")\"\nB=2", "B=2@2", "A is passed over"},
		{"A=`id`\nB=2", "B=2@2", "A is passed over"},
		{"A=\"x`id`\"\nB=2", "B=2@2", "A is passed over"},
		{"A=(1 2)\nB=2", "B=2@2", "an array"},
		{"A=${B%.*}\nB=2", "B=2@2", "A is passed over"},
		{"A=$1\nB=2", "B=2@2", "A is passed over"},
		{"A=DIRECT;http://x:1\nB=2", "A=DIRECT@1 B=2@2", `"http://x:1" is passed over`},
		{"A=1 run me\nB=2", "B=2@2", `A=... run me`},
		{". /etc/other\nB=2", "B=2@2", `". /etc/other" is passed over`},
		{"[ -f x ] && A=1\nB=2", "B=2@2", "passed over"},
		{"[ -f x ] &&\nA=1\nB=2", "B=2@3", "passed over"},
		{"[ -f x ] || {\nA=1\n}\nB=2", "B=2@4", "passed over"},
		{"f() {\n A=1\n}\nB=2", "B=2@4", "passed over"},
		{"(A=1)\nB=2", "B=2@2", "passed over"},
		{"{ A=1; }\nB=2", "B=2@2", "{ }"},
		{"if grep -q x y; then\n  A=1\nelse\n  if true; then C=\"fi\"; fi\nfi\nB=2", "B=2@6", "a .local file: A C"},
		{"if [ \"$X\" = yes ]; then\n  A=1\nelse\n  if true; then C=\"fi\"; fi\nfi\nB=2", "B=2@6", "f:4: a block (if) is passed over: no shell is run; set what it would set in a .local file: C"},
		{"X=yes\nif [ \"$X\" = yes ]\nthen A=1; else A=2; fi; B=2", "A=1@3 B=2@3 X=yes@1", ""},
		{"if [ \"x$X\" != \"x\" ]; then A=1; elif [ -z \"$X\" ]; then A=2; elif [ -z \"\" ]; then A=3; else A=4; fi\nB=2", "A=2@1 B=2@2", ""},
		{"if [ -n \"$X\" ]; then A=`id`\nfi\nif [ $CVMFS_FQRN == repo.example.org ]; then if [ -n y ]; then A=1; fi; export B=2; fi", "A=1@3 B=2@3", ""},
		{"A=1\nif [ \"$A\" = 1 ]; then\n return\nfi\nB=2", "A=1@1", ""},
		{"A=1\nif [ \"$A\" = 2 ]; then\n return\nfi\nB=2", "A=1@1 B=2@5", ""},
		{"A=1\nreturn 0\nB=2", "A=1@1", ""},
		{"if [ a = a ]; then A=1\nfi-x\nfi\nB=2", "A=1@1 B=2@4", "fi-x"},
		{"if [ \"$X\" = yes ] && [ -f y ]; then A=1; fi\nB=2", "B=2@2", "a .local file: A"},
		{"if [ ! -n \"$X\" ]; then A=1; fi\nB=2", "B=2@2", "a .local file: A"},
		{"if [ \"$(id)\" = yes ]; then A=1; fi\nB=2", "B=2@2", "a .local file: A"},
		{"if [ a = a ]; then A=1; elif id; then A=2; fi\nB=2", "B=2@2", "a .local file: A"},
		{"if a; then A=1; fi; B=2", "B=2@1", "a block (if)"},
		{"if a\nthen\nfor x in 1 2; do A=1; done\nfi\nB=2", "B=2@5", "a .local file: A"},
		{"case $X in\n a) A=1 ;;\n (b|c) C=2;;\nesac\nB=2", "B=2@5", "a .local file: A C"},
		{"while false; do echo done; done\nB=2", "B=2@2", "a block (while)"},
		{"echo 'if'\necho if\nB=2", "B=2@3", "passed over"},
		{"A-B=1\nB=2", "B=2@2", "passed over"},
		{"1A=1\nB=2", "B=2@2", "passed over"},
	} {
		p, err := parse(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		var got []string
		for _, s := range p.values {
			got = append(got, fmt.Sprintf("%s=%s@%s", s.Key, s.Value, strings.TrimPrefix(s.Origin, "f:")))
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%q: %q, want %q (notes %q)", tt.text, s, tt.want, p.Notes)
		}
		if (len(p.Notes) > 0) != (tt.note != "") || tt.note != "" && !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, tt.note) }) {
			t.Errorf("%q: notes %q, want %q", tt.text, p.Notes, tt.note)
		}
	}
}

// TestDomain is how the configuration that CVMFS comes with tells of a domain.
func TestDomain(t *testing.T) {
	const domain = "if [ \"$CVMFS_CONFIG_REPO_DEFAULT_ENV\" != \"\" ]; then\n  # the configuration repository is there\n  return\nfi\n" +
		"if [ \"$CVMFS_USE_CDN\" = \"yes\" ]; then\n  CVMFS_SERVER_URL=\"http://cdn/cvmfs/@fqrn@\"\nelse\n  CVMFS_SERVER_URL=\"http://a/cvmfs/@fqrn@;http://b/cvmfs/@fqrn@\"\nfi\n" +
		"CVMFS_KEYS_DIR=/etc/cvmfs/keys/example.org\nCVMFS_USE_GEOAPI=yes\n"
	for local, want := range map[string]string{"": "http://a/cvmfs/repo.example.org", "CVMFS_USE_CDN=yes": "http://cdn/cvmfs/repo.example.org", "CVMFS_CONFIG_REPO_DEFAULT_ENV=1": ""} {
		p, err := Load(write(t, map[string]string{"default.local": local, "domain.d/example.org.conf": domain}), "repo.example.org")
		servers := append(p.Servers(), "")
		if err != nil || servers[0] != want || len(p.Notes) != 0 || (want == "") != (p.PublicKeys()[0] != "/etc/cvmfs/keys/example.org") {
			t.Errorf("%q: %q, %q, notes %q, %v", local, servers, p.PublicKeys(), p.Notes, err)
		}
	}
}

// TestManyIfs: ifs within ifs, and after each other, take no more than time in
// proportion.
func TestManyIfs(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("if [ -z \"\" ]; then A=1; ", 16) + strings.Repeat("fi; ", 16):         1,
		strings.Repeat("if [ -z \"\" ]; then A=1; ", 20_000) + strings.Repeat("fi; ", 20_000): 1,
		strings.Repeat("if [ -z \"\" ]; then A=1; fi\n", 20_000):                              1,
		strings.Repeat("if [ -z \"\" ]; then A=1; ", 20_000):                                  0,
	} {
		if p, err := parse(text); len(p.values) != want || (err == nil) != (want == 1) {
			t.Errorf("%.60s: %d, %v", text, len(p.values), err)
		}
	}
}

// TestUnreadable: what has no visible end is an error with its line.
func TestUnreadable(t *testing.T) {
	for text, want := range map[string]string{
		"A=1\nB=\"x\ny":                "line 2: B: a quote is not closed",
		"B='x":                         "a quote is not closed",
		"B=\"x\\":                      "a quote is not closed",
		"\nif true; then\nA=1\n":       `line 2: "fi" is missing`,
		"echo 'x\nA=1":                 "a quote is not closed",
		"B=${A\nC=1":                   "a } is missing",
		"cat <<EOF\nA=1\nEOF\n":        "here document",
		"f() {\nA=1\n":                 `"}" is missing`,
		"(A=1":                         `")" is missing`,
		strings.Repeat("#", maxFile+1): "has more than",
		"A=" + strings.Repeat("x", 5000) + strings.Repeat("\nA=$A$A", 10): "has more than",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// write makes files below a new directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc[1]*") // a name that is a pattern too
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOrder: each file sets its own name's parameter and all those that follow,
// so that the last one wins.
func TestOrder(t *testing.T) {
	order := []string{
		"default.conf", "default.d/10-a.conf", "default.d/20-b.conf", "default.local",
		"domain.d/example.org.conf", "domain.d/example.org.local",
		"config.d/repo.example.org.conf", "config.d/repo.example.org.local",
	}
	files := map[string]string{"default.d/30-c.local": "K0=no", "domain.d/other.org.conf": "K0=no", "config.d/x.example.org.conf": "K0=no"}
	for i, name := range order {
		files[name] = "CVMFS_CONFIG_REPOSITORY=config.example.org\n"
		for k := i; k < len(order); k++ {
			files[name] += fmt.Sprintf("K%d=%s\n", k, name)
		}
	}
	dir := write(t, files)
	p, err := Load(dir, "repo.example.org")
	if err != nil || len(p.values) != len(order)+1 || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "config.example.org is not read") {
		t.Fatal(err, p.Notes)
	}
	for i, name := range order {
		s, _ := p.Get(fmt.Sprintf("K%d", i))
		if s.Value != name || s.Origin != filepath.Join(dir, name)+":2" {
			t.Errorf("K%d is %q of %s, want %s", i, s.Value, s.Origin, name)
		}
	}
	if p, err = Load(dir, "config.example.org"); err != nil || len(p.Notes) != 0 {
		t.Errorf("the configuration repository itself: %v, notes %q", err, p.Notes)
	}
}

func TestLoadFails(t *testing.T) {
	dir := write(t, map[string]string{"default.conf": "A='"})
	for _, name := range []string{"", "repo", "repo.", "../../x.y", "a/b.c"} {
		if _, err := Load(dir, name); !errors.Is(err, ErrParameter) || !strings.Contains(err.Error(), "full name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := Load(dir, "a.b"); !errors.Is(err, ErrParameter) || !strings.Contains(err.Error(), "default.conf: line 1") {
		t.Error(err)
	}
	if _, err := Load(dir+"x", "a.b"); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrParameter) {
		t.Error(err)
	}
	dir = write(t, map[string]string{"default.local/x": ""})
	if _, err := Load(dir, "a.b"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Error(err)
	}
	dir = write(t, map[string]string{"x": ""})
	if p, err := Load(dir, "a.b"); err != nil || len(p.values) != 0 {
		t.Error(err)
	}
}

// TestNeurodesk is what its documentation tells sites to write.
func TestNeurodesk(t *testing.T) {
	dir := write(t, map[string]string{
		"default.conf":  "CVMFS_QUOTA_LIMIT=4000\nCVMFS_BASE=/var/lib\nCVMFS_CACHE_BASE=${CVMFS_BASE}/cvmfs\n",
		"default.local": "CVMFS_HTTP_PROXY=\"http://proxy:3128|http://p2:3128;DIRECT\"\nCVMFS_QUOTA_LIMIT=5000\n",
		"domain.d/ardc.edu.au.conf": "CVMFS_USE_GEOAPI=yes\n" +
			`CVMFS_SERVER_URL="http://a/cvmfs/@fqrn@;http://b:8080/cvmfs/@org@"` + "\nCVMFS_KEYS_DIR=\"/etc/cvmfs/keys/ardc.edu.au/\"\n",
	})
	p, err := Load(dir, NeurodeskFQRN)
	if err != nil || len(p.Notes) != 0 {
		t.Fatal(err, p.Notes)
	}
	if got, want := p.Servers(), []string{"http://a/cvmfs/neurodesk.ardc.edu.au", "http://b:8080/cvmfs/neurodesk"}; !slices.Equal(got, want) {
		t.Errorf("servers %q", got)
	}
	if p.HTTPProxy() != "http://proxy:3128|http://p2:3128;DIRECT" || p.FallbackProxy() != "" || !slices.Equal(p.PublicKeys(), []string{"/etc/cvmfs/keys/ardc.edu.au/"}) {
		t.Errorf("%q, %q, %q", p.HTTPProxy(), p.FallbackProxy(), p.PublicKeys())
	}
	if s, _ := p.Get("CVMFS_QUOTA_LIMIT"); s.Origin != filepath.Join(dir, "default.local")+":2" {
		t.Errorf("%+v", s)
	}
	if s, _ := p.Get("CVMFS_CACHE_BASE"); s.Value != "/var/lib/cvmfs" {
		t.Errorf("%+v", s)
	}
	if geo, err := p.UseGeoAPI(); !geo || err != nil {
		t.Errorf("geo %v, %v", geo, err)
	}
}

func TestDefaults(t *testing.T) {
	p := Parameters{dir: "/d"}
	if geo, err := p.UseGeoAPI(); p.Servers() != nil || p.HTTPProxy() != "" || !slices.Equal(p.PublicKeys(), []string{"/d/keys"}) || geo || err != nil {
		t.Errorf("%q, %q, %q, %v, %v", p.Servers(), p.HTTPProxy(), p.PublicKeys(), geo, err)
	}
	if p.Blacklist() != "/d/blacklist" {
		t.Error(p.Blacklist())
	}
	p, _ = parse("CVMFS_PUBLIC_KEY=/a.pub:/b.pub\nCVMFS_BLACKLIST=/bad")
	if !slices.Equal(p.PublicKeys(), []string{"/a.pub", "/b.pub"}) || p.Blacklist() != "/bad" {
		t.Errorf("%q, %s", p.PublicKeys(), p.Blacklist())
	}
	for value, want := range map[string]bool{"On": true, "1": true, "true": true, "no": false, "0": false, "''": false} {
		p, _ = parse("CVMFS_USE_GEOAPI=" + value)
		if geo, err := p.UseGeoAPI(); geo != want || err != nil {
			t.Errorf("%s: %v, %v", value, geo, err)
		}
	}
	p, _ = parse("CVMFS_FOLLOW_REDIRECTS=yes")
	if follow, err := p.FollowRedirects(); !follow || err != nil {
		t.Errorf("redirects: %v, %v", follow, err)
	}
	p, _ = parse("CVMFS_X=1\nexport SITE='a b'\nEMPTY=")
	if got := p.Variables(); len(got) != 2 || got["SITE"] != "a b" {
		t.Errorf("%q", got)
	}
	// The error says where it stands, and what to write.
	p, _ = parse("X=1\nCVMFS_USE_GEOAPI=maybe")
	if _, err := p.UseGeoAPI(); !errors.Is(err, ErrParameter) || !strings.Contains(err.Error(), "f:2: CVMFS_USE_GEOAPI=") || !strings.Contains(err.Error(), ": write ") {
		t.Error(err)
	}
}

// FuzzShell: whatever a file says, reading ends, within bounds, and values come from it.
func FuzzShell(f *testing.F) {
	for _, seed := range []string{
		"CVMFS_QUOTA_LIMIT=5000\nCVMFS_HTTP_PROXY=\"http://p:3128|http://q:3128;DIRECT\"\n",
		"if [ x ]; then A=1; else { B=2; }; fi\nC=${A:-x}$B\"$C\"'$D'\\\n#e\n",
		"case $X in a) A=1;; esac\nf() {\nA=$(x)\n}\n. y\nexport A=`id` B=2 && echo <<E\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		lines := strings.Count(text, "\n") + 1
		for _, s := range p.values {
			var line int
			if _, err := fmt.Sscanf(s.Origin, "f:%d", &line); err != nil || line < 1 || line > lines {
				t.Errorf("%s is from %s, of %d lines", s.Key, s.Origin, lines)
			}
			if len(s.Value) > maxValue || !strings.Contains(text, s.Key+"=") {
				t.Errorf("%s has %d bytes", s.Key, len(s.Value))
			}
		}
		if err == nil && !strings.ContainsAny(text, "=") && len(p.values) > 0 {
			t.Error("settings out of nothing")
		}
		_, _ = p.UseGeoAPI()
		_ = p.Servers()
	})
}
