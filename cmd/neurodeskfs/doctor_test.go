package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
)

// makeMachine makes a root directory of small files.
func makeMachine(t *testing.T, uid int, files map[string]string) machine {
	t.Helper()
	m := machine{t.TempDir(), uid}
	for path, text := range files {
		file := filepath.Join(m.root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestMachineChecks(t *testing.T) {
	t.Setenv("PATH", "/usr/bin")
	const helper = "#!/bin/sh\necho fusermount3 version: 3.99\n"
	bare := makeMachine(t, 1000, nil)
	good := makeMachine(t, 0, map[string]string{
		"dev/fuse": "", "usr/bin/fusermount3": helper, "etc/fuse.conf": "# user_allow_other\nuser_allow_other\n",
		"proc/sys/user/max_user_namespaces": "15000\n", "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n",
	})
	bad := makeMachine(t, 1000, map[string]string{
		"usr/bin/fusermount3": helper, "etc/fuse.conf": "#user_allow_other\n",
		"proc/sys/user/max_user_namespaces": "0\n", "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
	})
	for _, c := range []struct {
		what string
		got  Check
		want Verdict
		text string
	}{
		{"no device", bare.fuseDevice(), VerdictFail, "no /dev/fuse"},
		{"device", good.fuseDevice(), VerdictOK, "can be opened"},
		{"no helper for a user", bare.fusermount(t.Context()), VerdictFail, "cannot mount"},
		{"no helper for root", machine{bare.root, 0}.fusermount(t.Context()), VerdictWarn, "root does not need it"},
		{"helper", good.fusermount(t.Context()), VerdictOK, "3.99"},
		{"helper without setuid", bad.fusermount(t.Context()), VerdictFail, "setuid"},
		{"allow_other", good.allowOther(), VerdictOK, "is set"},
		{"a comment", bad.allowOther(), VerdictOK, "for you alone"},
	} {
		if c.got.Verdict != c.want || !strings.Contains(c.got.Text, c.text) || c.want != VerdictOK && c.got.Mend == "" {
			t.Errorf("%s: %+v", c.what, c.got)
		}
	}
	if got := good.userNamespaces(); len(got) != 1 || got[0].Verdict != VerdictOK {
		t.Errorf("%+v", got)
	}
	if got := bad.userNamespaces(); len(got) != 2 || got[0].Verdict != VerdictWarn || !strings.Contains(got[1].Text, "AppArmor") {
		t.Errorf("%+v", got)
	}
}

func TestCacheDiskChecks(t *testing.T) {
	dir := t.TempDir()
	if got := cacheDisk(config.Cache{Dir: filepath.Join(dir, "a/b"), Quota: 1}); got[len(got)-1].Verdict != VerdictOK {
		t.Errorf("%+v", got)
	}
	if got := cacheDisk(config.Cache{Dir: dir, Quota: 1 << 60}); got[len(got)-1].Verdict != VerdictWarn {
		t.Errorf("a quota beyond the disk: %+v", got)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cacheDisk(config.Cache{Dir: file}); got[0].Verdict != VerdictFail {
		t.Errorf("a file: %+v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".doctor-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDatesAndRoutes(t *testing.T) {
	s := config.Source{FQRN: "a.b", Servers: []string{"http://localhost/cvmfs/a.b"}, Proxies: "DIRECT"}
	if got := checkDates(s, nil, evidence{}); got.Verdict != VerdictOK {
		t.Errorf("%+v", got)
	}
	if got := checkDates(s, nil, evidence{Whitelist: []byte("no whitelist")}); got.Verdict != VerdictFail {
		t.Errorf("%+v", got)
	}
	if got := checkRoute(s); got.Verdict != VerdictOK {
		t.Errorf("%+v", got)
	}
	if got := clock(); (got.Verdict == VerdictOK) != (time.Now().Year() >= 2025) {
		t.Errorf("%+v", got)
	}
	if got := strings.Join(proxyURLs("http://a:3128|http://b:3128; http://c:3128;DIRECT"), " "); got != "http://a:3128 http://b:3128 http://c:3128" {
		t.Errorf("%q", got)
	}
	var b strings.Builder
	printChecks(&b, []Check{warn("n", strings.Repeat("word ", 30), "\x1b[2J %s", strings.Repeat("text ", 30))})
	for line := range strings.Lines(b.String()) {
		if len(line) > screenWidth+1 || strings.Contains(line, "\x1b") {
			t.Errorf("%q", line)
		}
	}
}
