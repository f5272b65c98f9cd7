package launch

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

var bindTable = map[string]struct {
	prepare  func(h *testHost, p *Policy)
	bound    []string // DST, or SRC=DST
	unbound  []string
	warnings int
}{
	"data and nothing else": {func(h *testHost, _ *Policy) {
		h.dir("/data")
		h.dir("/.snap")
		h.dir("/lost+found")
		h.file("/swapfile", 0o600, "")
	}, []string{"/data", "/home", "/work", "/tmp", "/var/tmp", "/srv", "/nd"}, []string{"/opt", "/usr", "/etc", "/proc", "/root", "/.snap", "/lost+found", "/swapfile"}, 0},
	"unreadable": {func(h *testHost, _ *Policy) {
		h.dir("/secret")
		if err := os.Chmod(h.root+"/secret", 0o700); err != nil {
			h.t.Fatal(err)
		}
	}, nil, []string{"/secret"}, 0},
	"link to a bound place":  {func(h *testHost, _ *Policy) { h.link("/work/d", "/data") }, []string{"/data"}, []string{"/work/d"}, 0},
	"link to a system place": {func(h *testHost, _ *Policy) { h.dir("/var/scratch/x"); h.link("var/scratch", "/scratch") }, []string{"/scratch", "/var/scratch"}, nil, 0},
	"dangling link, loop":    {func(h *testHost, _ *Policy) { h.link("/gone", "/a"); h.link("/b", "/b") }, nil, []string{"/a", "/b", "/gone"}, 0},
	"kernel's own":           {func(h *testHost, _ *Policy) { h.dir("/cgroup"); h.mount("/cgroup", "cgroup2") }, nil, []string{"/cgroup"}, 0},
	"home below the system":  {func(h *testHost, _ *Policy) { h.Env = append(h.Env, "HOME=/root") }, []string{"/root", "/home"}, nil, 0},
	"home is gone":           {func(h *testHost, _ *Policy) { h.Env = append(h.Env, "HOME=/var/gone") }, nil, []string{"/var/gone"}, 0},
	"TMPDIR":                 {func(h *testHost, _ *Policy) { h.dir("/var/tmpfs/7"); h.Env = append(h.Env, "TMPDIR=/var/tmpfs/7") }, []string{"/var/tmpfs/7", "/tmp"}, nil, 0},
	"TMPDIR with slashes":    {func(h *testHost, _ *Policy) { h.dir("/opt/tmp/7"); h.Env = append(h.Env, "TMPDIR=/opt/tmp//7/") }, []string{"/opt/tmp/7", "/tmp"}, nil, 0},
	"TMPDIR with dots":       {func(h *testHost, _ *Policy) { h.dir("/opt/tmp/7"); h.Env = append(h.Env, "TMPDIR=/opt/tmp/6/../7") }, nil, []string{"/opt/tmp/7"}, 0},
	"files that variables name": {func(h *testHost, _ *Policy) {
		h.file("/opt/lic/license.txt", 0o644, "")
		h.file("/home/u/.Xauthority", 0o600, "")
		h.dir("/run/user/1000")
		h.Env = append(h.Env, "FS_LICENSE=/opt/lic/license.txt", "XAUTHORITY=/home/u/.Xauthority", "XDG_RUNTIME_DIR=/run/user/1000", "MLM_LICENSE_FILE=27000@host:/opt/none")
	}, []string{"/opt/lic/license.txt", "/run/user/1000"}, []string{"/home/u/.Xauthority", "/opt/none"}, 0},
	"a licence behind links": {func(h *testHost, _ *Policy) { // inside, the first place outside what is bound must be there
		h.file("/opt/lic/1/license.txt", 0o644, "")
		h.link("1", "/opt/lic/now")
		h.link("/opt/lic/now", "/work/lic")
		h.link("../../work/lic/license.txt", "/home/u/license.txt")
		h.link("loop", "/home/u/loop")
		h.Env = append(h.Env, "FS_LICENSE=/home/u/license.txt", "XAUTHORITY=/home/u/loop")
	}, []string{"/opt/lic/now/license.txt"}, []string{"/opt/lic/1/license.txt", "/home/u/loop"}, 0},
	"SLURM's sockets": {func(h *testHost, _ *Policy) {
		h.dir("/var/spool/slurmd")
		h.dir("/run/munge")
		h.Env = append(h.Env, "SLURM_JOB_ID=1")
	}, []string{"/var/spool/slurmd", "/run/munge"}, nil, 0},
	"the user's list": {func(h *testHost, _ *Policy) {
		h.dir("/opt/mine")
		h.Env = append(h.Env, "APPTAINER_BINDPATH=/opt/mine:/data2:ro,/gone1,/gone2:/x", "SINGULARITY_BIND=/opt/mine:/data3")
	}, []string{"/opt/mine=/data2", "/opt/mine=/data3"}, []string{"/gone1", "/x"}, 1},
	"the site's list": {func(_ *testHost, p *Policy) { p.Binds = []string{"/work/d:/in", "/gone", "/a:b"} }, []string{"/work/d=/in"}, []string{"/gone"}, 1},
	"contained":       {func(h *testHost, p *Policy) { p.Contain = true; h.dir("/data") }, []string{"/home/u", "/work/d"}, []string{"/data", "/tmp", "/home", "/work"}, 0},
	"where the command lies": {func(h *testHost, _ *Policy) {
		h.dir("/opt2")
		h.file(testRootfs+"/opt2/bin/bet", 0o755, "")
		h.link("/opt2/bin/bet", testRootfs+"/opt/fsl/bin/l")
	}, []string{"/home"}, []string{"/opt2"}, 0},
}

