package launch

import (
	"slices"
	"strings"
	"testing"
)

// TestCallerWithoutEnvironment: `env -i` and cron start tools as a login shell does, and every runtime gives the same HOME.
func TestCallerWithoutEnvironment(t *testing.T) {
	for _, env := range [][]string{{}, {"PATH=", "HOME="}, {"HOME=relative"}, {"HOME=//"}} {
		h := newHost(t)
		h.file("/etc/passwd", 0o644, "u:x:1000:1000:U:/home/u:/bin/bash\n")
		h.Env = env
		e := mustPlan(t, h, DefaultPolicy(), bet())
		if e.Path != "/usr/bin/apptainer" || !slices.Equal(option(e, "--home"), []string{"/home/u"}) {
			t.Errorf("%q: %s, --home %q", env, e.Path, option(e, "--home"))
		}
		h = bwrapHost(t)
		h.file("/usr/bin/bwrap", 0o755, "")
		h.Env = append(env, "NEURODESK_RUNTIME=bwrap")
		if e := mustPlan(t, h, DefaultPolicy(), bet()); !slices.Contains(e.Env, "HOME=/home/u") {
			t.Errorf("%q: bwrap's environment is %q", env, e.Env)
		}
	}
	h := newHost(t) // no account and no variable: as the runtime decides
	h.Env = nil
	if e := mustPlan(t, h, DefaultPolicy(), bet()); len(option(e, "--home")) != 0 {
		t.Errorf("--home %q", option(e, "--home"))
	}
}

// TestIgnoredSignals: what the caller ignores, as by nohup, the tool ignores too, which apptainer would undo.
func TestIgnoredSignals(t *testing.T) {
	h := newHost(t)
	h.Ignored = []string{"HUP", "INT"}
	tail := func() []string {
		e := mustPlan(t, h, DefaultPolicy(), bet(), "--x", "a b", "")
		return e.Argv[slices.Index(e.Argv, testRootfs)+1:]
	}
	plain := []string{"/opt/fsl/bin/bet", "--x", "a b", ""}
	if got := tail(); !slices.Equal(got, plain) {
		t.Errorf("without a shell in the image: %q", got)
	}
	h.file(testRootfs+"/bin/sh", 0o755, "x")
	if got, want := tail(), append([]string{"/bin/sh", "-c", `trap '' HUP INT; exec "$@"`, "sh"}, plain...); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	h = bwrapHost(t) // the tool is our own child, and inherits it
	h.Ignored = []string{"HUP"}
	h.file(testRootfs+"/bin/sh", 0o755, "x")
	if e := mustPlan(t, h, DefaultPolicy(), bet()); strings.Contains(strings.Join(e.Argv, " "), "trap") {
		t.Errorf("%q", e.Argv)
	}
}
