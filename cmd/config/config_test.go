package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// good is a source that says all that must be said.
const good = "[[source]]\nfqrn = \"a.example.org\"\nservers = [\"http://h/cvmfs/@fqrn@\"]\npublic_keys = [\"/k.pub\"]\n"

// bucket is a source on object storage that says all that must be said.
const bucket = "[[source]]\nkind = \"http\"\nurl = \"http://h:80/p/@image@.sif\"\nindex = \"http://h/list\"\n"

func TestObjectStorage(t *testing.T) {
	c, err := Parse([]byte(bucket + "proxies = \"http://p:3128\"\nmax_retries = 3\nrefresh = \"1m\"\n[[source]]\nkind = \"http\"\nname = \"mine\"\nurl = \"https://h/@image@\"\nimages = [\"a_1\", \"b\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Sources[0], c.Sources[1]
	if a.FQRN != "h" || a.Proxies != "http://p:3128" || a.MaxRetries != 3 || time.Duration(a.Refresh) != time.Minute || a.Layout != "" || len(a.Servers) > 0 {
		t.Errorf("%+v", a)
	}
	if b.FQRN != "mine" || b.Proxies != "DIRECT" || len(b.Images) != 2 || time.Duration(b.TimeoutDirect) != 10*time.Second {
		t.Errorf("%+v", b)
	}
	if c.VerifySIF.Mode != VerifyOff {
		t.Errorf("%+v", c.VerifySIF)
	}
}

func TestDefaults(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	t.Setenv("XDG_CACHE_HOME", "/xdg")
	for name, text := range map[string]string{"nothing": "", "an empty source": "[[source]]\n"} {
		c, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		s := c.Sources[0]
		if len(c.Sources) != 1 || s.FQRN != "neurodesk.ardc.edu.au" || s.Kind != "cvmfs" || s.Layout != "neurodesk" || s.Path != "/containers" || s.Proxies != "DIRECT" || s.Refresh != 0 || len(s.PublicKeys) != 0 {
			t.Errorf("%s: %+v", name, s)
		}
		if len(s.Servers) < 3 || strings.Contains(strings.Join(s.Servers, " "), "@") || !strings.HasSuffix(s.Servers[0], "/cvmfs/neurodesk.ardc.edu.au") {
			t.Errorf("%s: servers %q", name, s.Servers)
		}
		if c.Cache.Quota != 20<<30 || c.Cache.Dir != DefaultCacheDir() || !filepath.IsAbs(c.Cache.Dir) {
			t.Errorf("%s: %+v", name, c.Cache)
		}
	}
}

func TestGoodFiles(t *testing.T) {
	c, err := Parse([]byte(`
[cache]
dir = "/c"
quota = "512MiB"
[[source]]
kind = "cvmfs"
fqrn = "sw.example.org"
servers = ["http://one/cvmfs/@fqrn@/", "https://two:8000/@org@/x"]
proxies = "http://p1:3128|http://p2:3128;DIRECT"
public_keys = ["/k1", "/k2"]
layout = "none"
tag = "v1"
external_url = "https://data.example.org/x"
refresh = "90s"
[[source]]
fqrn = "other.example.org"
servers = ["http://one/cvmfs/@fqrn@"]
public_keys = ["/k"]
path = "/a/b"
`))
	if err != nil {
		t.Fatal(err)
	}
	s := c.Sources[0]
	if strings.Join(s.Servers, " ") != "http://one/cvmfs/sw.example.org https://two:8000/sw/x" || s.Tag != "v1" || s.Path != "" || time.Duration(s.Refresh) != 90*time.Second || len(s.PublicKeys) != 2 {
		t.Errorf("%+v", s)
	}
	if c.Sources[1].Path != "/a/b" || c.Sources[1].Layout != "neurodesk" || c.Cache.Quota != 512<<20 || c.Cache.Dir != "/c" {
		t.Errorf("%+v", c)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		`"1B"`: 1, `"1024"`: 1024, `1024`: 1024, `"1KiB"`: 1 << 10, `"1 MiB"`: 1 << 20, `"20GiB"`: 20 << 30, `"2TiB"`: 2 << 40,
		`"10KB"`: 10_000, `"10MB"`: 10_000_000, `"10GB"`: 10_000_000_000, `"1TB"`: 1_000_000_000_000, `" 5GiB "`: 5 << 30,
	} {
		c, err := Parse([]byte("[cache]\nquota = " + text + "\n"))
		if err != nil || c.Cache.Quota != want {
			t.Errorf("%s: %+v, %v, want %d", text, c, err, want)
		}
	}
	for _, text := range []string{`"20 gigs"`, `"-1GiB"`, `"+1GiB"`, `"1.5GiB"`, `"GiB"`, `""`, `"1e3"`, `"0x10"`, `"1 000"`, `"99999999TiB"`, `"9999999999999999999999"`, `true`, `["1GiB"]`, `"10XB"`, `"1Gi"`, `"0"`, `0`} {
		if _, err := Parse([]byte("[cache]\nquota = " + text + "\n")); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestBadFilesSayWhatToWrite(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[cash]\n", `configuration: there is no key "cash"; the nearest is "cache"`},
		{"[cache]\nqota = \"1GiB\"\n", `configuration: there is no key "cache.qota"; the nearest is "cache.quota"`},
		{"[[source]]\nserver = [\"x\"]\n", `configuration: there is no key "source.server"; the nearest is "source.servers"`},
		{"[[source]]\npublic_key = \"x\"\n", `configuration: there is no key "source.public_key"; the nearest is "source.public_keys"`},
		{"[[sources]]\nfqrn = \"x\"\n", `configuration: there is no key "sources"; the nearest is "source"`},
		{"[source]\nfqrn = \"x\"\n", `line 1 (source): it is a table, and must be a list of tables, each of which begins with [[source]]`},
		{"quota = \"1GiB\"\n", `there is no key "quota"`},
		{"[cache]\nquota = \"20 gigs\"\n", `"20 gigs" is no size: write for example 20GiB`},
		{"[cache]\ndir = \"relative/dir\"\n", `configuration: cache.dir "relative/dir" must be an absolute path`},
		{"[cache\n", `configuration: line 2: `},
		{"[cache]\ndir = 5\n", `configuration: `},
		{"[[source]]\nservers = [\"http://h\"]\n", `configuration: source 1: fqrn "" is no repository's name, such as neurodesk.ardc.edu.au`},
		{"[[source]]\nfqrn = \"a.example.org\"\n", `configuration: source 1: a.example.org has no servers: write servers = ["http://HOST/cvmfs/@fqrn@"]`},
		{"[[source]]\nfqrn = \"a.example.org\"\nservers = [\"http://h\"]\n", `configuration: source 1: a.example.org has no public_keys: write the files of its master key`},
		{strings.Replace(good, "http://", "ftp://", 1), `configuration: source 1: server "ftp://h/cvmfs/@fqrn@" is no URL: write "http://HOST/cvmfs/@fqrn@"`},
		{good + "layout = \"sif\"\n", `configuration: source 1: layout "sif" is not known: write "neurodesk", "flat", "unpacked" or "none"`},
		{good + "kind = \"s3\"\n", `configuration: source 1: kind "s3" is not known: write "cvmfs"`},
		{bucket + "layout = \"flat\"\n", `source 1: layout has no use with kind = "http"`},
		{bucket + "servers = [\"http://h\"]\n", `source 1: servers has no use with kind = "http"`},
		{bucket + "tag = \"x\"\n", `source 1: tag has no use with kind = "http"`},
		{bucket + "images = [\"x\"]\n", `one of them`},
		{"[[source]]\nkind = \"http\"\nurl = [\"http://h/@image@\", \"http://h/x\"]\nindex = \"http://h/list\"\n", `url "http://h/x": its path must have @image@ once`},
		{"[[source]]\nkind = \"http\"\nurl = [\"http://h/@image@\", \"\"]\n", `is no text: write`},
		{"[[source]]\nkind = \"http\"\nurl = \"http://h/@image@\"\n", `write index = `},
		{"[[source]]\nkind = \"http\"\n", `kind = "http" needs url`},
		{"[[source]]\nkind = \"http\"\nurl = \"http://h/x.sif\"\n", `must have @image@ once`},
		{"[[source]]\nkind = \"http\"\nurl = \"http://h/@image@\"\nimages = [\"a b\"]\n", `images: a name is empty`},
		{strings.Replace(bucket, "http://h/list", "list", 1), `index "list" is no URL`},
		{good + "url = \"http://h/@image@\"\n", `url has no use with kind = "cvmfs"`},
		{"[[source]]\nkind = \"dir\"\npath = \"/x\"\nindex = \"http://h\"\n", `index has no use with kind = "dir"`},
		{"[verify_sif]\nmode = \"maybe\"\n", `verify_sif: mode "maybe" is not known: write "off", "warn" or "require"`},
		{"[verify_sif]\nmode = \"warn\"\n", `verify_sif: keyring is missing`},
		{good + "path = \"containers\"\n", `configuration: source 1: path "containers" must be absolute, without a slash at its end`},
		{good + "path = \"/containers/\"\n", `configuration: source 1: path "/containers/" must be absolute, without a slash at its end`},
		{good + "tag = \"a\"\nrevision = 3\n", `exclude each other: keep one`},
		{good + "root_hash = \"xyz\"\n", `configuration: source 1: root_hash: `},
		{good + "revision = -1\n", `configuration: source 1: revision must be the number of a revision, or 0 for none`},
		{good + "external_url = \"data\"\n", `configuration: source 1: external_url "data" is no URL`},
		{good + "refresh = \"1s\"\n", `"1s" is no refresh time: write "auto" or a duration of at least 10s`},
		{good + "timeout = \"0s\"\n", `configuration: line 5 (source.timeout): "0s" is not above 0: write for example 10s, or nothing for the default`},
		{good + "give_up = \"0s\"\n", `line 5 (source.give_up): "0s" is not above 0`},
		{good + "host_reset = 5\n", `line 5 (source.host_reset): 5 is no time span: write for example "10s" or "5m"`},
		{good + "timeout_direct = \"-1s\"\n", `"-1s" is no time span`},
		{good + "max_retries = 0\n", `line 5 (source.max_retries): 0 is no bound: write a whole number above 0, -1 for none, or nothing for the default`},
		{good + "low_speed_limit = -2\n", `line 5 (source.low_speed_limit): -2 is no bound`},
		{good + "refresh = \"soon\"\n", `"soon" is no refresh time: write "auto" or a duration of at least 10s`},
		{good + good, `configuration: source 2: a.example.org is there already: a repository can be a source once`},
		{strings.Replace(good, "a.example.org", "../x", 1), `fqrn "../x" is no repository's name`},
		{strings.Replace(good, "a.example.org", "a..b", 1), `fqrn "a..b" is no repository's name`},
	} {
		_, err := Parse([]byte(c.text))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the message has several lines: %v", c.text, err)
		}
	}
}

func TestKeysLieBesideTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(strings.Replace(good, `"/k.pub"`, `"/k.pub", "keys", "sub/../x.pub"`, 1)+"ca_bundle = \"ca.pem\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(dir))
	for _, name := range []string{file, filepath.Join(filepath.Base(dir), "config.toml")} {
		c, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Join([]string{"/k.pub", filepath.Join(dir, "keys"), filepath.Join(dir, "x.pub")}, " ")
		if got := strings.Join(c.Sources[0].PublicKeys, " "); got != want || c.File != name {
			t.Errorf("%s: keys %s, want %s", name, got, want)
		}
		if got, want := c.Sources[0].CABundle, filepath.Join(dir, "ca.pem"); got != want {
			t.Errorf("%s: authorities %s, want %s", name, got, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, ErrInvalid) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"quota", "qota", 1}, {"ab", "ba", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzConfig reads any text: an error of the kind that ends with status 2, or a
// configuration that can be used.
func FuzzConfig(f *testing.F) {
	f.Add("")
	f.Add(good)
	f.Add("[cache]\nquota = \"1GiB\"\ndir = \"/x\"\n" + good + "tag = \"x\"\n[[source]]\n")
	f.Add("[app.fsl]\ngpu = \"on\"\n[launch]\nnever = [\"x\"]\n")
	f.Add("[source]\nfqrn=1\n")
	f.Add("a.b.c = 1\n")
	f.Add(bucket + "[verify_sif]\nmode = \"warn\"\nkeyring = \"k\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%q: an error of another kind: %v", text, err)
			}
			return
		}
		if len(c.Sources) == 0 || c.Cache.Quota <= 0 || !filepath.IsAbs(c.Cache.Dir) {
			t.Errorf("%q: %+v", text, c)
		}
		for _, s := range c.Sources {
			if s.FQRN == "" || strings.ContainsAny(s.FQRN, "/ \n") || s.Path != "" && s.Path[0] != '/' {
				t.Errorf("%q: %+v", text, s)
			}
		}
	})
}

// TestAFileWithoutAnEndIsNoConfiguration, nor is it read into memory.
func TestAFileWithoutAnEndIsNoConfiguration(t *testing.T) {
	if _, err := Load("/dev/zero"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "/dev/zero has more than 16 MiB") {
		t.Error(err)
	}
}
