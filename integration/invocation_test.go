package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// What is typed by its plain name must end as a native program does. Each
// invocation of the table runs twice: with the image's own tree as the root
// directory, and through M/bin by the real apptainer. Arguments in bytes that
// are no UTF-8 are not among them: apptainer would change them, so the launcher
// refuses them.

const toolFQRN, toolImage = "tools.example.org", "tool_1.0_20240101"

const toolDefinition = `Bootstrap: scratch
%%setup
    R=$APPTAINER_ROOTFS
    mkdir -p $R/bin $R/etc
    cp '%[1]s' $R/bin/busybox
    for i in $('%[1]s' --list); do [ $i = busybox ] || ln -s busybox $R/bin/$i; done
    printf '#!/bin/sh\nexec /bin/sh "$@"\n' >$R/bin/nd-sh
    printf '#!/bin/sh\nprintf "%%%%d:" $#; printf "<%%%%s>" "$@"\n' >$R/bin/nd-argv
    chmod 755 $R/bin/nd-sh $R/bin/nd-argv
`

// requireTools skips a test on a machine without a tool, except in CI.
func requireTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: make deps installs it", tool)
			}
			t.Skipf("%s is missing: make deps installs it", tool)
		}
	}
}

// buildTool makes the image's tree.
func buildTool(t *testing.T) (rootfs string) {
	t.Helper()
	requireTools(t, "apptainer", "busybox")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	def := filepath.Join(dir, "image.def")
	if err := os.WriteFile(def, fmt.Appendf(nil, toolDefinition, busybox), 0o644); err != nil {
		t.Fatal(err)
	}
	rootfs = filepath.Join(dir, "rootfs")
	c := exec.Command("apptainer", "--quiet", "build", "--sandbox", rootfs, def)
	c.Env = append(os.Environ(), "HOME="+dir)
	if r := run(t, c); r.Status != 0 {
		t.Fatalf("apptainer build: exit status %d: %s", r.Status, r.Stderr)
	}
	if err := os.Chmod(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	return rootfs
}

// mountTool publishes the image in Neurodesk's layout and mounts it.
func mountTool(t *testing.T, rootfs string) *mounted {
	t.Helper()
	return mount(t, setup{Sources: []source{newStratum(t).tool(rootfs, "nd-sh", "nd-argv")}})
}

// tool publishes an image with these commands in Neurodesk's layout.
func (s *stratum) tool(rootfs string, commands ...string) source {
	s.t.Helper()
	tree := cvmfstest.NewTree()
	image, err := cvmfstest.FromDir(rootfs)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := "containers/" + toolImage
	tree.Nested(dir)
	tree.File(dir+"/commands.txt", []byte(strings.Join(commands, "\n")+"\n"), 0o644)
	tree.Put(dir+"/"+toolImage+".simg", image.Root())
	tree.Nested(dir + "/" + toolImage + ".simg")
	_, _, src := s.publish(cvmfstest.Options{FQRN: toolFQRN}, tree)
	src.Layout = "neurodesk"
	return src
}

// invocation is one row of the table.
type invocation struct {
	name    string
	command string
	args    []string
	stdin   string
	cwd     string // below the working directory; it is made
	cwdMode fs.FileMode
	send    syscall.Signal // sent when the program has written a line
}

// $W in an argument stands for the working directory's absolute path.
var invocations = []invocation{
	{name: "no arguments", command: "nd-argv"},
	{name: "spaces", command: "nd-argv", args: []string{"a b", " lead", "trail ", "  ", ""}},
	{name: "quotes", command: "nd-argv", args: []string{`"double"`, `'single'`, "`back`", `\`, `\\n`, `"`}},
	{name: "globs and variables", command: "nd-argv", args: []string{"*", "?", "[a-z]", "$HOME", "${PATH}", "$(id)", "~", "!x", "a;b", "a&b", "a|b", ">f", "#c", "{a,b}"}},
	{name: "newlines and odd bytes", command: "nd-argv", args: []string{"a\nb", "\n", "tab\there", "ümlaut", "\x01\x1b"}},
	{name: "options", command: "nd-argv", args: []string{"--help", "--version", "-c", "--", "--bind", "-", "--nv"}},
	{name: "an argument of 100 kB", command: "nd-argv", args: []string{strings.Repeat("long ", 20_000)}},
	{name: "3,000 arguments", command: "nd-argv", args: strings.Fields(strings.Repeat("arg ", 3000))},
	{name: "standard input", command: "nd-sh", args: []string{"-c", "cat; echo end"}, stdin: "one\ntwo\x00three\nno newline"},
	{name: "5 MB of standard input", command: "nd-sh", args: []string{"-c", "md5sum; wc -c"}, stdin: strings.Repeat("0123456789abcde\n", 5<<16)},
	{name: "standard error", command: "nd-sh", args: []string{"-c", "echo out; echo err >&2; echo out2; echo err2 >&2"}},
	{name: "50 MB of standard output", command: "nd-sh", args: []string{"-c", "yes 0123456789abcde | head -c 52428800"}},
	{name: "exit 0", command: "nd-sh", args: []string{"-c", "exit 0"}},
	{name: "exit 1", command: "nd-sh", args: []string{"-c", "exit 1"}},
	{name: "exit 42", command: "nd-sh", args: []string{"-c", "echo x; exit 42"}},
	{name: "exit 126", command: "nd-sh", args: []string{"-c", "exit 126"}},
	{name: "exit 255", command: "nd-sh", args: []string{"-c", "exit 255"}},
	{name: "a command that is not in the image", command: "nd-sh", args: []string{"-c", "no-such-command"}},
	{name: "killed by SIGKILL", command: "nd-sh", args: []string{"-c", "echo x; kill -KILL $$"}},
	{name: "killed by SIGSEGV", command: "nd-sh", args: []string{"-c", "kill -SEGV $$"}},
	{name: "SIGTERM from outside", command: "nd-sh", args: []string{"-c", "echo ready; exec sleep 60"}, send: syscall.SIGTERM},
	{name: "SIGTERM is handled", command: "nd-sh", args: []string{"-c", "trap 'echo caught; kill $!; exit 3' TERM; sleep 60 & echo ready; wait"}, send: syscall.SIGTERM},
	{name: "SIGUSR1 is handled", command: "nd-sh", args: []string{"-c", "trap 'echo one; kill $!; exit 4' USR1; sleep 60 & echo ready; wait"}, send: syscall.SIGUSR1},
	{name: "the working directory", command: "nd-sh", args: []string{"-c", "pwd; echo $PWD; ls"}},
	{name: "a relative path", command: "nd-sh", args: []string{"-c", `cat in.txt; mkdir -p out/deep; echo new > out/deep/file; echo more >> in.txt; rm gone.txt; mv a.txt b.txt`}},
	{name: "a relative path upwards", command: "nd-sh", args: []string{"-c", "cat ../in.txt; echo x > ../up.txt"}, cwd: "sub"},
	{name: "an absolute path", command: "nd-sh", args: []string{"-c", `cat "$1/in.txt"; echo x > "$1/new file"; chmod 600 "$1/new file"`, "x", "$W"}},
	{name: "a cwd with spaces", command: "nd-sh", args: []string{"-c", "pwd; echo x > 'my file'; ls -1"}, cwd: "my study/über 'quoted' \"x\""},
	{name: "a cwd with odd characters", command: "nd-sh", args: []string{"-c", "pwd; echo x > f"}, cwd: "a=b@c+d%e$f{g}(h)&i;j*k"},
	{name: "a read-only cwd", command: "nd-sh", args: []string{"-c", "pwd; ls ..; echo x > f; echo $?"}, cwd: "ro", cwdMode: 0o555},
	{name: "modes and the umask", command: "nd-sh", args: []string{"-c", "umask; echo x > f; umask 077; echo x > g; mkdir d; ln -s f l; stat -c '%a %F %N' f g d l"}},
}

func TestLaunchInvocationsAreNative(t *testing.T) {
	rootfs := buildTool(t)
	m := mountTool(t, rootfs)
	// The new root has no devices; a shell reads /dev/null for what it starts with &.
	if err := os.MkdirAll(filepath.Join(rootfs, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "dev/null"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range invocations {
		t.Run(c.name, func(t *testing.T) {
			work := shortDir(t) // the same absolute path for both
			native := c.run(t, filepath.Join(rootfs, work), func(args []string) *exec.Cmd {
				cmd := exec.Command("/bin/"+c.command, args...)
				cmd.Path, cmd.Err = "/bin/"+c.command, nil // in the new root
				cmd.SysProcAttr = inRoot(rootfs)
				cmd.Env = []string{"PATH=/bin", "PWD=" + filepath.Join(work, c.cwd)}
				cmd.Dir = filepath.Join(work, c.cwd)
				return cmd
			}, work)
			ours := c.run(t, work, func(args []string) *exec.Cmd {
				cmd := m.Command(c.command, args...)
				cmd.Dir = filepath.Join(work, c.cwd)
				return cmd
			}, work)
			if native != ours {
				t.Errorf("natively:\n%s\nthrough bin:\n%s", native, ours)
			}
			if native.Status == 0 && native.Stdout == "" && strings.Contains(strings.Join(c.args, " "), "echo") {
				t.Errorf("the native run shows nothing: %s", native)
			}
		})
	}
}

// inRoot runs a program with another root directory; an ordinary user needs a
// user namespace for that.
func inRoot(dir string) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Chroot: dir}
	if os.Geteuid() != 0 {
		a.Cloneflags = syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// outcome is all that can be seen of a run.
type outcome struct {
	Stdout, Stderr string
	Status         int
	Signal         syscall.Signal
	Files          string
}

func (o outcome) String() string {
	return fmt.Sprintf("\tstatus %d, signal %d\n\tstdout %.600q\n\tstderr %.600q\n\tfiles %.600q", o.Status, o.Signal, o.Stdout, o.Stderr, o.Files)
}

// run prepares the working directory at dir, runs and looks at what is there.
func (c invocation) run(t *testing.T, dir string, command func(args []string) *exec.Cmd, work string) outcome {
	t.Helper()
	cwd := filepath.Join(dir, c.cwd)
	if err := os.MkdirAll(cwd, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in.txt", "gone.txt", "a.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+" has this\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if c.cwdMode != 0 {
		if err := os.Chmod(cwd, c.cwdMode); err != nil {
			t.Fatal(err)
		}
	}
	var args []string
	for _, a := range c.args {
		args = append(args, strings.ReplaceAll(a, "$W", work))
	}
	cmd := command(args)
	cmd.Stdin = strings.NewReader(c.stdin)
	var r result
	if c.send != 0 {
		r = runWithSignal(t, cmd, c.send)
	} else {
		r = run(t, cmd)
	}
	if len(r.Stdout) > 1<<20 {
		r.Stdout = fmt.Sprintf("%d bytes, %x", len(r.Stdout), sha256.Sum256([]byte(r.Stdout)))
	}
	return outcome{r.Stdout, r.Stderr, r.Status, r.Signal, describeFiles(t, dir)}
}

// runWithSignal sends a signal as soon as the program has written a line.
func runWithSignal(t *testing.T, c *exec.Cmd, s syscall.Signal) result {
	t.Helper()
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := killAfter(c, commandPatience)
	defer timer.Stop()
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		t.Errorf("the program wrote %q: %v", line, err)
	}
	if err := c.Process.Signal(s); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil {
		t.Error(err)
	}
	c.Wait()
	r := result{Stdout: string(line) + string(rest), Stderr: errs.String(), Status: c.ProcessState.ExitCode()}
	if ws := c.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.Signal = ws.Signal()
	}
	return r
}

// describeFiles lists what is below dir: names, modes and contents.
func describeFiles(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&all, "%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %x", sha256.Sum256(b))
		}
		all.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// killAfter ends a program that does not end by itself.
func killAfter(c *exec.Cmd, patience time.Duration) *time.Timer {
	return time.AfterFunc(patience, func() { c.Process.Kill() })
}