func TestBinds(t *testing.T) {
	for name, test := range bindTable {
		t.Run(name, func(t *testing.T) {
			h, p := newHost(t), DefaultPolicy()
			test.prepare(h, &p)
			c := bet()
			if name == "where the command lies" {
				c.Path = "/opt/fsl/bin/l"
			}
			e := mustPlan(t, h, p, c)
			for _, want := range test.bound {
				src, dst, ok := strings.Cut(want, "=")
				if !ok {
					dst = src
				}
				if x, ok := boundAt(e, dst); !ok || x.Src != src {
					t.Errorf("%s is not bound: %q", want, option(e, "--bind"))
				}
			}
			for _, dst := range test.unbound {
				if _, ok := boundAt(e, dst); ok {
					t.Errorf("%s is bound: %q", dst, option(e, "--bind"))
				}
			}
			if len(e.Warnings) != test.warnings {
				t.Errorf("warnings %q", e.Warnings)
			}
		})
	}
}

func (h *testHost) mount(point, fstype string) {
	h.MountInfo += "36 35 98:0 / " + strings.ReplaceAll(point, " ", `\040`) + " rw,noatime shared:1 - " + fstype + " src rw\n"
}

// TestAutofsIsNotWoken counts what is looked at below automounter's directories: nothing.
func TestAutofsIsNotWoken(t *testing.T) {
	h := newHost(t)
	h.dir("/net")
	h.dir("/auto home")
	h.link("/net/server/data", "/data")
	h.link("/net/server/more", "/more")
	h.mount("/net", "autofs")
	h.mount("/auto home", "autofs")
	var seen []string
	stat, lstat, readlink, search := h.Stat, h.Lstat, h.Readlink, h.Search
	look := func(n string) {
		if within(n, "/net") || within(n, "/auto home") || n == "/more" || n == "/data" {
			seen = append(seen, n)
		}
	}
	h.Stat = func(n string) (os.FileInfo, error) { look(n); return stat(n) }
	h.Lstat = func(n string) (fs.FileInfo, error) { look(n); return lstat(n) }
	h.Readlink = func(n string) (string, error) {
		if n != "/more" && n != "/data" { // reading the link itself wakes nobody
			look(n)
		}
		return readlink(n)
	}
	h.Search = func(n string) bool { look(n); return search(n) }
	e := mustPlan(t, h, DefaultPolicy(), bet(), "/other/file")
	if len(seen) != 0 {
		t.Errorf("looked at %q", seen)
	}
	for _, dst := range []string{"/net", "/auto home"} {
		if _, ok := boundAt(e, dst); !ok {
			t.Errorf("%s is not bound: %q", dst, option(e, "--bind"))
		}
	}
	for _, dst := range []string{"/data", "/more"} {
		if _, ok := boundAt(e, dst); ok {
			t.Errorf("%s is bound", dst)
		}
	}
	h.dir("/net/server/data")
	if _, ok := boundAt(mustPlan(t, h, DefaultPolicy(), bet(), "in=/data/file"), "/data"); !ok {
		t.Error("/data is asked for and not bound")
	}
}

