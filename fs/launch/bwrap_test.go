package launch

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// bwrapHost is newHost with bwrap as its only runtime and a known environment of the image.
func bwrapHost(t testing.TB) *testHost {
	t.Helper()
	h := newHost(t)
	h.file("/fast/bwrap", 0o755, "")
	h.file("/etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nu:x:1000:1000:U:/home/u:/bin/bash\n")
	h.file("/etc/group", 0o644, "u:x:1000:\nlab:x:50:\n")
	h.file("/etc/hosts", 0o644, "")
	h.file(testRootfs+"/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash")
	h.file(testRootfs+"/etc/group", 0o644, "root:x:0:\n")
	h.file(testRootfs+"/etc/hosts", 0o644, "")
	for _, d := range []string{"/proc", "/sys", "/dev", "/home", "/work", "/nd", "/var/tmp", "/fast"} {
		h.dir(testRootfs + d)
	}
	h.Env = []string{"PATH=/fast", "HOME=/home/u", "USER=u"}
	h.GID, h.Groups = 1000, []int{50, 77}
	h.ImageEnv = func(hash, home string, probe func() (*Exec, error)) ([]Var, error) {
		if hash != "H1" || home != "/home/u" {
			t.Errorf("asked for the environment of %s with HOME=%s", hash, home)
		}
		if e, err := probe(); err != nil || e.Runtime != "bwrap" {
			t.Errorf("the probe is %+v, error %v", e, err)
		}
		return []Var{{"FSLDIR", "/opt/fsl"}, {"LD_LIBRARY_PATH", "/x"}, {"OMP_X", "image"}, {"PATH", "/opt/fsl/bin:/usr/bin"}}, nil
	}
	return h
}

// steps gives the mounts of a plan, one text for each option.
func steps(e *Exec) []string {
	var out []string
	end := slices.Index(e.Argv, "--")
	for _, w := range e.Argv[1:end] {
		if strings.HasPrefix(w, "--") {
			out = append(out, w)
		} else if len(out) > 0 {
			out[len(out)-1] += " " + w
		}
	}
	return out
}

func TestBwrapArgv(t *testing.T) {
	h := bwrapHost(t)
	h.Env = append(h.Env, "OMP_X=mine", "LD_PRELOAD=/evil.so")
	e := mustPlan(t, h, DefaultPolicy(), bet(), "--bind", "/", "x", "--", "\xff")
	want := []string{
		"--die-with-parent", "--info-fd 1", "--block-fd 2", "--file 0 /dev/gate", "--ro-bind " + testRootfs + " /",
		"--ro-bind /etc/hosts /etc/hosts",
		"--ro-bind-data 3 /etc/passwd", "--ro-bind-data 4 /etc/group",
		"--bind /fast /fast", "--bind /home /home", "--bind /nd /nd", "--bind /srv /srv", "--bind /tmp /tmp", "--bind /work /work", "--bind /var/tmp /var/tmp",
		"--dev-bind /dev /dev", "--bind /proc /proc", "--bind /sys /sys", "--setenv LD_LIBRARY_PATH /x", "--chdir /work/d",
	}
	if got := steps(e); !slices.Equal(got, want) {
		t.Errorf("steps\n got %q\nwant %q", got, want)
	}
	tail := []string{"--", "/opt/fsl/bin/bet", "--bind", "/", "x", "--", "\xff"}
	if got := e.Argv[len(e.Argv)-len(tail):]; !slices.Equal(got, tail) {
		t.Errorf("command %q, want %q", got, tail)
	}
	for _, v := range []string{"OMP_X=mine", "FSLDIR=/opt/fsl", "HOME=/home/u", "PWD=/work/d", "PATH=/opt/fsl/bin:/usr/bin", "APPTAINER_NAME=rootfs"} {
		if !slices.Contains(e.Env, v) {
			t.Errorf("environment %q lacks %s", e.Env, v)
		}
	}
	for _, v := range e.Env {
		if strings.HasPrefix(v, "LD_") {
			t.Errorf("bwrap itself would obey %s", v)
		}
	}
	if e.Path != "/fast/bwrap" || e.Runtime != "bwrap" || len(e.feedArgs) != 5 {
		t.Errorf("path %q, runtime %q, descriptors at %d", e.Path, e.Runtime, e.feedArgs)
	}
	passwd, group := string(e.feeds[0].text), string(e.feeds[1].text)
	if passwd != "root:x:0:0:root:/root:/bin/bash\nu:x:1000:1000:U:/home/u:/bin/bash\n" || group != "root:x:0:\nu:x:1000:u\nlab:x:50:u\n" {
		t.Errorf("passwd %q, group %q", passwd, group)
	}
}

