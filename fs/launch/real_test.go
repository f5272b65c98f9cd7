package launch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tree is a hand-made M on disk: command files, the real launcher, and a busybox image built by the real apptainer.
type tree struct {
	m, rootfs string
}

// need skips a test on a machine without a tool; the CI machine has them all.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: make deps installs it", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
}

const imageDef = `Bootstrap: scratch
%%setup
    R=$APPTAINER_ROOTFS
    mkdir -p $R/bin $R/etc $R/opt/x/bin $R/usr/bin
    cp '%[1]s' $R/bin/busybox
    for i in $('%[1]s' --list); do [ $i = busybox ] || ln -s busybox $R/bin/$i; done
    printf '#!/bin/sh\necho "console $*"\n' >$R/opt/x/bin/-console
    printf 'text' >$R/opt/x/bin/notes
    chmod 755 $R/opt/x/bin/-console
%%environment
    export PATH=/opt/x/bin:$PATH
`

func newTree(t *testing.T) tree {
	t.Helper()
	need(t, "apptainer", "busybox")
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	tr := tree{m: filepath.Join(dir, "M")}
	tr.rootfs = filepath.Join(tr.m, ".neurodeskfs/images/H1/rootfs")
	for _, d := range []string{"bin", ".neurodeskfs/images/H1"} {
		if err := os.MkdirAll(filepath.Join(tr.m, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	def := filepath.Join(dir, "image.def")
	if err := os.WriteFile(def, fmt.Appendf(nil, imageDef, busybox), 0o644); err != nil {
		t.Fatal(err)
	}
	build := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "HOME="+dir, "GOCACHE="+goCache(t))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	build("apptainer", "--quiet", "build", "--sandbox", tr.rootfs, def)
	build("go", "build", "-o", filepath.Join(tr.m, ".neurodeskfs/launcher"), "github.com/neurodesk/neurodeskfs/cmd/launcher")
	if err := os.Chmod(tr.rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	return tr
}

var goCache = func() func(t *testing.T) string {
	var once sync.Once
	var dir string
	return func(t *testing.T) string {
		once.Do(func() {
			out, err := exec.Command("go", "env", "GOCACHE").Output()
			if err != nil {
				t.Fatal(err)
			}
			dir = strings.TrimSpace(string(out))
		})
		return dir
	}
}()

// command writes M/bin/name.
func (tr tree) command(t *testing.T, c Command) string {
	t.Helper()
	c.Launcher, c.Rootfs = filepath.Join(tr.m, ".neurodeskfs/launcher"), tr.rootfs
	c.App, c.Version, c.Hash = "bb", "1", "H1"
	file := filepath.Join(tr.m, "bin", c.Command)
	if err := os.WriteFile(file, c.Format(), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// users gives root and an ordinary user, or only whoever runs the test.
func users(t *testing.T) map[string]*syscall.Credential {
	t.Helper()
	out := map[string]*syscall.Credential{"self": nil}
	if os.Getuid() != 0 {
		return out
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	out["nobody"] = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return out
}

type invocation struct {
	command string
	path    string // of the command file; "" = none
	args    []string
	cwd     string // below the work directory
	env     []string
	stdin   string
	stdout  string // WORK stands for the work directory
	stderr  string // a part of it; "" = nothing at all
	code    int
	signal  syscall.Signal
}

var sh = func(script string, args ...string) []string { return append([]string{"-c", script, "sh"}, args...) }

var invocations = map[string]invocation{
	"plain":                    {command: "echo", args: []string{"hello"}, stdout: "hello\n"},
	"arguments verbatim":       {command: "printf", args: []string{"[%s]", "two words", "", "*", "$HOME", "a'b\"c", "--", "-n", "--bind", "tab\there", "new\nline", "ä日", `\`, "`id`", "$(id)", ";", "|"}, stdout: "[two words][][*][$HOME][a'b\"c][--][-n][--bind][tab\there][new\nline][ä日][\\][`id`][$(id)][;][|]"},
	"stdin":                    {command: "cat", stdin: "a\nb\x00\xff", stdout: "a\nb\x00\xff"},
	"exit status":              {command: "sh", args: sh("exit 42"), code: 42},
	"exit status 255":          {command: "sh", args: sh("exit 255"), code: 255},
	"signal":                   {command: "sh", args: sh("kill -TERM $$"), signal: syscall.SIGTERM},
	"signal KILL":              {command: "sh", args: sh("kill -KILL $$"), signal: syscall.SIGKILL},
	"stderr":                   {command: "sh", args: sh("echo oops >&2; echo out"), stdout: "out\n", stderr: "oops\n"},
	"50 MB":                    {command: "sh", args: sh("head -c 50000000 /dev/zero | wc -c; head -c 50000000 /dev/zero | tr '\\0' x"), stdout: "50000000\n" + strings.Repeat("x", 50000000)},
	"relative file":            {command: "cat", args: []string{"in.txt"}, stdout: "data"},
	"absolute file":            {command: "cat", args: []string{"WORK/in.txt"}, stdout: "data"},
	"file above":               {command: "cat", args: []string{"../in.txt"}, cwd: "sub", stdout: "data"},
	"output file":              {command: "sh", args: sh(`echo made >"$1" && cat "$1" && rm "$1"`, "out file"), stdout: "made\n"},
	"cwd":                      {command: "pwd", stdout: "WORK\n"},
	"cwd with blanks and more": {command: "pwd", cwd: "sp ace ä,:\"q\"\n'$(x)", stdout: "WORK/sp ace ä,:\"q\"\n'$(x)\n"},
	"cwd through a link":       {command: "pwd", cwd: "link", stdout: "WORK/sub\n"},
	"cwd read-only":            {command: "sh", args: sh("cat f"), cwd: "ro", stdout: "x"},
	"by path":                  {command: "sed", path: "/bin/sed", args: []string{"s/a/b/"}, stdin: "a\n", stdout: "b\n"},
	"a name with a dash":       {command: "-console", args: []string{"q"}, stdout: "console q\n"},
	"no such command":          {command: "nosuch", stderr: "neurodeskfs: nosuch: no such command in bb 1", code: 127},
	"not executable":           {command: "notes", stderr: "neurodeskfs: notes: found in bb 1, but it is not executable", code: 126},
	"unbound source":           {command: "echo", args: []string{"on"}, env: []string{"APPTAINER_BINDPATH=/no/such"}, stdout: "on\n", stderr: "neurodeskfs: echo: APPTAINER_BINDPATH: not on this host, left out: /no/such\n"},
	"user's bind and options":  {command: "sh", args: sh("cat '/m n/in.txt'; touch /made"), env: []string{`neurodesk_singularity_opts=--writable-tmpfs --bind "WORK:/m n"`}, stdout: "data"},
	"runtime's error is shown": {command: "echo", env: []string{"neurodesk_singularity_opts=--bind /no/such"}, stderr: "/no/such doesn't exist", code: 255},
	"bytes that are no UTF-8":  {command: "cat", args: []string{"a", "b\xff"}, stderr: "neurodeskfs: cat: argument 2 (b\\xff) holds bytes", code: 125},
	"environment": {command: "sh", args: sh(`printf '[%s]' "$OMP_X" "$SLURM_Q" "$FOO" "$PYTHONPATH" "$PYTHONNOUSERSITE" "$LANG" "$MINE"`),
		env:    []string{"OMP_X=3", "SLURM_Q=a=b,c\nd\\n\\ \"q\" 'r' $(id) `id` ${HOME} é", "FOO=1", "PYTHONPATH=/x", "LANG=xx_YY.UTF-8", "APPTAINERENV_MINE=$HOME"},
		stdout: "[3][a=b,c\nd\\n\\ \"q\" 'r' $(id) `id` ${HOME} é][][][1][C.UTF-8][$HOME]"},
	"path into the image": {command: "sh", args: sh(`echo $FSLDIR; ls $FSLDIR`), env: []string{"FSLDIR=ROOTFS/opt/x"}, stdout: "/opt/x\nbin\n"},
	"home":                {command: "sh", args: sh(`echo "$HOME"; cat ~/in.txt`), stdout: "WORK\ndata"},
}

func TestRealApptainer(t *testing.T) {
	tr := newTree(t)
	work := makeWork(t)
	for who, cred := range users(t) {
		for name, inv := range invocations {
			t.Run(who+"/"+name, func(t *testing.T) { tr.check(t, work, cred, inv) })
		}
	}
}

// makeWork lays out the directory that the invocations run in. It is the home directory too.
func makeWork(t *testing.T) string {
	t.Helper()
	work := filepath.Join(t.TempDir(), "w")
	for _, d := range []string{"sub", "sp ace ä,:\"q\"\n'$(x)", "ro"} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(work, "in.txt"), []byte("data"), 0o644),
		os.WriteFile(filepath.Join(work, "ro/f"), []byte("x"), 0o444),
		os.Symlink("sub", filepath.Join(work, "link")),
		os.Chmod(filepath.Join(work, "ro"), 0o555), os.Chmod(work, 0o1777), os.Chmod(filepath.Dir(filepath.Dir(work)), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	return work
}

func (tr tree) check(t *testing.T, work string, cred *syscall.Credential, inv invocation) {
	t.Helper()
	fill := func(s string) string { return strings.NewReplacer("WORK", work, "ROOTFS", tr.rootfs).Replace(s) }
	cmd := exec.Command(tr.command(t, Command{Command: inv.command, Path: inv.path}))
	for _, a := range inv.args {
		cmd.Args = append(cmd.Args, fill(a))
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + work, "LANG=C"}
	for _, e := range inv.env {
		cmd.Env = append(cmd.Env, fill(e))
	}
	cmd.Dir = filepath.Join(work, inv.cwd)
	cmd.Stdin = strings.NewReader(inv.stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if want := fill(inv.stdout); stdout.String() != want {
		t.Errorf("stdout %.300q, want %.300q", stdout.String(), want)
	}
	if got := stderr.String(); (got == "") != (inv.stderr == "") || !strings.Contains(got, inv.stderr) {
		t.Errorf("stderr %q, want %q", got, inv.stderr)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if inv.signal != 0 {
		if !status.Signaled() || status.Signal() != inv.signal {
			t.Errorf("ended with %v, want %v", cmd.ProcessState, inv.signal)
		}
	} else if status.ExitStatus() != inv.code {
		t.Errorf("exit status %v, want %d", cmd.ProcessState, inv.code)
	}
}
