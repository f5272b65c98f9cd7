package launch

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Exit statuses of our own; all others are the tool's.
const (
	StatusRetired       = 69  // EX_UNAVAILABLE of sysexits.h
	StatusError         = 125 // we, not the tool, failed
	StatusNotExecutable = 126
	StatusNotFound      = 127
)

// Exit is the error of a start that did not come to the tool.
type Exit struct {
	Code    int    // exit status of the process
	Message string // one line that says what to do, without "neurodeskfs:"
}

// Error gives the message.
func (e *Exit) Error() string { return e.Message }

// Plan decides how a command starts on this host. It starts nothing and changes nothing; the same arguments give the same
// answer. Every error is an *Exit. The words of args, and the command itself, come after the image in Argv, so the
// runtime takes none of them for an option of its own.
func Plan(policy Policy, cmd Command, args []string, h Host) (*Exec, error) {
	p := &planner{host: &h, cmd: &cmd, args: args, app: policy.For(cmd.App), mount: policy.mountpoint(h.Launcher)}
	if cmd.Retired != "" {
		return nil, &Exit{StatusRetired, fmt.Sprintf("%s: %s %s is retired: %s", clip(cmd.Command), clip(cmd.App), clip(cmd.Version), oneLine(cmd.Retired))}
	}
	if cmd.Refused != "" {
		return nil, &Exit{StatusError, fmt.Sprintf("%s: %s", clip(cmd.Command), oneLine(cmd.Refused))}
	}
	if err := cmd.Validate(); err != nil {
		return nil, p.fail("%v; run `neurodeskfs doctor`", err)
	}
	return p.plan()
}

// planner holds what the steps of one Plan share.
type planner struct {
	host   *Host
	cmd    *Command
	args   []string
	app    AppPolicy
	mount  string // M
	image  imageTree
	job    Job
	b      binder
	warn   []string
	looked bool     // the command has been found in the image
	dirs   []string // the image's PATH, where it is known
	extra  []string // binds that the runtime's options ask for, under bwrap
	inner  []Var    // under bwrap: what the image's scripts set
	mounts []hostMount
}

func (p *planner) fail(format string, a ...any) *Exit {
	return &Exit{StatusError, clip(p.cmd.Command) + ": " + fmt.Sprintf(format, a...)}
}

func (p *planner) plan() (*Exec, error) {
	h := p.host
	p.image = imageTree{h, p.cmd.Rootfs, map[string]look{}}
	p.mounts = parseMounts(h.MountInfo)
	c, err := p.choose()
	if err != nil {
		return nil, err
	}
	user, err := Split(h.getenv("neurodesk_singularity_opts"))
	if err != nil {
		return nil, p.fail("neurodesk_singularity_opts: %v; mend the quoting or unset it", err)
	}
	p.job = Job{
		Rootfs: p.cmd.Rootfs, Args: p.args, WritableTmpfs: p.app.WritableTmpfs, Contain: p.app.Contain, GPU: p.gpu(),
		Env: environment(h, &p.app, translator{p.image, p.mount}), OwnMount: ownMount(h, p.mounts, p.cmd.Rootfs),
	}
	for _, list := range [][]string{p.cmd.Args, p.app.Args, user} {
		p.job.Options = append(p.job.Options, list...)
	}
	if c, err = p.leaveBwrap(c); err != nil {
		return nil, err
	}
	if err := p.namespaces(c); err != nil {
		return nil, err
	}
	if h.CwdErr != nil || h.Cwd == "" {
		return nil, p.fail("the current directory is gone or cannot be read (%v); cd to another one", h.CwdErr)
	}
	if err := p.fill(c); err != nil {
		return nil, err
	}
	e := p.exec(c)
	if d := h.getenv("NEURODESK_DEBUG"); d != "" && d != "0" {
		e.Debug = true
		e.compare(h.Env)
	}
	return e, nil
}

