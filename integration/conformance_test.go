package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// conformanceImage is the golden image whose programs the invocations run.
const conformanceImage = "niftitools/r7771_20220101"

// runtimesPresent are the runtimes that this machine has, apptainer first. A singularity that is apptainer under its
// older name is the same program.
func runtimesPresent(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, name := range []string{"apptainer", "bwrap"} {
		serverProgram(t, name)
		list = append(list, name)
	}
	if file, err := exec.LookPath("singularity"); err == nil {
		if real, err := filepath.EvalSymlinks(file); err == nil && filepath.Base(real) != "apptainer" {
			list = append(list, "singularity")
		}
	}
	return list
}

// caller is who starts a tool.
type caller struct {
	name string
	cred *syscall.Credential
	home string
}

// callers are whoever runs the test and, for root, an ordinary user too.
func callers(t *testing.T) []caller {
	t.Helper()
	list := []caller{{name: "self", home: shortDir(t)}}
	if os.Getuid() != 0 {
		return list
	}
	const nobody = 65534 // the kernel's own number for it
	home := shortDir(t)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return append(list, caller{"nobody", &syscall.Credential{Uid: nobody, Gid: nobody}, home})
}

// conformer runs the table for one caller on one mount.
type conformer struct {
	t    testing.TB
	m    *mounted
	who  caller
	work string // the directory that @WORK stands for
}

// commandFile makes a command file that runs name from the image, as M/bin has them. It lies outside the mount, for the
// images of the golden repository expose no shell.
func (c conformer) commandFile(app, name string) string {
	c.t.Helper()
	text, err := os.ReadFile(c.m.Path(".neurodeskfs", "apps", app))
	if err != nil {
		c.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "command: "):
			fmt.Fprintf(&out, "command: %s\n", name)
		case !strings.HasPrefix(line, "path: "):
			out.WriteString(line)
		}
	}
	file := filepath.Join(shortDir(c.t), name)
	if err := os.WriteFile(file, []byte(out.String()), 0o755); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// start is one trial's command under one runtime.