func TestOddPaths(t *testing.T) {
	for _, dir := range []string{"/opt/a:b", "/opt/a,b", `/opt/a"b`, `/opt/a\b`, "/opt/a\nb", "/opt/ a", "/opt/a b", "/opt/ä'$(x)"} {
		h := newHost(t)
		h.dir(dir)
		h.Cwd = dir
		e := mustPlan(t, h, DefaultPolicy(), bet())
		if odd(dir) {
			want := `type=bind,"source=` + strings.ReplaceAll(dir, `"`, `""`) + `","destination=` + strings.ReplaceAll(dir, `"`, `""`) + `"`
			if got := option(e, "--mount"); !slices.Equal(got, []string{want}) {
				t.Errorf("%q: --mount %q, want %q", dir, got, want)
			}
		} else if _, ok := boundAt(e, dir); !ok {
			t.Errorf("%q: not in %q", dir, option(e, "--bind"))
		}
	}
}

func TestSplitList(t *testing.T) {
	for value, want := range map[string][]string{
		"":                      nil,
		"/a, /b:/c:ro,/d,":      {"/a", "/b:/c:ro", "/d"},
		`/a\,b,/c:/d:ro,rw`:     {`/a\,b`, "/c:/d:ro,rw"},
		"/i:/x:ro,image-src=/y": {"/i:/x:ro,image-src=/y"},
	} {
		if got := splitList(value); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
	if x, err := parseBind(`/a\:b\,c:/d`, ""); err != nil || x != (Bind{Src: "/a:b,c", Dst: "/d"}) {
		t.Errorf("got %v, %v", x, err)
	}
	for _, bad := range []string{"", ":/x", "/a:/b:/c:/d", "/a:b", "/a:/", "rel"} {
		if x, err := parseBind(bad, ""); err == nil {
			t.Errorf("%q: got %v", bad, x)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add("bet", "", "--bind\x00/etc\x00-x", "FOO=1\x00APPTAINER_BINDPATH=/a:/b,/c", "/work/d", "--nv '/x y'")
	f.Add("-console", "/opt/fsl/bin/-console", "\x00", "LANG=de_DE\x00neurodesk_singularity_opts=--home x", "/opt/a:b", "")
	base := newHost(f)
	f.Fuzz(func(t *testing.T, command, file, args, env, cwd, opts string) {
		h := base.Host
		h.Env = slices.Clone(h.Env)
		h.Env = append(h.Env, strings.Split(env, "\x00")...)
		h.Env = append(h.Env, "neurodesk_singularity_opts="+strings.ReplaceAll(opts, testRootfs, ""), "PATH=/usr/bin")
		h.Cwd = "/" + strings.ReplaceAll(cwd, "\x00", "")
		words := strings.Split(args, "\x00")
		c := bet()
		c.Command, c.Path = command, file
		e, err := Plan(DefaultPolicy(), c, words, h)
		if err != nil {
			if _, ok := err.(*Exit); !ok || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%T %q", err, err)
			}
			return
		}
		tail := e.Argv[len(e.Argv)-len(words):]
		if !slices.Equal(tail, words) {
			t.Fatalf("arguments %q became %q", words, tail)
		}
		front := e.Argv[:len(e.Argv)-len(words)]
		if front[len(front)-2] != testRootfs || strings.HasPrefix(front[len(front)-1], "-") {
			t.Fatalf("image and command are %q", front[len(front)-2:])
		}
	})
}
