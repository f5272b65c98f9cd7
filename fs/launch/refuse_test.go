package launch

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRuntimeVersions(t *testing.T) {
	for name, test := range map[string]struct {
		versions map[string]string
		says     string
		runs     string
	}{
		"new":              {map[string]string{"/usr/bin/apptainer": "1.4.5-2"}, "", "apptainer"},
		"oldest":           {map[string]string{"/usr/bin/apptainer": "1.1.0-rc.2"}, "", "apptainer"},
		"unknown":          {map[string]string{}, "", "apptainer"},
		"no version":       {map[string]string{"/usr/bin/apptainer": "devel"}, "", "apptainer"},
		"too old":          {map[string]string{"/usr/bin/apptainer": "1.0.3"}, "apptainer 1.0.3 (/usr/bin/apptainer) is too old, 1.1", ""},
		"the other is new": {map[string]string{"/usr/bin/apptainer": "1.0.3", "/s/singularity": "3.11.4-jammy"}, "", "singularity"},
		"both too old":     {map[string]string{"/usr/bin/apptainer": "1.0.3", "/s/singularity": "3.7.4"}, "module load", ""},
	} {
		h := newHost(t)
		if test.versions["/s/singularity"] != "" {
			h.file("/s/singularity", 0o755, "")
		}
		h.Env = append(h.Env, "PATH=/usr/bin:/s")
		h.RuntimeVersion = func(file string) string { return test.versions[file] }
		e, err := h.plan(DefaultPolicy(), bet())
		if test.says == "" {
			if err != nil || e.Runtime != test.runs {
				t.Errorf("%s: %v, %v", name, e, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
}

func TestSiteForbidsBwrap(t *testing.T) {
	for name, change := range map[string]func(p *Policy){
		"runtime": func(p *Policy) { p.Runtime = "apptainer" },
		"wrapper": func(p *Policy) { p.RuntimeCommand = []string{"/usr/bin/apptainer"} },
	} {
		h, p := bwrapHost(t), DefaultPolicy()
		h.Env = append(h.Env, "PATH=/fast:/usr/bin", "NEURODESK_RUNTIME=bwrap")
		change(&p)
		if _, err := h.plan(p, bet()); err == nil || !strings.Contains(err.Error(), "this site wants") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUserNamespaces(t *testing.T) {
	const fuse = "36 35 0:40 / /nd ro,nosuid - fuse.neurodeskfs neurodeskfs ro,user_id=1000,group_id=1000\n"
	type host = *testHost
	for name, test := range map[string]struct {
		prepare func(h host)
		says    string
		userns  bool // --userns is given
	}{
		"allowed":        {func(host) {}, "", false},
		"none":           {func(h host) { h.file("/proc/sys/user/max_user_namespaces", 0o644, "0\n") }, "user.max_user_namespaces = 0", false},
		"not for users":  {func(h host) { h.file("/proc/sys/kernel/unprivileged_userns_clone", 0o644, "0\n") }, "`sysctl kernel.unprivileged_userns_clone=1`", false},
		"root may":       {func(h host) { h.file("/proc/sys/kernel/unprivileged_userns_clone", 0o644, "0\n"); h.UID = 0 }, "", false},
		"setuid starter": {func(h host) { h.file("/proc/sys/user/max_user_namespaces", 0o644, "0\n"); h.setuid() }, "", false},
		"AppArmor": {func(h host) {
			h.file("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0o644, "1\n")
			h.dir("/etc/apparmor.d")
		}, "AppArmor profile", false},
		"AppArmor with a profile": {func(h host) {
			h.file("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0o644, "1\n")
			h.file("/etc/apparmor.d/usr.bin.apptainer", 0o644, "")
		}, "", false},
		"own mount":         {func(h host) { h.MountInfo = fuse }, "", true},
		"own mount, twice":  {func(h host) { h.MountInfo = fuse; h.Env = append(h.Env, "neurodesk_singularity_opts=--userns") }, "", true},
		"own mount of root": {func(h host) { h.MountInfo = fuse; h.UID = 0 }, "", false},
		"mount for all":     {func(h host) { h.MountInfo = strings.Replace(fuse, "ro,user", "ro,allow_other,user", 1) }, "", false},
		"own mount, setuid only": {func(h host) {
			h.MountInfo = fuse
			h.file("/proc/sys/user/max_user_namespaces", 0o644, "0\n")
			h.setuid()
		}, "user_allow_other", false},
		"nested": {func(h host) { h.Nested = true; h.file("/proc/sys/user/max_user_namespaces", 0o644, "0\n") }, "another container's tool", false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			test.prepare(h)
			e, err := h.plan(DefaultPolicy(), bet())
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("got %v, want %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(strings.Join(e.Argv, " "), "--userns"); (n == 1) != test.userns || n > 1 {
				t.Errorf("--userns %d times in %q", n, e.Argv)
			}
		})
	}
}

func (h *testHost) setuid() {
	h.t.Helper()
	const starter = "/usr/libexec/apptainer/bin/starter-suid"
	h.file(starter, 0o755, "")
	if err := os.Chmod(filepath.Join(h.root, starter), 0o755|os.ModeSetuid); err != nil {
		h.t.Fatal(err)
	}
}

// elfHead makes the first bytes of a 64-bit ELF file.
func elfHead(machine uint16) string {
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(head[16:], 2)
	binary.LittleEndian.PutUint16(head[machineAt:], machine)
	return string(head)
}

func TestArchitecture(t *testing.T) {
	arm := elfHead(183)
	entry := func(flags string) string {
		return "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: " + flags + "\noffset 0\nmagic " + hex.EncodeToString([]byte(arm[:20])) +
			"\nmask fffffffffffffffffffffffffffffffffeffffff\n"
	}
	for name, test := range map[string]struct {
		program string
		prepare func(h *testHost)
		says    string
	}{
		"native":          {elfHead(62), nil, ""},
		"32 bits":         {elfHead(3), nil, ""},
		"foreign":         {arm, nil, "bet: fsl 6.0.7.22 is built for aarch64, this machine is x86_64"},
		"unknown machine": {elfHead(9999), nil, "machine type 9999"},
		"no ELF":          {"hello", nil, ""},
		"cut short":       {arm[:10], nil, ""},
		"emulated":        {arm, func(h *testHost) { h.binfmt("enabled", entry("F")) }, ""},
		"emulator in image": {arm, func(h *testHost) {
			h.binfmt("enabled", entry(""))
			h.file(testRootfs+"/usr/bin/qemu-aarch64", 0o755, "")
		}, ""},
		"emulator is not":     {arm, func(h *testHost) { h.binfmt("enabled", entry("OC")) }, "flag F"},
		"binfmt is off":       {arm, func(h *testHost) { h.binfmt("disabled", entry("F")) }, "qemu-user-static"},
		"entry is off":        {arm, func(h *testHost) { h.binfmt("enabled", strings.Replace(entry("F"), "enabled", "disabled", 1)) }, "qemu-user-static"},
		"another's entry":     {elfHead(243), func(h *testHost) { h.binfmt("enabled", entry("F")) }, "riscv64"},
		"script":              {"#!/bin/tcsh -f\n", func(h *testHost) { h.file(testRootfs+"/bin/tcsh", 0o755, arm) }, "aarch64"},
		"script, native":      {"#! /bin/tcsh\n", func(h *testHost) { h.file(testRootfs+"/bin/tcsh", 0o755, elfHead(62)) }, ""},
		"script, interpreter": {"#!/bin/none\n", nil, "its interpreter /bin/none is not in fsl"},
		"script of itself":    {"#!/opt/fsl/bin/bet\n", nil, ""},
		"script, empty":       {"#!\n", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.Arch = "amd64"
			h.file(testRootfs+"/opt/fsl/bin/bet", 0o755, test.program)
			if test.prepare != nil {
				test.prepare(h)
			}
			_, err := h.plan(DefaultPolicy(), bet())
			var exit *Exit
			switch {
			case test.says == "" && err != nil:
				t.Error(err)
			case test.says != "" && (!errors.As(err, &exit) || exit.Code != StatusNotExecutable || !strings.Contains(exit.Message, test.says)):
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

func (h *testHost) binfmt(status, entry string) {
	h.file(binfmtDir+"/status", 0o644, status+"\n")
	h.file(binfmtDir+"/register", 0o200, "")
	h.file(binfmtDir+"/qemu-aarch64", 0o644, entry)
}

func FuzzBinfmt(f *testing.F) {
	f.Add("enabled\ninterpreter /q\nflags: F\noffset 0\nmagic 7f454c46\nmask ffffffff\n", elfHead(183))
	f.Add("enabled\noffset 9223372036854775807\nmagic 00\n", "x")
	f.Add("enabled\noffset -1\nmagic 00\nextension .x\n", "")
	f.Fuzz(func(_ *testing.T, entry, head string) { parseBinfmt(entry).matches([]byte(head)) })
}

func TestProvenance(t *testing.T) {
	h, file := newHost(t), filepath.Join(t.TempDir(), "p.jsonl")
	h.file("/etc/passwd", 0o644, "alice:x:1000:1000::/:/bin/sh\n")
	h.Env = append(h.Env, "NEURODESK_PROVENANCE="+file, "SLURM_JOB_ID=7")
	c := bet()
	c.Revision = 12
	args := []string{"a\n\"b", ""}
	e := mustPlan(t, h, DefaultPolicy(), c, args...)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for range 2 {
		if err := record(e.Runtime, c, args, h.Host, now, nil); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	if len(lines) != 3 || lines[2] != "" || lines[0] != lines[1] {
		t.Fatalf("not two equal lines: %q", lines)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"time": "2026-01-02T03:04:05.006Z", "command": "bet", "cwd": "/work/d", "app": "fsl", "version": "6.0.7.22", "date": "20260416", "hash": "H1",
		"repository": "neurodesk.ardc.edu.au", "image": "/containers/x", "revision": 12.0, "runtime": "apptainer", "user": "alice", "slurm_job_id": "7", "exit": nil,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
	if argv, ok := got["argv"].([]any); !ok || len(argv) != 3 || argv[1] != "a\n\"b" {
		t.Errorf("argv %v", got["argv"])
	}
	h.Env = append(h.Env, "NEURODESK_PROVENANCE="+file+"/no")
	if err := record(e.Runtime, c, nil, h.Host, now, nil); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}