func TestBwrapOpensWhatIsMissing(t *testing.T) {
	for name, test := range map[string]struct {
		prepare  func(h *testHost)
		has, not []string
		fails    string
	}{
		"cwd in /opt": {func(h *testHost) { h.dir("/opt/mine/x"); h.Cwd = "/opt/mine/x" },
			[]string{"--ro-bind " + testRootfs + " /", "--tmpfs /opt", "--ro-bind " + testRootfs + "/opt/fsl /opt/fsl", "--bind /opt/mine/x /opt/mine/x", "--remount-ro /opt"},
			[]string{"--ro-bind " + testRootfs + "/usr /usr", "--ro-bind " + testRootfs + "/opt /opt", "--remount-ro /"}, ""},
		"a place at the top and one below": {func(h *testHost) { h.dir("/data"); h.dir("/opt/mine/x"); h.Cwd = "/opt/mine/x" },
			[]string{"--ro-bind " + testRootfs + "/usr /usr", "--tmpfs /opt", "--bind /data /data", "--bind /opt/mine/x /opt/mine/x", "--remount-ro /", "--remount-ro /opt"},
			[]string{"--ro-bind " + testRootfs + " /", "--ro-bind " + testRootfs + "/opt /opt"}, ""},
		"a place that is covered again": {func(h *testHost) {
			h.dir("/opt/mine")
			h.Env = append(h.Env, "APPTAINER_BINDPATH=/opt/mine,/work/d:/opt")
		}, []string{"--tmpfs /opt", "--bind /opt/mine /opt/mine", "--bind /work/d /opt"}, []string{"--remount-ro /opt"}, ""},
		"links stay links": {func(h *testHost) { h.link("usr/lib", testRootfs+"/lib"); h.dir("/data") },
			[]string{"--symlink usr/lib /lib", "--bind /data /data"}, nil, ""},
		"a destination behind a link": {func(h *testHost) {
			h.link("/srv/real", testRootfs+"/data")
			h.dir(testRootfs + "/srv/real")
			h.dir("/data")
		}, []string{"--bind /data /srv/real"}, nil, ""},
		"HOME=/root": {func(h *testHost) {
			h.Env = append(h.Env, "HOME=/root")
			h.ImageEnv = func(string, string, func() (*Exec, error)) ([]Var, error) { return []Var{{"PATH", "/bin"}}, nil }
		}, []string{"--bind /root /root"}, nil, ""},
		"read-only bind": {func(h *testHost) { h.Env = append(h.Env, "APPTAINER_BINDPATH=/work/d:/in:ro") }, []string{"--ro-bind /work/d /in"}, nil, ""},
		"an option's bind": {func(h *testHost) {
			h.Env = append(h.Env, "neurodesk_singularity_opts=-B /work/d:/in --env A=b,C=d --silent")
		}, []string{"--bind /work/d /in"}, nil, ""},
		"a place on the host":  {func(h *testHost) { h.Env = append(h.Env, "APPTAINER_BINDPATH=/work/d:/home/none") }, nil, nil, "has no place"},
		"a place below a file": {func(h *testHost) { h.Env = append(h.Env, "APPTAINER_BINDPATH=/work/d:/opt/fsl/bin/bet/x") }, nil, nil, "the image has a file"},
		"a dangling link as place": {func(h *testHost) {
			h.link("/gone", testRootfs+"/in")
			h.Env = append(h.Env, "APPTAINER_BINDPATH=/work/d:/in")
		}, nil, nil, "dangling link"},
		"an option that it cannot do":  {func(h *testHost) { h.Env = append(h.Env, "neurodesk_singularity_opts=--overlay /o") }, nil, nil, "bwrap cannot do --overlay"},
		"a bind option without source": {func(h *testHost) { h.Env = append(h.Env, "neurodesk_singularity_opts=--bind /none") }, nil, nil, "not on this host"},
		"no environment to be had": {func(h *testHost) {
			h.ImageEnv = func(string, string, func() (*Exec, error)) ([]Var, error) { return nil, os.ErrPermission }
			h.file(testRootfs+"/.singularity.d/env/90-environment.sh", 0o755, "eval x\n")
		}, nil, nil, "environment scripts"},
		"environment as text": {func(h *testHost) {
			h.ImageEnv = func(string, string, func() (*Exec, error)) ([]Var, error) { return nil, os.ErrPermission }
		}, []string{"--setenv LD_LIBRARY_PATH /.singularity.d/libs"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := bwrapHost(t)
			test.prepare(h)
			e, err := h.plan(DefaultPolicy(), bet())
			if test.fails != "" {
				var exit *Exit
				if !errors.As(err, &exit) || exit.Code != StatusError || !strings.Contains(exit.Message, test.fails) {
					t.Fatalf("got %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := steps(e)
			for _, s := range test.has {
				if !slices.Contains(got, s) {
					t.Errorf("%q lacks %q", got, s)
				}
			}
			for _, s := range test.not {
				if slices.Contains(got, s) {
					t.Errorf("%q has %q", got, s)
				}
			}
		})
	}
}

// TestBwrapAsksAnEditableImageEachTime: a sandbox directory keeps its hash while somebody edits its environment scripts.
func TestBwrapAsksAnEditableImageEachTime(t *testing.T) {
	for name, test := range map[string]struct {
		change func(h *testHost, c *Command)
		want   string
	}{
		"of a repository": {func(*testHost, *Command) {}, "H1"},
		"a local SIF":     {func(_ *testHost, c *Command) { c.Image = "/work/x.sif" }, "H1"},
		"a local sandbox": {func(h *testHost, c *Command) {
			c.Image, c.Rootfs = "/work/box", "/work/box"
			h.file("/work/box/opt/fsl/bin/bet", 0o755, "x")
			for _, dir := range []string{"proc", "sys", "dev", "home", "work", "nd", "tmp", "srv", "fast", "var/tmp"} {
				h.dir("/work/box/" + dir)
			}
		}, ""},
	} {
		h, c := bwrapHost(t), bet()
		test.change(h, &c)
		asked := "nobody"
		h.ImageEnv = func(hash, _ string, _ func() (*Exec, error)) ([]Var, error) {
			asked = hash
			return []Var{{"PATH", "/bin"}}, nil
		}
		if mustPlan(t, h, DefaultPolicy(), c); asked != test.want {
			t.Errorf("%s: kept by %q, want %q", name, asked, test.want)
		}
	}
}

func TestBwrapContained(t *testing.T) {
	h, p := bwrapHost(t), DefaultPolicy()
	p.Contain = true
	got := steps(mustPlan(t, h, p, bet()))
	for _, s := range []string{"--dev /dev", "--tmpfs /tmp", "--tmpfs /var/tmp", "--bind /home/u /home/u", "--bind /work/d /work/d"} {
		if !slices.Contains(got, s) {
			t.Errorf("%q lacks %q", got, s)
		}
	}
	if slices.Contains(got, "--bind /tmp /tmp") {
		t.Errorf("%q has the host's /tmp", got)
	}
}

// TestBwrapHandsOver: what bwrap cannot do goes to apptainer where that is there, also if the user asked for bwrap.
func TestBwrapHandsOver(t *testing.T) {
	for name, change := range map[string]func(h *testHost, p *Policy, c *Command){
		"GPU":            func(h *testHost, _ *Policy, _ *Command) { h.file("/dev/nvidiactl", 0o666, "") },
		"writable tmpfs": func(_ *testHost, p *Policy, _ *Command) { p.WritableTmpfs = true },
		"a variable":     func(h *testHost, _ *Policy, _ *Command) { h.Env = append(h.Env, "APPTAINER_WRITABLE_TMPFS=1") },
		"the GPU's":      func(h *testHost, _ *Policy, _ *Command) { h.Env = append(h.Env, "APPTAINER_NV=1") },
		"a file of it":   func(h *testHost, _ *Policy, _ *Command) { h.Env = append(h.Env, "SINGULARITY_ENV_FILE=/work/d/env") },
		"an older one":   func(h *testHost, _ *Policy, _ *Command) { h.Env = append(h.Env, "SINGULARITY_OVERLAY=/x") },
		"image's option": func(_ *testHost, _ *Policy, c *Command) { c.Args = []string{"--writable-tmpfs"} },
	} {
		h, p, c := bwrapHost(t), DefaultPolicy(), bet()
		h.Env = append(h.Env, "PATH=/fast:/usr/bin", "NEURODESK_RUNTIME=bwrap", "APPTAINER_CONTAIN=0")
		if e, err := h.plan(p, c); err != nil || e.Runtime != "bwrap" {
			t.Fatalf("%s: without it: %v", name, err)
		}
		change(h, &p, &c)
		if e, err := h.plan(p, c); err != nil || e.Runtime != "apptainer" {
			t.Errorf("%s: %v %v", name, e, err)
		}
	}
	h := bwrapHost(t)
	h.file("/dev/kfd", 0o666, "")
	e := mustPlan(t, h, DefaultPolicy(), bet())
	if e.Runtime != "bwrap" || len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "GPU") {
		t.Errorf("without apptainer: %q, warnings %q", e.Runtime, e.Warnings)
	}
}

func TestBwrapTakesSoManyArguments(t *testing.T) {
	h, many := bwrapHost(t), make([]string, maxBwrapArgs+1)
	if e := mustPlan(t, h, DefaultPolicy(), bet(), many[1:]...); e.Runtime != "bwrap" {
		t.Errorf("%d arguments: %s", len(many)-1, e.Runtime)
	}
	if _, err := h.plan(DefaultPolicy(), bet(), many...); err == nil || !strings.Contains(err.Error(), "8000 arguments") {
		t.Errorf("without apptainer: %v", err)
	}
	h.Env = append(h.Env, "PATH=/fast:/usr/bin", "NEURODESK_RUNTIME=bwrap")
	if e := mustPlan(t, h, DefaultPolicy(), bet(), many...); e.Runtime != "apptainer" {
		t.Errorf("%d arguments: %s", len(many), e.Runtime)
	}
}

// TestBwrapTakesSoManyEntries: a start that bwrap would refuse for its number of words says what to do instead.
func TestBwrapTakesSoManyEntries(t *testing.T) {
	h := bwrapHost(t)
	h.dir("/opt/mine")
	h.Cwd = "/opt/mine"
	for i := range 300 {
		h.dir(testRootfs + "/opt/entry" + strconv.Itoa(i))
	}
	for args, fails := range map[int]bool{7000: false, 8000: true} {
		e, err := h.plan(DefaultPolicy(), bet(), make([]string, args)...)
		if fails != (err != nil && strings.Contains(err.Error(), "too many entries")) || !fails && len(e.Argv) > maxBwrapWords {
			t.Errorf("%d arguments: %v", args, err)
		}
	}
}

func TestBwrapLine(t *testing.T) {
	h := bwrapHost(t)
	h.Env = append(h.Env, "NEURODESK_DEBUG=1")
	line := mustPlan(t, h, DefaultPolicy(), bet(), "it's").Line()
	for _, want := range []string{"/fast/bwrap --die-with-parent --ro-bind", "--ro-bind-data 13 /etc/passwd", "13< <(printf %s 'root:", "-- /opt/fsl/bin/bet"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q lacks %q", line, want)
		}
	}
	for _, bad := range []string{"--info-fd", "--block-fd", "gate"} {
		if strings.Contains(line, bad) {
			t.Errorf("%q has %q", line, bad)
		}
	}
}

func FuzzBwrapPlan(f *testing.F) {
	f.Add("--bind\x00/\x00--", "APPTAINER_BINDPATH=/a:/b,/work/d:/opt/x/y:ro\x00LD_PRELOAD=x", "/opt/mine", "-B /work/d:/q")
	f.Add("", "HOME=/opt/x\x00APPTAINERENV_PATH=", "/srv/deep/er", "--env A=1")
	base := bwrapHost(f)
	base.Host.ImageEnv = func(string, string, func() (*Exec, error)) ([]Var, error) { return []Var{{"PATH", "/bin"}}, nil }
	f.Fuzz(func(t *testing.T, args, env, cwd, opts string) {
		h := base.Host
		h.Env = append(slices.Clone(h.Env), strings.Split(env, "\x00")...)
		h.Env = append(h.Env, "neurodesk_singularity_opts="+opts, "PATH=/fast", "NEURODESK_RUNTIME=bwrap")
		h.Cwd = "/" + strings.ReplaceAll(cwd, "\x00", "")
		words := strings.Split(args, "\x00")
		e, err := Plan(DefaultPolicy(), bet(), words, h)
		if err != nil {
			var exit *Exit
			if !errors.As(err, &exit) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%T %q", err, err)
			}
			return
		}
		at := len(e.Argv) - len(words)
		if !slices.Equal(e.Argv[at:], words) || e.Argv[at-2] != "--" {
			t.Fatalf("arguments %q in %q", words, e.Argv)
		}
		for _, v := range e.Env {
			if strings.HasPrefix(v, "LD_") {
				t.Fatalf("bwrap would obey %q", v)
			}
		}
	})
}

