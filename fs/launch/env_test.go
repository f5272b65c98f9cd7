package launch

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// inside gives the tool's environment as the runtime is told.
func inside(e *Exec) map[string]string {
	out := map[string]string{}
	for _, entry := range e.Env {
		if rest, ok := strings.CutPrefix(entry, "APPTAINERENV_"); ok {
			name, value, _ := strings.Cut(rest, "=")
			out[name] = value
		}
	}
	return out
}

const absent = "\x00absent"

func TestEnvironment(t *testing.T) {
	for name, test := range map[string]struct {
		env    []string
		policy func(p *Policy)
		want   map[string]string
	}{
		"allow-list": {[]string{"OMP_NUM_THREADS=4", "http_proxy=x", "PMIX_RANK=0", "FOO=1", "SLURM_A=a=b\n\"'$(x)", "EMPTY=", "TZ="}, nil,
			map[string]string{"OMP_NUM_THREADS": "4", "http_proxy": "x", "PMIX_RANK": "0", "FOO": absent, "SLURM_A": "a=b\n\"'$(x)", "EMPTY": absent, "TZ": "",
				"PYTHONNOUSERSITE": "1", "LANG": "C.UTF-8", "HOME": absent}},
		"never": {[]string{"LD_PRELOAD=x", "PYTHONPATH=x", "R_LIBS=x", "PERL5LIB=x", "BASH_ENV=x", "PWD=/"}, func(p *Policy) { p.Pass = []string{"*"} },
			map[string]string{"PATH": absent, "LD_PRELOAD": absent, "PYTHONPATH": absent, "R_LIBS": absent, "PERL5LIB": absent, "BASH_ENV": absent, "PWD": absent}},
		"site's list": {[]string{"MY_A=1", "MINE=2"}, func(p *Policy) { p.Pass = []string{"MY_*"} }, map[string]string{"MY_A": "1", "MINE": absent}},
		"app's list":  {[]string{"MY_A=1"}, func(p *Policy) { p.Apps = map[string]AppPolicy{"fsl": {Pass: []string{"MY_?"}}} }, map[string]string{"MY_A": "1"}},
		"host":        {[]string{"ANY=1", "BAD-NAME=1", "BASH_FUNC_x%%=() {", "PYTHONHOME=/"}, func(p *Policy) { p.Env = "host" }, map[string]string{"ANY": "1", "BAD-NAME": absent, "BASH_FUNC_x%%": absent, "PYTHONHOME": absent}},
		"set":         {[]string{"OMP_NUM_THREADS=4"}, func(p *Policy) { p.Set = map[string]string{"OMP_NUM_THREADS": "1"} }, map[string]string{"OMP_NUM_THREADS": "1"}},
		"by prefix": {[]string{"APPTAINERENV_PYTHONPATH=/p", "SINGULARITYENV_X=s", "SINGULARITYENV_Y=s", "APPTAINERENV_Y=a", "APPTAINERENV_B-D=1", "APPTAINERENV_HOME=/x"}, nil,
			map[string]string{"PYTHONPATH": "/p", "X": "s", "Y": "a", "B-D": absent, "HOME": absent}},
		"locale that the image lacks": {[]string{"LANG=de_DE.UTF-8", "LC_ALL=xx", "LC_TIME=C"}, nil, map[string]string{"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "LC_TIME": "C"}},
		"locale that it has":          {[]string{"LANG=en_US.UTF-8", "LC_TIME=fr_FR.UTF-8"}, nil, map[string]string{"LANG": "en_US.UTF-8", "LC_TIME": "fr_FR.UTF-8"}},
		"locale that climbs":          {[]string{"LANG=../../../opt"}, nil, map[string]string{"LANG": "C.UTF-8"}},
		"path into this image": {[]string{"FSLDIR=/nd/apps/fsl/6.0.7.22/rootfs/opt/fsl", "FSL_X=" + testRootfs + "/opt:/work", "FSL_Y=/nd/apps/fsl/6.0.7.22/rootfs"}, nil,
			map[string]string{"FSLDIR": "/opt/fsl", "FSL_X": "/opt:/work", "FSL_Y": "/"}},
		"the host's installation":           {[]string{"FSLDIR=/usr/local/fsl", "FSLOUTPUTTYPE=NIFTI", "ANTSPATH=/opt/ants"}, nil, map[string]string{"FSLDIR": absent, "FSLOUTPUTTYPE": "NIFTI", "ANTSPATH": "/opt/ants"}},
		"the host's installation, all pass": {[]string{"FSLDIR=/home/u/fsl"}, func(p *Policy) { p.Env = "host" }, map[string]string{"FSLDIR": absent}},
		"the host's installation, wanted":   {[]string{"FSLDIR=/home/u/fsl"}, func(p *Policy) { p.Pass = []string{"FSLDIR"} }, map[string]string{"FSLDIR": "/home/u/fsl"}},
		"the host's installation, forced":   {[]string{"FSLDIR=/a", "APPTAINERENV_FSLDIR=/b"}, nil, map[string]string{"FSLDIR": "/b"}},
		"path into another image": {[]string{"FSLDIR=/nd/apps/fsl/5.0/rootfs/opt/fsl", "FSL_X=/work:/nd/apps/fsl/9/rootfs/x", "FSL_Y=/nd/.neurodeskfs/images/Z/rootfs/a", "FSL_Z=/nd/cvmfs/x"}, nil,
			map[string]string{"FSLDIR": absent, "FSL_X": "/work", "FSL_Y": absent, "FSL_Z": "/nd/cvmfs/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, p := newHost(t), DefaultPolicy()
			h.dir(testRootfs + "/usr/lib/locale/en_US.utf8")
			h.dir(testRootfs + "/usr/lib/locale/C.utf8")
			h.file(testRootfs+"/usr/lib/locale/locale-archive", 0o644, archive("de_AT.utf8", "fr_FR.utf8"))
			h.link("../../../.neurodeskfs/images/H1/rootfs", "/nd/apps/fsl/6.0.7.22/rootfs")
			h.link("../../../.neurodeskfs/images/H0/rootfs", "/nd/apps/fsl/5.0/rootfs")
			h.Env = append(h.Env, test.env...)
			if test.policy != nil {
				test.policy(&p)
			}
			got := inside(mustPlan(t, h, p, bet()))
			for name, want := range test.want {
				value, ok := got[name]
				if !ok {
					value = absent
				}
				if value != want {
					t.Errorf("%s is %q, want %q", name, value, want)
				}
			}
		})
	}
}

// TestPlainLocale: what stands in for a locale that the image lacks is not another one that it lacks.
func TestPlainLocale(t *testing.T) {
	const dir = testRootfs + "/usr/lib/locale"
	for name, test := range map[string]struct {
		prepare func(h *testHost)
		want    string
	}{
		"musl":      {func(*testHost) {}, "C.UTF-8"},
		"Debian 12": {func(h *testHost) { h.dir(dir + "/C.utf8") }, "C.UTF-8"},
		"Debian 11": {func(h *testHost) { h.dir(dir + "/C.UTF-8") }, "C.UTF-8"},
		"archived":  {func(h *testHost) { h.file(dir+"/locale-archive", 0o644, archive("C.utf8", "en_US.utf8")) }, "C.UTF-8"},
		"CentOS 7":  {func(h *testHost) { h.file(dir+"/locale-archive", 0o644, archive("en_US.utf8")) }, "C"},
	} {
		for _, env := range [][]string{nil, {"LANG=de_DE.UTF-8"}, {"LANG=C.UTF-8"}} {
			h := newHost(t)
			test.prepare(h)
			h.Env = append(h.Env, env...)
			if got := inside(mustPlan(t, h, DefaultPolicy(), bet()))["LANG"]; got != test.want {
				t.Errorf("%s, %q: LANG is %q, want %q", name, env, got, test.want)
			}
		}
	}
}

// archive makes the head and the string table of a locale archive.
func archive(names ...string) string {
	table := strings.Join(names, "\x00") + "\x00"
	head := make([]byte, 64)
	binary.LittleEndian.PutUint32(head, 0xde020109)
	binary.LittleEndian.PutUint32(head[20:], uint32(len(head)))
	binary.LittleEndian.PutUint32(head[24:], uint32(len(table)))
	return string(head) + table
}

func TestRuntimeKeepsItsOwnEnvironment(t *testing.T) {
	h := newHost(t)
	h.Env = append(h.Env, "APPTAINER_CACHEDIR=/c", "APPTAINER_BIND=/work", "SINGULARITYENV_X=1", "FOO=1", "APPTAINER_NO_EVAL=0")
	e := mustPlan(t, h, DefaultPolicy(), bet())
	for _, want := range []string{"APPTAINER_CACHEDIR=/c", "FOO=1", "HOME=/home/u", "APPTAINER_NO_EVAL=1", "APPTAINERENV_X=1", "GOGC=400"} {
		if !slices.Contains(e.Env, want) {
			t.Errorf("lacks %s", want)
		}
	}
	for _, bad := range []string{"APPTAINER_BIND=/work", "SINGULARITYENV_X=1", "APPTAINER_NO_EVAL=0"} {
		if slices.Contains(e.Env, bad) {
			t.Errorf("has %s", bad)
		}
	}
	h.Env = append(h.Env, "GOGC=50")
	if e := mustPlan(t, h, DefaultPolicy(), bet()); !slices.Contains(e.Env, "GOGC=50") || slices.Contains(e.Env, "GOGC=400") {
		t.Errorf("the caller's GOGC does not hold: %q", e.Env)
	}
}

func TestBytesThatAreNoText(t *testing.T) {
	h := newHost(t)
	h.Env = append(h.Env, "OMP_A=\xff", "OMP_B=ok")
	h.dir("/d\xff")
	e := mustPlan(t, h, DefaultPolicy(), bet())
	if env := inside(e); env["OMP_A"] != "" || env["OMP_B"] != "ok" {
		t.Errorf("environment %q", env)
	}
	if len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "OMP_A") || strings.Contains(strings.Join(option(e, "--mount"), ""), "\xff") {
		t.Errorf("warnings %q", e.Warnings)
	}
}

func TestShellVars(t *testing.T) {
	for text, want := range map[string]string{
		"export PATH=/a:$PATH":                                "/a:" + defaultPath,
		"PATH=/a:\"${PATH}\"; export PATH":                    "/a:" + defaultPath,
		"X=/opt/x\nexport PATH=\"$X/bin:${Y:-/y}:/b\" # c":    "/opt/x/bin:/y:/b",
		"export X=\"${X:-\"/opt x\"}\" Y='$no'\nPATH=${X}:$Y": "/opt x:$no",
		"# PATH=/no\n\n  export\tLC=1":                        absent,
		"export PATH=$UNSET/bin":                              absent,
		"export PATH=${OUT:-/x}":                              absent,
		"PATH=$(ls)":                                          absent,
		"PATH=`ls`":                                           absent,
		"PATH=\"/a":                                           absent,
		"if true; then\nPATH=/a\nfi":                          absent,
		". /x.sh":                                             absent,
		"A=1 command":                                         absent,
		"PATH=/a && x=1":                                      absent,
		"PATH=/a\\:b":                                         absent,
		"PATH=${PATH%:*}":                                     absent,
		"X=${X:-${Z:-/z}}\nPATH=$X":                           "/z",
		"PATH=${X-}/a":                                        "/a",
		"export A B=2\nexport PATH=/$B":                       "/2",
	} {
		s := shellVars{values: map[string]string{"PATH": defaultPath}, outside: func(n string) bool { return n == "OUT" }}
		got := absent
		if s.script(text) {
			got = s.values["PATH"]
		}
		if strings.HasPrefix(text, "# PATH") { // `export<TAB>` is rare: giving up is allowed, a wrong PATH is not
			continue
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
