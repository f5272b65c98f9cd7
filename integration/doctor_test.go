package integration

import (
	"slices"
	"strings"
	"testing"
)

// doctorCheck is a row of doctor's report.
type doctorCheck struct{ Name, Verdict, Text, Mend string }

// examine runs doctor and returns what it says, without the other mounts of
// this machine, which may be dead and are not the test's. Its exit status must
// be 1 where something failed, and 0 elsewhere.
func examine(t *testing.T, m *mounted, args ...string) []doctorCheck {
	t.Helper()
	r := neurodeskfs(t, append([]string{"doctor", "--json", "--config", m.Config}, args...)...)
	list := decode[[]doctorCheck](t, r)
	want := 0
	if slices.ContainsFunc(list, func(c doctorCheck) bool { return c.Verdict == "fail" }) {
		want = 1
	}
	if r.Status != want {
		t.Errorf("doctor %q: exit status %d, want %d\n%s%s", args, r.Status, want, r.Stdout, r.Stderr)
	}
	return slices.DeleteFunc(list, func(c doctorCheck) bool {
		return strings.HasPrefix(c.Name, "mount /") && c.Name != "mount "+m.Dir
	})
}

// failed returns the first check that failed.
func failed(list []doctorCheck) doctorCheck {
	for _, c := range list {
		if c.Verdict == "fail" {
			return c
		}
	}
	return doctorCheck{}
}

func TestDoctor(t *testing.T) {
	find := func(list []doctorCheck, name string) doctorCheck {
		t.Helper()
		if i := slices.IndexFunc(list, func(c doctorCheck) bool { return c.Name == name }); i >= 0 {
			return list[i]
		}
		t.Errorf("no check %q in %+v", name, list)
		return doctorCheck{}
	}
	s := newStratum(t)
	m := mount(t, setup{Sources: []source{s.Golden("alpha.golden.test")}})
	requests := m.Status().Sources[0].HTTPRequests
	list := examine(t, m)
	if bad := failed(list); bad.Name != "" {
		t.Errorf("%+v", bad)
	}
	if c := find(list, "alpha.golden.test dates"); !strings.Contains(c.Text, "valid until") {
		t.Errorf("%+v", c)
	}
	find(list, "mount "+m.Dir)
	if got := m.Status().Sources[0].HTTPRequests; got != requests {
		t.Errorf("doctor made the mount ask its servers %d times", got-requests)
	}
	text := neurodeskfs(t, "doctor", "--config", m.Config).Stdout
	if !strings.Contains(text, "mount "+m.Dir) {
		t.Errorf("the text does not name the mount %s:\n%s", m.Dir, text)
	}
	wantNarrow(t, "doctor", strings.ReplaceAll(text, runDir, ""))
	if c := find(examine(t, m, "--network"), "alpha.golden.test server"); c.Verdict != "ok" {
		t.Errorf("%+v", c)
	}
	m.Unmount()
	s.Close()
	if bad := failed(examine(t, m, "--network")); bad.Name != "alpha.golden.test servers" || bad.Mend == "" {
		t.Errorf("%+v", bad)
	}
	wantRun(t, 1, "doctor", "--config", "/no/such/file")
}
