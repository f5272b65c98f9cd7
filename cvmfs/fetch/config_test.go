package fetch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseProxies(t *testing.T) {
	for _, tt := range []struct{ regular, fallback, want string }{
		{"auto;DIRECT", "", "DIRECT"}, // what CernVM sets
		{"http://a:1|AUTO;auto;http://b:2", "", "http://a:1;http://b:2"},
		{"auto", "http://f:1", "http://f:1"},
		{"", "", "DIRECT"},
		{" ; ", "", "DIRECT"},
		{"direct", "", "DIRECT"},
		{"http://a:1|http://b:2;c:3;DIRECT", "", "http://a:1|http://b:2;http://c:3;DIRECT"},
		{"http://a:1||;;http://b:2;", "", "http://a:1;http://b:2"},
		{"http://a:1;DIRECT", "http://f:1;http://g:1|DIRECT", "http://a:1;http://f:1;http://g:1"},
		{"DIRECT", "http://f:1", "http://f:1"},
		{"http://a:1;DIRECT", "DIRECT", "http://a:1;DIRECT"},
		{"http://[::1]:3128/", "", "http://[::1]:3128"},
		{"http://user:secret@a:1", "", "http://user:xxxxx@a:1"},
		{"https://a:1", "", "https://a:1"},
	} {
		groups, auto, err := parseProxies(tt.regular, tt.fallback)
		if err != nil || auto != strings.Contains(tt.regular, "auto") {
			t.Errorf("%q: auto %v, %v", tt.regular, auto, err)
			continue
		}
		var got []string
		for i, g := range groups {
			var members []string
			for _, p := range g {
				members = append(members, p.label)
				if p.group != i {
					t.Errorf("%q: %s is in group %d, not %d", tt.regular, p.label, p.group, i)
				}
			}
			got = append(got, strings.Join(members, "|"))
		}
		if s := strings.Join(got, ";"); s != tt.want {
			t.Errorf("%q with %q: %s, want %s", tt.regular, tt.fallback, s, tt.want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for hint, cfg := range map[string]Config{
		"write http://host/path":      {Servers: []string{"host.example.org/cvmfs"}},
		"scheme \"ftp\"":              {Servers: []string{"ftp://h/"}},
		"no host is named":            {Servers: []string{"http:///cvmfs"}},
		"repository's name":           {Servers: []string{"http://h/cvmfs/@fqrn@"}},
		"no query":                    {Servers: []string{"http://h/?x"}},
		"auto":                        {Proxies: "auto; AUTO|auto"},
		"names no host and port":      {Proxies: "http://squid"},
		"scheme \"socks5\"":           {Proxies: "socks5://h:1"},
		"http://a:3128|http://b:3128": {Proxies: "http://us er:secret@h:1"},
		"port; write":                 {FallbackProxies: "http://:3128"},
		"TimeoutDirect is":            {TimeoutDirect: -time.Second},
		"MaxInFlight":                 {MaxInFlight: -1},
		"write \"geo\", \"probe\"":    {Order: "random"},
		"MaxServers is -1":            {MaxServers: -1},
		"read CA bundle":              {CABundle: empty + ".not"},
		"holds no certificate":        {CABundle: empty},
	} {
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want %q in it", cfg, err, hint)
		}
	}
}

func TestServersOnce(t *testing.T) {
	hosts, err := parseServers([]string{"http://a/r", "http://b/r/", "http://a/r/", "http://u:secret@c/r"})
	if err != nil || len(hosts) != 3 || hosts[1].label != "http://b/r" || hosts[2].label != "http://u:xxxxx@c/r" {
		t.Errorf("%v, %v", hosts, err)
	}
}