func TestBindsInKernelDirectoriesAreNotHidden(t *testing.T) {
	for bind, dir := range map[string]string{"/work/d:/dev/x": "--dev-bind /dev /dev", "/work/d:/sys/x": "--bind /sys /sys", "/work/d:/shm": "--dev-bind /dev /dev"} {
		h := bwrapHost(t)
		h.dir("/dev/x")
		h.dir("/sys/x")
		h.dir("/dev/shm")
		h.dir(testRootfs + "/dev/shm")
		h.link("dev/shm", testRootfs+"/shm")
		h.Env = append(h.Env, "NEURODESK_BINDPATH="+bind)
		e := mustPlan(t, h, DefaultPolicy(), bet())
		list := steps(e)
		at := slices.IndexFunc(list, func(s string) bool {
			return strings.HasPrefix(s, "--bind /work/d /dev/") || strings.HasPrefix(s, "--bind /work/d /sys/")
		})
		if before := slices.Index(list, dir); before < 0 || at < before {
			t.Errorf("%s is bound before %s: %q", bind, dir, list)
		}
	}
}

func TestNothingIsLookedAtTwice(t *testing.T) {
	h := bwrapHost(t)
	looks := map[string]int{}
	lstat := h.Lstat
	h.Lstat = func(name string) (os.FileInfo, error) { looks[name]++; return lstat(name) }
	mustPlan(t, h, DefaultPolicy(), bet())
	if looks[testRootfs+"/etc"] == 0 {
		t.Fatalf("nothing was looked at: %v", looks)
	}
	for name, n := range looks {
		if n > 1 && strings.HasPrefix(name, testRootfs+"/") {
			t.Errorf("%s: %d times", name, n)
		}
	}
}
