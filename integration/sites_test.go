package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// siteTrial is a start on a machine that lacks something, or whose site wants it
// in its own way.
type siteTrial struct {
	command string   // in M/bin
	path    []string // PATH: directories of fakes, see programs; "real" is the machine's own
	runtime string   // NEURODESK_RUNTIME
	around  []string // a program that starts the command
	status  int
	stdout  string
	says    string // a part of the one line on stderr; "" = none
}

// noNamespaces makes a user namespace in which no other can be made, and starts
// a program in it with no more rights than its caller has.
var noNamespaces = []string{"unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
	`echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --inh-caps -all --ambient-caps -all "$0" "$@"`}

// sitePrograms are the fakes, by directory.
var sitePrograms = map[string]string{
	"old/apptainer":        "echo 1.0.3",
	"older/singularity":    "echo 3.7.4-1.el7",
	"ce/singularity":       `[ "$1" = version ] && echo 4.1.5 || exec $(PATH=@PATH command -v apptainer) "$@"`,
	"wrapper/module-run":   `echo "module-run $1" >&2; exec "$@"`,
	"only/bwrap":           `exec $(PATH=@PATH command -v bwrap) "$@"`,
	"none/no-such-runtime": "",
}

var siteTrials = map[string]siteTrial{
	"as it is":                 {command: "nd-argv", path: []string{"real"}, stdout: "1:<a b>"},
	"apptainer too old":        {command: "nd-argv", path: []string{"old"}, status: 125, says: "apptainer 1.0.3 (@DIR/old/apptainer) is too old, 1.1 or newer is needed; try `module load apptainer`"},
	"singularity too old":      {command: "nd-argv", path: []string{"older"}, status: 125, says: "singularity 3.7.4-1.el7 (@DIR/older/singularity) is too old, 3.8 or newer"},
	"both too old, bwrap":      {command: "nd-argv", path: []string{"old", "older", "only"}, stdout: "1:<a b>"},
	"too old, singularity new": {command: "nd-argv", path: []string{"old", "ce", "real"}, stdout: "1:<a b>"},
	"singularity by name":      {command: "nd-argv", path: []string{"ce", "real"}, runtime: "singularity", stdout: "1:<a b>"},
	"no runtime":               {command: "nd-argv", path: []string{"none"}, status: 125, says: "neither apptainer nor singularity is in PATH"},
	"the site's wrapper":       {command: "mrinfo", path: []string{"real"}, stdout: "== mrinfo 3.0.3 ==", says: "module-run apptainer\n"},
	"the wrapper, not bwrap":   {command: "mrinfo", path: []string{"real"}, runtime: "bwrap", status: 125, says: "this site wants its own runtime for mrtrix3"},
	"another architecture":     {command: "nd-foreign", path: []string{"real"}, status: 126, says: "nd-foreign: tool 1.0 is built for aarch64, this machine is x86_64"},
	"its interpreter":          {command: "nd-script", path: []string{"real"}, status: 126, says: "nd-script: tool 1.0 is built for aarch64"},
	"no namespaces, apptainer": {command: "nd-argv", path: []string{"real"}, runtime: "apptainer", around: noNamespaces, status: 125, says: "ask your administrator for `sysctl user.max_user_namespaces=15000`"},
	"no namespaces, bwrap":     {command: "nd-argv", path: []string{"real"}, runtime: "bwrap", around: noNamespaces, status: 125, says: "user.max_user_namespaces = 0"},
	"no such runtime":          {command: "nd-argv", path: []string{"real"}, runtime: "podman", status: 125, says: "NEURODESK_RUNTIME=podman is none of auto, apptainer, singularity, bwrap"},
}

// TestLaunchSites: what cannot be is said in one line, before a runtime starts;
// what a site wants is done. As root it is an ordinary user who starts, for root
// needs no user namespace.
func TestLaunchSites(t *testing.T) {
	dir := shortDir(t)
	for name, script := range sitePrograms {
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, []byte("#!/bin/sh\n"+strings.ReplaceAll(script, "@PATH", os.Getenv("PATH"))+"\n"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	who := callers(t)
	s := newStratum(t)
	golden := s.Golden("neurodesk.golden.test")
	golden.Layout = "neurodesk"
	m := mount(t, setup{
		Sources: []source{s.tool(foreignTool(t), "nd-argv", "nd-foreign", "nd-script"), golden},
		Apps:    fmt.Sprintf("[app.mrtrix3]\nruntime_command = [%q, \"apptainer\"]\n", filepath.Join(dir, "wrapper/module-run")),
	})
	m.Indexed()
	for name, trial := range siteTrials {
		t.Run(name, func(t *testing.T) { trial.check(t, m, dir, who[len(who)-1]) })
	}
}

// foreignTool is an image with a program of another architecture, and a script
// for it.
func foreignTool(t *testing.T) string {
	t.Helper()
	if exists("/proc/sys/fs/binfmt_misc/qemu-aarch64") {
		t.Skip("this machine emulates aarch64")
	}
	rootfs := buildTool(t)
	bin := filepath.Join(rootfs, "bin")
	text, err := os.ReadFile(filepath.Join(bin, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	const machineAt, aarch64 = 18, 183
	text[machineAt], text[machineAt+1] = aarch64, 0
	for name, text := range map[string][]byte{"nd-foreign": text, "nd-script": []byte("#!/bin/nd-foreign\n")} {
		if err := os.WriteFile(filepath.Join(bin, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return rootfs
}

func (s siteTrial) check(t *testing.T, m *mounted, dir string, who caller) {
	t.Helper()
	var path []string
	for _, p := range s.path {
		if p = filepath.Join(dir, p); filepath.Base(p) == "real" {
			p = os.Getenv("PATH")
		}
		path = append(path, p)
	}
	args := append(append([]string{}, s.around...), m.Path("bin", s.command), map[string]string{"mrinfo": "-version"}[s.command])
	if s.command != "mrinfo" {
		args[len(args)-1] = "a b"
	}
	c := exec.Command(args[0], args[1:]...)
	c.Env = []string{"PATH=" + strings.Join(path, ":"), "HOME=" + who.home, "TMPDIR=" + runDir, "APPTAINER_CACHEDIR=" + who.home, "NEURODESK_RUNTIME=" + s.runtime}
	c.Dir = who.home
	c.SysProcAttr = &syscall.SysProcAttr{Credential: who.cred}
	r := run(t, c)
	first, _, _ := strings.Cut(r.Stdout, "\n")
	says := strings.ReplaceAll(s.says, "@DIR", dir)
	if r.Status != s.status || first != s.stdout || !strings.Contains(r.Stderr, says) || (says == "") != (r.Stderr == "") || strings.Count(r.Stderr, "\n") > 1 {
		t.Errorf("exit status %d, want %d; stdout %q, want %q; stderr %q, want %q", r.Status, s.status, r.Stdout, s.stdout, r.Stderr, says)
	}
}
