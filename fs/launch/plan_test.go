package launch

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// testHost is a host whose files are a real directory tree, so that links and modes are real; paths given to Plan are
// those below "/" of that tree.
type testHost struct {
	t    testing.TB
	root string
	Host
	foreign bool // the lock file is to be another user's
}

const testRootfs = "/nd/.neurodeskfs/images/H1/rootfs"

func newHost(t testing.TB) *testHost {
	t.Helper()
	h := &testHost{t: t, root: t.TempDir()}
	real := func(name string) string { return path.Join(h.root, name) }
	h.Host = Host{
		Env: []string{"PATH=/usr/bin:relative:", "HOME=/home/u"}, Cwd: "/work/d", UID: 1000, Launcher: "/nd/.neurodeskfs",
		TopLevel: func() ([]os.DirEntry, error) { return os.ReadDir(h.root) },
		Lstat:    func(n string) (os.FileInfo, error) { return os.Lstat(real(n)) },
		Stat:     func(n string) (os.FileInfo, error) { return imageTree{host: &h.Host, root: "/"}.statAll(n) },
		Readlink: func(n string) (string, error) { return os.Readlink(real(n)) },
		ReadDir:  func(n string, k int) ([]os.DirEntry, error) { return readDir(real(n), k) },
		ReadAt:   func(n string, off int64, k int) ([]byte, error) { return readAt(real(n), off, k) },
		Search: func(n string) bool {
			fi, err := h.Stat(n)
			return err == nil && fi.Mode()&0o001 != 0
		},
	}
	for _, d := range []string{"/home/u", "/work/d", "/tmp", "/var/tmp", "/usr/bin", "/etc", "/opt", "/srv", "/root", "/proc", "/sys", "/dev"} {
		h.dir(d)
	}
	h.file("/usr/bin/apptainer", 0o755, "")
	for _, d := range []string{"/bin", "/opt/fsl/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin", "/var/lib/dpkg", "/tmp", "/srv"} {
		h.dir(testRootfs + d)
	}
	h.file(testRootfs+"/var/lib/dpkg/status", 0o644, "x")
	h.file(testRootfs+"/opt/fsl/bin/bet", 0o755, "x")
	h.file(testRootfs+"/opt/fsl/bin/-console", 0o755, "x")
	h.file(testRootfs+"/opt/fsl/bin/notes", 0o644, "x")
	h.file(testRootfs+"/.singularity.d/env/10-docker2singularity.sh", 0o755,
		"#!/bin/sh\nexport FSLDIR=\"${FSLDIR:-\"/opt/fsl\"}\"\nexport PATH=\"/opt/fsl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n")
	return h
}

// statAll is Stat within the test's own root: links do not leave it.
func (t imageTree) statAll(name string) (os.FileInfo, error) {
	_, fi, err := t.resolve(name)
	return fi, err
}