func (c conformer) start(inv trial, runtime string) *exec.Cmd {
	fill := strings.NewReplacer("@WORK", c.work, "@MOUNT", c.m.Dir, "@HOME", c.who.home)
	cmd := exec.Command(c.commandFile(conformanceImage, inv.command))
	for _, a := range inv.args {
		cmd.Args = append(cmd.Args, fill.Replace(a))
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.who.home, "LANG=C", "NEURODESK_RUNTIME=" + runtime, "TMPDIR=" + runDir,
		"APPTAINER_CACHEDIR=" + c.who.home}
	for _, e := range inv.env {
		name, value, _ := strings.Cut(e, "=")
		cmd.Env = append(cmd.Env, name+"="+fill.Replace(value))
	}
	cmd.Dir = fill.Replace(inv.dir)
	if inv.dir == "" {
		cmd.Dir = c.work
	}
	if inv.stdin != "" {
		cmd.Stdin = strings.NewReader(inv.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.who.cred}
	return cmd
}

// observed is what two runtimes must agree on.
type observed struct {
	stdout, stderr string
	status         int
	signal         syscall.Signal
}

func (c conformer) observe(inv trial, runtime string) observed {
	c.t.Helper()
	r := run(c.t, c.start(inv, runtime))
	if inv.lines { // in no order that a runtime would promise
		lines := strings.FieldsFunc(r.Stdout, func(r rune) bool { return r == 0 || r == '\n' })
		slices.Sort(lines)
		r.Stdout = strings.Join(lines, "\n")
	}
	return observed{r.Stdout, r.Stderr, r.Status, r.Signal}
}

// trial is one row of the table.
type trial struct {
	command string
	args    []string
	dir     string // current directory; "" = @WORK
	env     []string
	stdin   string
	want    string // stdout, or a part of it; "" = only what the runtimes agree on counts
	status  int    // exit status
	signal  bool   // ends by a signal, which the runtimes agree on
	says    string // a part of stderr; "" = nothing on stderr
	lines   bool   // stdout is a list of lines or NUL-terminated texts whose order does not count
	root    bool   // only root can prepare it
}

// invoke is a program of the image with arguments.
func invoke(command string, args ...string) trial { return trial{command: command, args: args} }

// shell is an trial of the image's shell.
func shell(script string, args ...string) trial {
	return trial{command: "sh", args: append([]string{"-c", script, "sh"}, args...)}
}

func (i trial) in(dir string) trial       { i.dir = dir; return i }
func (i trial) with(env ...string) trial  { i.env = env; return i }
func (i trial) gives(stdout string) trial { i.want = stdout; return i }
func (i trial) ends(n int) trial          { i.status = n; return i }
func (i trial) warns(part string) trial   { i.says = part; return i }
func (i trial) onlyRoot() trial           { i.root = true; return i }
func (i trial) reads(stdin string) trial  { i.stdin = stdin; return i }
func (i trial) unordered() trial          { i.lines = true; return i }

var conformance = map[string]trial{
	"plain":                      shell("echo hello").gives("hello\n"),
	"a program of the image":     invoke("nifti_tool", "-ver").gives("nifti_tool"),
	"arguments":                  invoke("printf", "[%s]", "two words", "", "*", "$HOME", "--", "--bind", "new\nline", "ä日", `\`, "$(id)").gives("[two words][][*]"),
	"options of bwrap":           invoke("printf", "%s ", "--bind", "/", "/x", "--args", "3").gives("--bind / /x --args 3 "),
	"stdin":                      invoke("cat").reads("a\nb\x00\xff").gives("a\nb\x00\xff"),
	"large output":               shell("head -c 3000000 /dev/zero | tr '\\0' x | wc -c").gives("3000000\n"),
	"stderr":                     shell("echo oops >&2; echo out").gives("out\n").warns("oops\n"),
	"exit 42":                    shell("exit 42").ends(42),
	"exit 143":                   shell("exit 143").ends(143),
	"exit 255":                   shell("exit 255").ends(255),
	"killed by TERM":             {command: "sh", args: []string{"-c", "kill -TERM $$"}, signal: true},
	"killed by KILL":             {command: "sh", args: []string{"-c", "kill -KILL $$"}, signal: true},
	"killed by SEGV":             {command: "sh", args: []string{"-c", "kill -SEGV $$"}, signal: true},
	"no such command":            invoke("nosuch").ends(127).warns("no such command"),
	"no such, with binds":        invoke("nosuch").with("APPTAINER_BINDPATH=@WORK:/mnt").ends(127).warns("no such command"),
	"cwd":                        shell("pwd -P; cat in.txt").gives("@WORK\ndata"),
	"cwd /tmp":                   shell("pwd -P").in("/tmp").gives("/tmp\n"),
	"cwd /":                      shell("pwd -P").in("/").gives("/\n"),
	"cwd HOME":                   shell("pwd -P; echo ~").in("@HOME").gives("@HOME\n@HOME\n"),
	"cwd with blanks, UTF-8":     shell("pwd -P").in("@WORK/a b ä,:\"q'").gives("@WORK/a b ä,:\"q'\n"),
	"cwd through a link":         shell("pwd").in("@WORK/link").gives("@WORK/sub\n"),
	"cwd below /var/tmp":         shell("pwd -P").in("/var/tmp").gives("/var/tmp\n"),
	"cwd below /opt":             shell("pwd -P; ls -A; ls -d /opt/nifti*").in("/opt/ndtest/x").gives("/opt/ndtest/x\nf\n/opt/nifti-r7771\n").onlyRoot(),
	"cwd below /srv":             shell("pwd -P; ls -A").in("/srv/ndtest/x").gives("/srv/ndtest/x\nf\n").onlyRoot(),
	"cwd below /var":             shell("pwd -P; ls -A; ls -d /var/lib").in("/var/ndtest/x").gives("/var/ndtest/x\nf\n/var/lib\n").onlyRoot(),
	"cwd below /run":             shell("pwd -P; ls -A").in("/run/ndtest/x").gives("/run/ndtest/x\nf\n").onlyRoot(),
	"cwd below /run/user":        shell("pwd -P; ls -A").in("/run/user/ndtest/x").gives("/run/user/ndtest/x\nf\n").onlyRoot(),
	"cwd in a bound /scratch":    shell("pwd -P; ls -d sub; echo x >new && rm new").in(scratch).gives(scratch + "\nsub\n").onlyRoot(),
	"cwd that cannot be":         shell("pwd").in("/usr").ends(125).warns("cannot run in this directory"),
	"cwd in /etc":                shell("pwd").in("/etc").ends(125).warns("cannot run in this directory"),
	"X authority":                shell("cat $XAUTHORITY; (: >>$XAUTHORITY) 2>/dev/null || echo read-only").with("DISPLAY=:77", "XAUTHORITY=/opt/ndtest/x/f").gives("read-only\n").onlyRoot(),
	"Wayland's directory":        shell("ls -A $XDG_RUNTIME_DIR; echo $WAYLAND_DISPLAY").with("XDG_RUNTIME_DIR=/run/user/ndtest/x", "WAYLAND_DISPLAY=wayland-0").gives("f\nwayland-0\n").onlyRoot(),
	"display by variable":        shell("echo $DISPLAY").with("DISPLAY=host:1").gives("host:1\n"),
	"TMPDIR":                     shell("echo $TMPDIR; echo x >$TMPDIR/nd && rm $TMPDIR/nd").with("TMPDIR=@HOME").gives("@HOME\n"),
	"a path into the image":      shell("echo $FSLDIR; ls -d $FSLDIR").with("FSLDIR=@MOUNT/apps/" + conformanceImage + "/rootfs/opt").gives("/opt\n/opt\n"),
	"a path into another image":  shell("echo ${FSLDIR-none}").with("FSLDIR=@MOUNT/apps/dcm2niix/default/rootfs/opt").gives("none\n"),
	"no GPU for one call":        shell("echo hello").with("NEURODESK_GPU=0").gives("hello\n"),
	"no HOME":                    shell("echo $HOME").with("HOME="),
	"HOME=/":                     shell("echo $HOME").with("HOME=/"),
	"HOME=/root":                 shell("cd; pwd; echo $HOME").with("HOME=/root").gives("/root\n/root\n").onlyRoot(),
	"ids":                        shell("id -u; id -g; id -un"),
	"groups":                     shell("id -G | tr ' ' '\\n'").unordered(),
	"account files":              shell("cat /etc/passwd; echo; cat /etc/group").unordered(),
	"host's files":               shell("cat /etc/hosts /etc/resolv.conf; date +%Z; uname -n"),
	"environment":                invoke("env", "-0").with("OMP_NUM_THREADS=3", "SLURM_Q=a=b,c\nd\\n \"q\" 'r' $(id) `id` ${HOME} é", "FOO=1", "PYTHONPATH=/x", "TERM=dumb").unordered(),
	"environment by prefix":      invoke("env", "-0").with("APPTAINERENV_A=$HOME", "SINGULARITYENV_B=b", "APPTAINERENV_PREPEND_PATH=/p", "APPTAINERENV_LD_PRELOAD=").unordered(),
	"environment of a bind":      invoke("env", "-0").with("APPTAINER_BINDPATH=@WORK:/data:ro,/none:/x").warns("left out: /none").unordered(),
	"read-only image":            shell("for d in / /usr /opt /etc /bin /mnt; do (: >$d/ndtest) 2>/dev/null && rm $d/ndtest && echo $d; done; :"),
	"places that can be written": shell("for d in /tmp /var/tmp /dev/shm @WORK @HOME; do (: >$d/ndtest$$) 2>/dev/null && rm $d/ndtest$$ && echo $d; done"),
	"kernel's file systems":      shell("for d in /proc /sys /dev /dev/pts /dev/shm; do stat -f -c '%n %T' $d 2>/dev/null || ls -d $d; done; cat /proc/self/comm; ls /dev/null /dev/full"),
	"tree of the image":          shell("ls -a / | grep -v -e ^neuro; ls /opt /usr /etc | head -40").unordered(),
	"a user's bind":              shell("cat /data/in.txt; : >/data/x").with("APPTAINER_BINDPATH=@WORK:/data:ro").gives("data").ends(1).warns("/data/x"),
	"an option's bind":           shell("cat '/m n/in.txt'").with(`neurodesk_singularity_opts=--bind "@WORK:/m n"`).gives("data"),
	"a deep place":               shell("cat /opt/a/b/in.txt; ls /opt | head -3").with("APPTAINER_BINDPATH=@WORK:/opt/a/b").gives("data"),
	"umask, limits, nice":        shell("umask; ulimit -n; ulimit -c; cut -d' ' -f 19 /proc/self/stat"),
	"a tool calls a tool":        shell("nifti_tool -ver").gives("nifti_tool"),
	"the same image's, by path":  shell("@MOUNT/apps/" + conformanceImage + "/bin/nifti_tool -ver").gives("nifti_tool"),
	"the same, no such option":   shell("@MOUNT/apps/" + conformanceImage + "/bin/nifti_tool -no-such >/dev/null 2>&1").ends(1),
	"another image's, inside":    shell("@MOUNT/apps/dcm2niix/default/bin/dcm2niix -v").ends(125).warns("another container's tool"),
	"open files":                 shell("ls /proc/self/fd | wc -l"),
}
