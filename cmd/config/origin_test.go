package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const explained = `cvmfs_at = "/cvmfs"

[cache] # where
quota = "1500MiB"

[[source]]
  fqrn = "neurodesk.ardc.edu.au"
  refresh = "10m"

[[source]]
fqrn = "a.example.org"
servers = [
  "http://one/cvmfs/@fqrn@", # fqrn = "no"

  "http://two/cvmfs/@fqrn@",
]
proxies = """
DIRECT"""
public_keys = ["/k.pub"]
[app."a.b"]
gpu = "off"
[app.fsl.set]
X = "y"
[launch]
never = [ "x" ]
`

func TestExplainNamesTheLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(explained), 0o644); err != nil {
		t.Fatal(err)
	}
	_, list, err := Explain(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range list {
		where := v.Origin
		if v.Line > 0 {
			where = fmt.Sprint(v.Line)
			if v.File != file {
				t.Errorf("%s is from %q", v.Key, v.File)
			}
		}
		got[fmt.Sprintf("%s%d.%s", v.Table, v.Source, v.Key)] = where + " " + fmt.Sprint(v.Value)
	}
	for key, want := range map[string]string{
		"cache0.quota": "4 1500MiB", "cache0.dir": "default " + DefaultCacheDir(),
		"source1.fqrn": "7 neurodesk.ardc.edu.au", "source1.refresh": "8 10m0s", "source1.public_keys": "built-in []", "source1.layout": "default neurodesk",
		"source2.fqrn": "11 a.example.org", "source2.servers": "12 [http://one/cvmfs/a.example.org http://two/cvmfs/a.example.org]",
		"source2.proxies": "17 DIRECT", "source2.public_keys": "19 [/k.pub]", "source2.refresh": "default auto", "source2.revision": "default 0", "source2.date": "default ",
		"0.cvmfs_at": "1 /cvmfs", "mount0.crawlers": "default []", "launch0.never": "25 [x]", "launch0.gpu": "default auto", "launch0.contain": "default false",
		"app.a.b0.gpu": "21 off", "app.a.b0.env": "default ", "app.fsl0.set": "22 map[X:y]",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
	if !strings.HasPrefix(got["source1.servers"], "built-in [http://") {
		t.Errorf("servers: %q", got["source1.servers"])
	}
}

func TestKeyLinesOfOtherSpellings(t *testing.T) {
	for text, want := range map[string]map[string]int{
		"cache.quota = \"1GiB\"\n":                                           {"cache.quota": 1},
		"\n\ncache = { dir = \"/x\", quota = \"1GiB\" }":                     {"cache.dir": 3, "cache.quota": 3},
		"source = [\n {fqrn = \"a.b\"},\n {fqrn = \"c.d\", tag = \"t\"},\n]": {"source.1": 1, "source.1.fqrn": 1},
		"": {},
	} {
		got := keyLines(text)
		for key, line := range want {
			if got[key] != line {
				t.Errorf("%q: %s is on line %d, want %d (%v)", text, key, got[key], line, got)
			}
		}
	}
}

func TestExplainSourcesInOneStatement(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	text := "\nsource = [\n {},\n {fqrn = \"c.d\", servers = [\"http://x/y\"], public_keys = [\"/k\"]},\n]\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, list, err := Explain(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		inFile := v.Source == 2 && (v.Key == "fqrn" || v.Key == "servers" || v.Key == "public_keys")
		if (v.Origin == FromFile) != inFile || inFile && v.Line != 2 {
			t.Errorf("%s %d %s: %s, line %d", v.Table, v.Source, v.Key, v.Origin, v.Line)
		}
	}
}

func TestSizesAndTimesAreWrittenAsTheyAreRead(t *testing.T) {
	for _, s := range []Size{0, 1, 1500, 1 << 10, 20 << 30, 3 << 40, 1e9, 1<<62 - 1} {
		var back Size
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Errorf("%d is written %q and read %d, %v", int64(s), s, int64(back), err)
		}
	}
	for _, text := range []string{"auto", "10m0s"} {
		var r Refresh
		if err := r.UnmarshalText([]byte(text)); err != nil || r.String() != text {
			t.Errorf("%q is written %q, %v", text, r, err)
		}
	}
}

// TestExplainedValuesAreNeverNull: an empty table is one in JSON as well.
func TestExplainedValuesAreNeverNull(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[app.fsl]\ngpu = \"on\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, list, err := Explain(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		if b, err := json.Marshal(v.Value); err != nil || string(b) == "null" {
			t.Errorf("%s.%s: %s, %v", v.Table, v.Key, b, err)
		}
	}
}