// fill completes the job: the program, its binds and its environment.
func (p *planner) fill(c choice) (err error) {
	p.home()
	fast := c.runtime == runtimeBwrap
	if fast {
		if p.inner, err = p.imageEnv(c); err != nil {
			return err
		}
	}
	for _, step := range []func() error{p.program, p.binds, p.relative, p.again, p.architecture} {
		if err := step(); err != nil {
			return err
		}
	}
	if fast { // it takes every byte as it is
		p.insideEnv()
		return p.root()
	}
	p.ignore()
	return p.text()
}

// ignore has the tool ignore the signals that its caller ignores: nohup, or a script that starts it with `&`. apptainer and
// singularity give every signal back its default, so a shell of the image takes it from there, and becomes the tool.
func (p *planner) ignore() {
	if v, _ := p.image.program("/bin/sh"); v != present || len(p.host.Ignored) == 0 {
		return
	}
	trap := "trap '' " + strings.Join(p.host.Ignored, " ") + `; exec "$@"`
	p.job.Command, p.job.Args = "/bin/sh", append([]string{"-c", trap, "sh", p.job.Command}, p.args...)
}

// exec writes the plan down for one runtime.
func (p *planner) exec(c choice) *Exec {
	e := &Exec{Path: c.words[0], Warnings: p.warn, Runtime: c.runtime.Name(), Env: c.runtime.Environ(p.host.Env, &p.job), feeds: p.job.Feeds}
	e.Argv = append(append([]string{}, c.words...), c.runtime.Argv(&p.job)...)
	at := len(c.words) + 1
	for _, op := range p.job.Mounts {
		if op.fed {
			e.feedArgs = append(e.feedArgs, at+1)
		}
		at += 1 + len(op.args)
	}
	e.options = [2]int{len(c.words), len(e.Argv) - len(p.job.Args) - len([]string{"--", p.job.Command})}
	return e
}

// text keeps bytes that are no UTF-8 from apptainer and singularity: both replace them by U+FFFD without a word, so that
// the tool would be given another file's name.
func (p *planner) text() error {
	for i, a := range p.args {
		if !utf8.ValidString(a) {
			return p.fail("argument %d (%s) holds bytes that are no UTF-8, which the container runtime would change; rename the file or give its directory", i+1, clip(a))
		}
	}
	if !utf8.ValidString(p.job.Command) {
		return p.fail("its name %s is no UTF-8, which the container runtime would change; NEURODESK_RUNTIME=bwrap starts it as it is", clip(p.job.Command))
	}
	if !utf8.ValidString(p.job.Cwd) {
		return p.fail("the name of the current directory %s is no UTF-8, which the container runtime would change; rename it", clip(p.job.Cwd))
	}
	var lost []string
	p.job.Env = slices.DeleteFunc(p.job.Env, func(v Var) bool {
		bad := !utf8.ValidString(v.Value)
		if bad {
			lost = append(lost, v.Name)
		}
		return bad
	})
	p.job.Binds = slices.DeleteFunc(p.job.Binds, func(x Bind) bool { return !utf8.ValidString(x.Src + x.Dst) })
	if len(lost) > 0 {
		p.warn = append(p.warn, fmt.Sprintf("%s: no UTF-8, left out: %s", clip(p.cmd.Command), strings.Join(lost, ", ")))
	}
	return nil
}

// gpu decides whether the driver's libraries are brought into the container.
func (p *planner) gpu() string {
	mode := p.app.GPU
	switch p.host.getenv("NEURODESK_GPU") {
	case "0", "off", "no", "false":
		mode = "off"
	case "1", "on", "yes", "true":
		mode = "on"
	}
	exists := func(name string) bool { _, err := p.host.Stat(name); return err == nil }
	switch {
	case mode == "off":
		return ""
	case exists("/dev/nvidiactl"):
		return "nvidia"
	case exists("/dev/kfd"):
		return "rocm"
	case mode == "on":
		return "nvidia"
	}
	return ""
}