func (h *testHost) dir(name string) {
	h.t.Helper()
	if err := os.MkdirAll(path.Join(h.root, name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) file(name string, mode os.FileMode, text string) {
	h.t.Helper()
	h.dir(path.Dir(name))
	if err := os.WriteFile(path.Join(h.root, name), []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) link(target, name string) {
	h.t.Helper()
	h.dir(path.Dir(name))
	if err := os.Symlink(target, path.Join(h.root, name)); err != nil {
		h.t.Fatal(err)
	}
}

func bet() Command {
	return Command{
		Launcher: "/nd/.neurodeskfs/launcher", Command: "bet", App: "fsl", Version: "6.0.7.22", Date: "20260416", Hash: "H1",
		Image: "neurodesk.ardc.edu.au:/containers/x", Rootfs: testRootfs, Path: "/opt/fsl/bin/bet",
	}
}

func (h *testHost) plan(p Policy, c Command, args ...string) (*Exec, error) {
	return Plan(p, c, args, h.Host)
}

func mustPlan(t *testing.T, h *testHost, p Policy, c Command, args ...string) *Exec {
	t.Helper()
	e, err := h.plan(p, c, args...)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	return e
}

// option gives the values that follow an option, before the image.
func option(e *Exec, name string) []string {
	var out []string
	for i, w := range e.Argv {
		if w == testRootfs {
			break
		}
		if w == name {
			out = append(out, e.Argv[i+1])
		}
	}
	return out
}

func boundAt(e *Exec, dst string) (Bind, bool) {
	for _, spec := range strings.Split(strings.Join(option(e, "--bind"), ","), ",") {
		if x, err := parseBind(spec, ""); err == nil && x.Dst == dst {
			return x, true
		}
	}
	return Bind{}, false
}

func TestPlanArgv(t *testing.T) {
	h := newHost(t)
	got := mustPlan(t, h, DefaultPolicy(), bet(), "in put", "", "-x", "--bind", "/etc", "*", "$HOME")
	want := []string{
		"/usr/bin/apptainer", "--silent", "exec", "--cleanenv", "--no-mount", "home,tmp,cwd", "--pwd", "/work/d", "--home", "/home/u",
		"--bind", "/home,/nd,/srv,/tmp,/work,/var/tmp", testRootfs, "/opt/fsl/bin/bet", "in put", "", "-x", "--bind", "/etc", "*", "$HOME",
	}
	if !slices.Equal(got.Argv, want) {
		t.Errorf("argv\n got %q\nwant %q", got.Argv, want)
	}
	if got.Path != "/usr/bin/apptainer" || len(got.Warnings) != 0 {
		t.Errorf("path %q, warnings %q", got.Path, got.Warnings)
	}
}

func TestPlanCommand(t *testing.T) {
	for name, test := range map[string]struct {
		command, path string
		prepare       func(h *testHost)
		want          string // command handed to the runtime
		code          int
	}{
		"by path":               {"bet", "/opt/fsl/bin/bet", nil, "/opt/fsl/bin/bet", 0},
		"on the image's PATH":   {"bet", "", nil, "/opt/fsl/bin/bet", 0},
		"dash":                  {"-console", "", nil, "/opt/fsl/bin/-console", 0},
		"missing":               {"nosuch", "", nil, "", StatusNotFound},
		"path missing":          {"bet", "/opt/fsl/bin/gone", nil, "", StatusNotFound},
		"path through a file":   {"bet", "/opt/fsl/bin/bet/x", nil, "", StatusNotFound},
		"not executable":        {"notes", "", nil, "", StatusNotExecutable},
		"path not executable":   {"x", "/opt/fsl/bin/notes", nil, "", StatusNotExecutable},
		"a directory":           {"x", "/opt/fsl/bin", nil, "", StatusNotExecutable},
		"relative, on the host": {"./s.sh", "", func(h *testHost) { h.file("/work/d/s.sh", 0o755, "") }, "/work/d/s.sh", 0},
		"relative, missing":     {"./s.sh", "", nil, "", StatusNotFound},
		"absolute link inside":  {"l", "", func(h *testHost) { h.link("/opt/fsl/bin/bet", testRootfs+"/bin/l") }, "/bin/l", 0},
		"link that dangles":     {"l", "", func(h *testHost) { h.link("/opt/gone", testRootfs+"/bin/l") }, "", StatusNotFound},
		"link to the host":      {"l", "", func(h *testHost) { h.link("../../../../../../../usr/bin/apptainer", testRootfs+"/bin/l") }, "", StatusNotFound},
		"link loop":             {"l", "", func(h *testHost) { h.link("l", testRootfs+"/bin/l") }, "", StatusNotFound},
		"PATH not understood": {"nosuch", "", func(h *testHost) {
			h.file(testRootfs+"/.singularity.d/env/90-environment.sh", 0o755, ". /opt/fsl/fsl.sh\n")
		}, "nosuch", 0},
		"dash, not understood":   {"-nosuch", "", func(h *testHost) { h.file(testRootfs+"/.singularity.d/env/90-environment.sh", 0o755, "eval x\n") }, "", StatusError},
		"PATH given by the user": {"nosuch", "", func(h *testHost) { h.Env = append(h.Env, "APPTAINERENV_PREPEND_PATH=/work/bin") }, "nosuch", 0},
		"an overlay by the user": {"nosuch", "", func(h *testHost) { h.Env = append(h.Env, "neurodesk_singularity_opts=--overlay '/o v'") }, "nosuch", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			if test.prepare != nil {
				test.prepare(h)
			}
			c := bet()
			c.Command, c.Path = test.command, test.path
			e, err := h.plan(DefaultPolicy(), c, "arg")
			if test.code != 0 {
				var exit *Exit
				if !errors.As(err, &exit) || exit.Code != test.code || strings.Contains(exit.Message, "\n") {
					t.Fatalf("error %v, want exit %d", err, test.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Argv[len(e.Argv)-2]; got != test.want {
				t.Errorf("command %q, want %q", got, test.want)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(h *testHost, c *Command)
		code    int
		says    string
	}{
		"retired":            {func(_ *testHost, c *Command) { c.Retired, c.Rootfs = "a known\nbug\x1b[2J", "" }, StatusRetired, "bet: fsl 6.0.7.22 is retired: a known bug"},
		"refused":            {func(_ *testHost, c *Command) { c.Refused = "no key\nhas signed it\x1b[2J" }, StatusError, "bet: no key has signed it"},
		"no runtime":         {func(h *testHost, _ *Command) { h.Env = []string{"PATH=/bin"} }, StatusError, "module load apptainer"},
		"no runtime, nested": {func(h *testHost, _ *Command) { h.Env, h.Nested = []string{"PATH=/bin"}, true }, StatusError, "another container's tool"},
		"deleted cwd":        {func(h *testHost, _ *Command) { h.Cwd, h.CwdErr = "", syscall.ENOENT }, StatusError, "cd to another"},
		"cwd /usr":           {func(h *testHost, _ *Command) { h.Cwd = "/usr" }, StatusError, "hide the image's own"},
		"cwd /usr/bin":       {func(h *testHost, _ *Command) { h.Cwd = "/usr/bin" }, StatusError, "hide the image's own"},
		"cwd in both":        {func(h *testHost, _ *Command) { h.dir("/opt/fsl"); h.Cwd = "/opt/fsl" }, StatusError, "hide the image's own"},
		"cwd /var/lib":       {func(h *testHost, _ *Command) { h.dir("/var/lib"); h.Cwd = "/var/lib" }, StatusError, "hide the image's own"},
		"cwd unreadable": {func(h *testHost, _ *Command) {
			h.dir("/work/p")
			if err := os.Chmod(h.root+"/work/p", 0o700); err != nil {
				h.t.Fatal(err)
			}
			h.Cwd = "/work/p"
		}, StatusError, "cannot be entered"},
		"unbalanced opts": {func(h *testHost, _ *Command) { h.Env = append(h.Env, `neurodesk_singularity_opts=--bind "/a`) }, StatusError, "unbalanced"},
		"name no UTF-8": {func(h *testHost, c *Command) {
			c.Path = "/opt/\xff"
			h.file(testRootfs+c.Path, 0o755, "x")
		}, StatusError, "no UTF-8"},
		"cwd no UTF-8": {func(h *testHost, _ *Command) { h.dir("/work/\xff"); h.Cwd = "/work/\xff" }, StatusError, "no UTF-8"},
		"bad rootfs":   {func(_ *testHost, c *Command) { c.Rootfs = "--writable" }, StatusError, "rootfs"},
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHost(t), bet()
			test.prepare(h, &c)
			_, err := h.plan(DefaultPolicy(), c)
			var exit *Exit
			if !errors.As(err, &exit) || exit.Code != test.code || !strings.Contains(exit.Message, test.says) {
				t.Fatalf("got %v, want exit %d and %q", err, test.code, test.says)
			}
			if !strings.HasPrefix(exit.Message, "bet: ") || strings.ContainsAny(exit.Message, "\n\x1b") {
				t.Errorf("message %q", exit.Message)
			}
		})
	}
}

func TestPlanCwdThatIsBound(t *testing.T) {
	for _, cwd := range []string{"/opt/data", "/root", "/root/x", "/var/lib/slurm/job", "/run/user/1000", "/usr/data", "/etc/mine"} {
		h := newHost(t)
		h.dir(cwd)
		h.Cwd = cwd
		e := mustPlan(t, h, DefaultPolicy(), bet())
		if x, ok := boundAt(e, cwd); !ok || x.Src != cwd {
			t.Errorf("%s: not bound in %q", cwd, option(e, "--bind"))
		}
		if got := option(e, "--pwd"); !slices.Equal(got, []string{cwd}) {
			t.Errorf("%s: --pwd %q", cwd, got)
		}
	}
	for _, cwd := range []string{"/", "/dev/shm", "/proc/self", "/srv/deep"} {
		h := newHost(t)
		h.dir(cwd)
		h.Cwd = cwd
		if _, ok := boundAt(mustPlan(t, h, DefaultPolicy(), bet()), cwd); ok {
			t.Errorf("%s: bound once more", cwd)
		}
	}
}

func TestRuntimeChoice(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(h *testHost, p *Policy)
		path    string
		prefix  string
	}{
		"apptainer":      {func(*testHost, *Policy) {}, "/usr/bin/apptainer", "APPTAINERENV_"},
		"singularity":    {func(h *testHost, p *Policy) { p.Runtime = "singularity"; h.file("/usr/bin/singularity", 0o755, "") }, "/usr/bin/singularity", "SINGULARITYENV_"},
		"its other name": {func(h *testHost, p *Policy) { p.Runtime = "singularity"; h.link("apptainer", "/usr/bin/singularity") }, "/usr/bin/singularity", "APPTAINERENV_"},
		"for one call": {func(h *testHost, _ *Policy) {
			h.Env = append(h.Env, "NEURODESK_RUNTIME=singularity")
			h.file("/usr/bin/singularity", 0o755, "")
		}, "/usr/bin/singularity", "SINGULARITYENV_"},
		"configured": {func(_ *testHost, p *Policy) { p.RuntimeCommand = []string{"/site/run", "singularity"} }, "/site/run", "SINGULARITYENV_"},
		"never the mount": {func(h *testHost, _ *Policy) {
			h.Env = []string{"PATH=/nd/bin:/usr/bin"}
			h.file("/nd/bin/apptainer", 0o755, "")
		}, "/usr/bin/apptainer", "APPTAINERENV_"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := newHost(t), DefaultPolicy()
			test.prepare(h, &p)
			e := mustPlan(t, h, p, bet())
			if e.Path != test.path || !slices.Contains(e.Env, test.prefix+"PYTHONNOUSERSITE=1") {
				t.Errorf("path %q, env %q", e.Path, e.Env)
			}
		})
	}
}

func TestGPU(t *testing.T) {
	for name, test := range map[string]struct {
		device, mode, call, want string
	}{
		"none":              {"", "auto", "", ""},
		"nvidia":            {"/dev/nvidiactl", "auto", "", "--nv"},
		"amd":               {"/dev/kfd", "auto", "", "--rocm"},
		"off by policy":     {"/dev/nvidiactl", "off", "", ""},
		"off for one call":  {"/dev/nvidiactl", "auto", "0", ""},
		"on for one call":   {"/dev/nvidiactl", "off", "1", "--nv"},
		"on without device": {"", "on", "", "--nv"},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := newHost(t), DefaultPolicy()
			if test.device != "" {
				h.file(test.device, 0o666, "")
			}
			p.Apps = map[string]AppPolicy{"fsl": {GPU: test.mode}}
			h.Env = append(h.Env, "NEURODESK_GPU="+test.call)
			e := mustPlan(t, h, p, bet())
			for _, o := range []string{"--nv", "--rocm"} {
				if slices.Contains(e.Argv, o) != (o == test.want) {
					t.Errorf("argv %q, want %q", e.Argv, test.want)
				}
			}
		})
	}
}

func TestDebugLineIsReadBack(t *testing.T) {
	h := newHost(t)
	h.Env = append(h.Env, "NEURODESK_DEBUG=1", "APPTAINER_BINDPATH=/work", "OMP_NUM_THREADS=a 'b'\nc")
	e := mustPlan(t, h, DefaultPolicy(), bet(), "it's", "two\nlines", "")
	words, err := Split(e.Line())
	if err != nil || !e.Debug {
		t.Fatal(err, e.Debug)
	}
	at := slices.Index(words, e.Path)
	if at < 0 || !slices.Equal(words[at+1:], e.Argv[1:]) {
		t.Errorf("line %q gives %q", e.Line(), words)
	}
	for _, want := range []string{"APPTAINERENV_OMP_NUM_THREADS=a 'b'\nc", "APPTAINER_BINDPATH"} {
		if !slices.Contains(words[:max(at, 0)], want) {
			t.Errorf("line %q lacks %q", e.Line(), want)
		}
	}
}

// TestMessagesAreObeyedByNoTerminal: whoever publishes an app names it.
func TestMessagesAreObeyedByNoTerminal(t *testing.T) {
	h, c := newHost(t), bet()
	c.App, c.Path, c.Command = "a\u009b31m\u202eb", "", "none"
	_, err := h.plan(DefaultPolicy(), c)
	var told strings.Builder
	say(&told, err.Error())
	if got, want := told.String(), "neurodeskfs: none: no such command in a?31m?b 6.0.7.22; "; !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}
