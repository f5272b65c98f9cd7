package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSite: what a site has told the reference client holds where the
// configuration is silent, and what it has not told leaves the built-in
// repository as it is.
func TestSite(t *testing.T) {
	const cern = "domain.d/cern.ch.conf\nCVMFS_SERVER_URL=http://cern/cvmfs/@fqrn@\nCVMFS_KEYS_DIR=/etc/cvmfs/keys/cern.ch\n"
	const local = "default.local\nCVMFS_HTTP_PROXY=http://squid:3128\n"
	for name, c := range map[string]struct {
		files, source string
		servers       string // the first; "" for a built-in one
		proxies       string
		keys          string
		origin        string // of the keys
		note          string // a part of the one note; "": none
	}{
		"another domain's": {files: cern, proxies: "DIRECT", origin: FromBuiltIn},
		"a folder of keys": {files: "keys/cern.ch/it4.pub\nno key\n", proxies: "DIRECT", origin: FromBuiltIn},
		"proxies alone":    {files: cern + "\x00" + local, proxies: "http://squid:3128", origin: FromBuiltIn},
		"a shell's": {
			files:   "default.local\nif ping -c 1 squid; then\n  CVMFS_HTTP_PROXY=http://squid:3128\nfi\nif true; then CVMFS_QUOTA_LIMIT=1; fi\n",
			proxies: "DIRECT", origin: FromBuiltIn, note: "/default.local:1: a block (if) is passed over",
		},
		"its own": {
			files:   "config.d/neurodesk.ardc.edu.au.conf\nCVMFS_SERVER_URL=http://near/cvmfs/@fqrn@\nCVMFS_KEYS_DIR=/etc/cvmfs/keys/ardc.edu.au\n",
			servers: "http://near/cvmfs/neurodesk.ardc.edu.au", proxies: "DIRECT", keys: "/etc/cvmfs/keys/ardc.edu.au", origin: "config.d/neurodesk.ardc.edu.au.conf:2",
		},
		"a file of keys": {files: "default.local\nCVMFS_PUBLIC_KEY=/k.pub\n", proxies: "DIRECT", keys: "/k.pub", origin: "default.local:1"},
		"another repository": {
			files: cern, source: "fqrn = \"sw.cern.ch\"\n", servers: "http://cern/cvmfs/sw.cern.ch", proxies: "DIRECT",
			keys: "/etc/cvmfs/keys/cern.ch", origin: "domain.d/cern.ch.conf:2",
		},
		"by default": {
			files: local, source: "fqrn = \"sw.cern.ch\"\nservers = [\"http://x/y\"]\n", servers: "http://x/y", proxies: "http://squid:3128",
			keys: "@SITE/keys", origin: FromDefault,
		},
	} {
		t.Run(name, func(t *testing.T) {
			site := t.TempDir()
			for file := range strings.SplitSeq(c.files, "\x00") {
				place, text, _ := strings.Cut(file, "\n")
				place = filepath.Join(site, place)
				if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(place, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, []byte("cvmfs_config = \""+site+"\"\n[[source]]\n"+c.source), 0o644); err != nil {
				t.Fatal(err)
			}
			got, values, err := Explain(file)
			if err != nil {
				t.Fatal(err)
			}
			s := got.Sources[0]
			keys := strings.ReplaceAll(c.keys, "@SITE", site)
			if strings.Join(s.PublicKeys, " ") != keys || s.Proxies != c.proxies || c.servers != "" && s.Servers[0] != c.servers {
				t.Errorf("servers %q, proxies %q, keys %q", s.Servers, s.Proxies, s.PublicKeys)
			}
			notes := strings.Join(s.SiteNotes, "\n")
			if len(s.SiteNotes) > 1 || (c.note == "") != (notes == "") || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q", notes)
			}
			at := slices.IndexFunc(values, func(v Value) bool { return v.Key == "public_keys" })
			if origin := strings.TrimPrefix(values[at].Origin, site+"/"); origin != c.origin {
				t.Errorf("the keys are of %q, not %q", origin, c.origin)
			}
		})
	}
}

// TestSiteDigest: where a value stands in the site's files makes no other tree.
func TestSiteDigest(t *testing.T) {
	site := t.TempDir()
	digest := func(text string) string {
		if err := os.WriteFile(filepath.Join(site, "default.local"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Parse([]byte("cvmfs_config = \"" + site + "\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		return c.Digest()
	}
	const proxy = "CVMFS_HTTP_PROXY=http://squid:3128\n"
	before := digest(proxy)
	if digest("# a comment\n"+proxy) != before {
		t.Error("a comment in the site's file makes another tree")
	}
	if digest("CVMFS_HTTP_PROXY=DIRECT\n") == before {
		t.Error("another proxy does not count")
	}
	if digest(proxy+"CMS_LOCAL_SITE=T3\n") == before {
		t.Error("another target of variant symlinks does not count")
	}
}

// TestSiteVariables: where the site has variant symlinks lead goes before the
// environment, and comes to the worker. Its blacklist, and that redirects are
// followed, hold as well.
func TestSiteVariables(t *testing.T) {
	site := t.TempDir()
	if err := os.WriteFile(filepath.Join(site, "default.local"), []byte("export SITE_SET=/shared\nSITE_EMPTY=\nCVMFS_X=1\nCVMFS_SERVER_URL=http://a/@fqrn@\nCVMFS_FOLLOW_REDIRECTS=On\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	parsed, err := Parse([]byte("cvmfs_config = \"" + site + "\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if s := parsed.Sources[0]; s.Blacklist != filepath.Join(site, "blacklist") || !s.SiteBlacklist {
		t.Errorf("the blacklist is %q, of the site: %v", s.Blacklist, s.SiteBlacklist)
	}
	if !parsed.Sources[0].FollowRedirects {
		t.Error("redirects are not followed")
	}
	if own, err := Parse([]byte("cvmfs_config = \"" + site + "\"\n[[source]]\nblacklist = \"/own\"\n")); err != nil || own.Sources[0].Blacklist != "/own" || own.Sources[0].SiteBlacklist {
		t.Errorf("%+v, %v", own, err)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil || c.Digest() != parsed.Digest() {
		t.Fatalf("%v, %s, was %s", err, c.Digest(), parsed.Digest())
	}
	for _, name := range []string{"SITE_SET", "SITE_EMPTY", "SITE_ENV", "CVMFS_X"} {
		t.Setenv(name, "environment")
	}
	for name, want := range map[string]string{"SITE_SET": "/shared", "SITE_EMPTY": "", "SITE_ENV": "environment", "CVMFS_X": "environment"} {
		if got, ok := c.Sources[0].Variable(name); got != want || !ok {
			t.Errorf("%s is %q, %v", name, got, ok)
		}
	}
	if got, ok := c.Sources[0].Variable("SITE_NOWHERE"); ok {
		t.Errorf("SITE_NOWHERE is %q", got)
	}
}