// binds collects all that the tool shall see of the host, and checks that the current directory is among it.
func (p *planner) binds() error {
	h := p.host
	p.b.host, p.b.image, p.b.contain = h, p.image, p.app.Contain
	p.b.mounts = p.mounts
	if !p.app.Contain {
		p.b.topLevel(p.args)
		p.optional("/var/tmp", "")
		p.jobSockets()
	}
	if home := h.home(); home != "" {
		p.optional(home, "")
	}
	p.variables()
	for _, source := range append([]string{""}, h.bindLists()...) {
		specs, from := p.app.Binds, "binds of launch.json"
		if source != "" {
			specs, from = splitList(h.getenv(source)), source
		}
		if missing := p.b.wanted(specs); len(missing) > 0 {
			p.warn = append(p.warn, fmt.Sprintf("%s: %s: not on this host, left out: %s", clip(p.cmd.Command), from, strings.Join(missing, ", ")))
		}
	}
	if missing := p.b.wanted(p.extra); len(missing) > 0 {
		return p.fail("--bind: not on this host: %s", strings.Join(missing, ", "))
	}
	p.displaySocket()
	if h.Cwd != "/" {
		if !h.Search(h.Cwd) {
			return p.fail("the current directory %s cannot be entered; cd to another one", clip(h.Cwd))
		}
		if err := p.b.explicit(h.Cwd, ""); err != nil {
			return p.fail("cannot run in this directory: %v; cd to your data", err)
		}
	}
	p.job.Cwd, p.job.Binds = h.Cwd, p.b.binds
	return nil
}

// home decides what HOME is inside.
func (p *planner) home() {
	if home := p.host.home(); strings.Contains(home, ":") {
		p.warn = append(p.warn, fmt.Sprintf("%s: $HOME has a colon in its name and is not passed on", clip(p.cmd.Command)))
	} else {
		p.job.Home = home
	}
}

// displaySocket keeps the X server's socket within reach where something else is bound to /tmp, or nothing.
func (p *planner) displaySocket() {
	const sockets = "/tmp/.X11-unix"
	if display := p.host.getenv("DISPLAY"); (strings.HasPrefix(display, ":") || strings.HasPrefix(display, "unix:")) && !p.b.covered(sockets) {
		if _, err := p.host.Stat(sockets); err == nil {
			p.b.add(Bind{Src: sockets, Dst: sockets})
		}
	}
}

// optional binds a path where that is possible and needed.
func (p *planner) optional(name, opts string) {
	if p.b.covered(name) {
		return
	}
	if _, err := p.host.Stat(name); err == nil {
		_ = p.b.explicit(name, opts) // where the image has files of its own they stay
	}
}

// jobSockets binds what MPI programs need to find the scheduler.
func (p *planner) jobSockets() {
	if p.host.getenv("SLURM_JOB_ID") == "" {
		return
	}
	p.optional("/var/spool/slurmd", "")
	p.optional("/run/munge", "")
}

// linked is the first place, on the way that links lead from name, which the tool does not see: ~/license.txt shows
// inside, but not /opt, where it leads. What is under an automounter is not looked at: it could wait for a server.
func (p *planner) linked(name string) string {
	for range maxLinks {
		if !p.b.covered(name) || p.b.underAutofs(name) {
			break
		}
		next := p.host.throughLink(name)
		if next == "" {
			break
		}
		name = next
	}
	return name
}

// variables binds the files and directories that variables name, where no other bind shows them.
func (p *planner) variables() {
	for _, v := range p.job.Env {
		opts := ""
		switch v.Name {
		case "FS_LICENSE", "XAUTHORITY":
			opts = "ro"
		case "TMPDIR", "SSH_AUTH_SOCK", "PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR", "XDG_RUNTIME_DIR", "SUBJECTS_DIR", "MCR_CACHE_ROOT", "MLM_LICENSE_FILE", "LM_LICENSE_FILE", "TEMPLATEFLOW_HOME":
		default:
			continue
		}
		for _, name := range strings.Split(v.Value, ":") {
			clean := path.Clean(name) // TMPDIR=/scratch/job/; what `..` leads to is the kernel's to say
			if path.IsAbs(name) && clean != "/" && !slices.Contains(strings.Split(name, "/"), "..") {
				if opts == "ro" { // a file
					clean = p.linked(clean)
				}
				p.optional(clean, opts)
			}
		}
	}
}

// oneLine makes foreign text fit for one line of a terminal.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
