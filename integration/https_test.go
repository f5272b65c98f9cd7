package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountHTTPS: a server whose certificate a site's own authority signed is
// believed with ca_bundle, and not without.
func TestMountHTTPS(t *testing.T) {
	server, authority, err := cvmfstest.NewTLSServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	s := &stratum{server, t}
	tree := cvmfstest.NewTree()
	tree.File("file", []byte("by https\n"), 0o644)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "https.example.org"}, tree)
	if r := refused(t, setup{Sources: []source{src}}); r.Status != 4 {
		t.Errorf("without the authority: exit status %d, %s", r.Status, r.Stderr)
	}
	src.CABundle = filepath.Join(shortDir(t), "ca.pem")
	if err := os.WriteFile(src.CABundle, authority, 0o644); err != nil {
		t.Fatal(err)
	}
	m := mount(t, setup{Sources: []source{src}})
	if b, err := os.ReadFile(m.Raw("https.example.org", "file")); err != nil || string(b) != "by https\n" {
		t.Errorf("%q, %v", b, err)
	}
	// doctor asks the server as the mount does.
	var found []struct{ Name, Verdict, Text string }
	if err := json.Unmarshal([]byte(neurodeskfs(t, "doctor", "--json", "--network", "--config", m.Config).Stdout), &found); err != nil {
		t.Fatal(err)
	}
	for _, check := range found {
		if strings.HasPrefix(check.Name, "https.example.org") && check.Verdict != "ok" {
			t.Errorf("doctor says %+v", check)
		}
	}
}

// TestMountExpiredWhitelist: refused; with --allow-expired-whitelist taken, and said.
func TestMountExpiredWhitelist(t *testing.T) {
	w := newFaultSite(t, false)
	w.a.Inject(cvmfstest.Path(whitelist), 0, cvmfstest.Replace(w.expired))
	w.b.Inject(cvmfstest.Path(whitelist), 0, cvmfstest.Replace(w.expired))
	if r := refused(t, setup{Sources: []source{w.src}}); r.Status != 4 {
		t.Errorf("exit status %d, %s", r.Status, r.Stderr)
	}
	m := mount(t, setup{Sources: []source{w.src}, Args: []string{"--allow-expired-whitelist"}})
	if b, err := os.ReadFile(m.Raw(faultFQRN, "object")); err != nil || len(b) != len(w.content) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	says := wantRun(t, 0, "status", m.Dir).Stdout
	for _, text := range []string{"whitelist expired on", "--allow-expired-whitelist"} {
		if !strings.Contains(strings.Join(strings.Fields(says), " "), text) {
			t.Errorf("status does not say %q: %s", text, says)
		}
	}
	if log := m.Log(); !strings.Contains(log, "--allow-expired-whitelist lets pass") {
		t.Error(log)
	}
}
