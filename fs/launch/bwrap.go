package launch

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Descriptors that a plan for bwrap speaks of. Run puts real ones in their place: a fixed number could be one that the
// tool inherits (PMI_FD, make's job server).
const (
	feedGate = iota
	feedInfo
	feedBlock
	feedPasswd
	feedGroup
	feedOptions // not in a plan: startSandbox gives bwrap its options by it
)

// bubblewrap is the fast lane: no daemon, no setuid program, a tenth of apptainer's start.
type bubblewrap struct{}

var runtimeBwrap Runtime = bubblewrap{}

func (bubblewrap) Name() string { return "bwrap" }

// Argv gives the steps of Job.Mounts, then the command. `--` ends bwrap's options, so no argument becomes one.
func (bubblewrap) Argv(j *Job) []string {
	argv := []string{"--die-with-parent"}
	for _, op := range j.Mounts {
		argv = append(append(argv, op.flag), op.args...)
	}
	for _, v := range j.Env {
		if loaderVariable(v.Name) {
			argv = append(argv, "--setenv", v.Name, v.Value)
		}
	}
	argv = append(argv, "--chdir", j.Cwd, "--", j.Command)
	return append(argv, j.Args...)
}

// Environ is the tool's environment itself: bwrap hands it on. Variables that the dynamic loader obeys are set by bwrap
// afterwards, for they must not bend bwrap, which is the host's.
func (bubblewrap) Environ(_ []string, j *Job) []string {
	env := make([]string, 0, len(j.Env))
	for _, v := range j.Env {
		if !loaderVariable(v.Name) {
			env = append(env, v.Name+"="+v.Value)
		}
	}
	return env
}

func loaderVariable(name string) bool {
	return strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "MALLOC_") || name == "GLIBC_TUNABLES" || name == "GCONV_PATH" ||
		name == "LOCPATH" || name == "NLSPATH"
}

// optionVariables are options that bwrap lacks, as apptainer (the keys of its action flags) reads them from APPTAINER_NV or
// SINGULARITY_NV.
var optionVariables = strings.Fields(`
	ADD_CAPS ALLOW_SETUID APP APPNAME APPLY_CGROUPS BOOT COMPAT CONTAIN CONTAINALL CONTAINLIBS CPUSET_CPUS CPUSET_MEMS CPU_SHARES DNS DROP_CAPS
	ENV_FILE FAKEROOT FUSESPEC HOSTNAME IPC KEEP_PRIVS MEMORY MOUNT NET NETWORK NO_UMASK NV NVCCLI OVERLAY OVERLAYIMAGE PID PIDS_LIMIT ROCM
	SCRATCH SCRATCHDIR SECURITY UNSHARE_IPC UNSHARE_NET UNSHARE_PID UNSHARE_UTS UTS WORKDIR WRITABLE WRITABLE_TMPFS
`)

// optionVariable gives the first of them that the caller has set, "" if there is none.
func (h *Host) optionVariable() string {
	for _, e := range h.Env {
		name, value, _ := strings.Cut(e, "=")
		option, ok := strings.CutPrefix(name, "APPTAINER_")
		if !ok {
			option, ok = strings.CutPrefix(name, "SINGULARITY_")
		}
		if ok && slices.Contains(optionVariables, option) && !slices.Contains([]string{"", "0", "false"}, value) {
			return name
		}
	}
	return ""
}

// What bwrap takes, in words, and whose they are. The rest is for the entries of opened directories.
const (
	maxBwrapWords = 9000
	maxBwrapArgs  = 8000 // the tool's
	ownBwrapWords = 400  // our other options', a hundred binds among them
)

// bwrapOptions takes over the runtime's options that have a meaning under bwrap. It gives the first that has none.
func (p *planner) bwrapOptions() (binds []string, env []Var, unknown string) {
	if p.job.WritableTmpfs {
		return nil, nil, "writable_tmpfs"
	}
	if name := p.host.optionVariable(); name != "" {
		return nil, nil, name
	}
	if len(p.args) > maxBwrapArgs {
		return nil, nil, "more than " + strconv.Itoa(maxBwrapArgs) + " arguments"
	}
	options := p.job.Options
	for len(options) > 0 {
		name, value, joined := strings.Cut(options[0], "=")
		all := options[0]
		options = options[1:]
		switch name {
		case "-s", "--silent", "-q", "--quiet", "-e", "--cleanenv", "-u", "--userns", "--no-home":
			continue
		case "-c", "--contain":
			p.job.Contain, p.app.Contain = true, true
			continue
		case "-B", "--bind", "--env":
		default:
			return nil, nil, all
		}
		if !joined {
			if len(options) == 0 {
				return nil, nil, all
			}
			value, options = options[0], options[1:]
		}
		if name != "--env" {
			binds = append(binds, splitList(value)...)
			continue
		}
		for _, pair := range strings.Split(value, ",") {
			n, v, ok := strings.Cut(pair, "=")
			if !ok || !validName(n) {
				return nil, nil, all
			}
			env = append(env, Var{n, v})
		}
	}
	return binds, env, ""
}

// root gives the steps that make the root: the image, the kernel's file systems, the files of /etc that name the host
// and the caller, then the binds, in this order.
func (p *planner) root() error {
	c := &composer{image: p.image, opened: map[string]bool{}}
	c.room = (maxBwrapWords - ownBwrapWords - len(p.job.Args)) / 3 // an option and two operands each
	system := slices.Concat(p.kernelOps(c, false), p.emptyOps(c), p.etcOps(c))
	user := []mountOp{}
	for _, b := range p.job.Binds {
		if err := c.add(b); err != nil {
			return p.fail("%v", err)
		}
		flag := "--bind"
		if slices.Contains(strings.Split(b.Opts, ","), "ro") {
			flag = "--ro-bind"
		}
		user = append(user, mountOp{flag: flag, args: []string{b.Src, c.last()}})
	}
	user = append(user, p.kernelOps(c, true)...)
	base, err := c.base()
	if err != nil {
		return p.fail("%v", err)
	}
	number := func(n int) string { return strconv.Itoa(n) }
	ops := []mountOp{
		{"--info-fd", []string{number(feedInfo)}, true}, {"--block-fd", []string{number(feedBlock)}, true},
		{"--file", []string{number(feedGate), "/dev/gate"}, true}, // hidden by the next steps
	}
	p.job.Mounts = slices.Concat(ops, base, system, user, c.close())
	return nil
}

// kernelOps shows /dev, /proc and /sys as apptainer does: the host's; contained, /dev is new. bwrap reads the list of all
// mounts at each step, and these bring a dozen: they come last, but for one that something else is bound in.
func (p *planner) kernelOps(c *composer, last bool) []mountOp {
	var ops []mountOp
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		inside := func(b Bind) bool {
			at, _, err := p.image.resolve(b.Dst)
			return within(b.Dst, dir) || err == nil && within(at, dir)
		}
		if slices.ContainsFunc(p.job.Binds, inside) == last || c.add(Bind{Src: dir, Dst: dir}) != nil {
			continue
		}
		op := mountOp{flag: "--bind", args: []string{dir, c.last()}}
		switch {
		case dir == "/dev" && p.app.Contain:
			op = mountOp{flag: "--dev", args: op.args[1:]}
		case dir == "/dev":
			op.flag = "--dev-bind"
		}
		ops = append(ops, op)
	}
	return ops
}

// emptyOps gives a contained tool its own places to write to.
func (p *planner) emptyOps(c *composer) []mountOp {
	var ops []mountOp
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if p.app.Contain && c.add(Bind{Src: dir, Dst: dir}) == nil {
			ops = append(ops, mountOp{flag: "--tmpfs", args: []string{c.last()}})
		}
	}
	return ops
}

// etcOps brings the host's name service and time zone, and the caller's account.
func (p *planner) etcOps(c *composer) []mountOp {
	var ops []mountOp
	for _, name := range []string{"/etc/localtime", "/etc/hosts", "/etc/resolv.conf"} {
		if fi, err := p.host.Stat(name); err != nil || !fi.Mode().IsRegular() || !p.image.isDir("/etc") {
			continue
		}
		if _, fi, err := p.image.resolve(name); err == nil && !fi.Mode().IsRegular() {
			continue
		}
		if err := c.add(Bind{Src: name, Dst: name}); err == nil {
			ops = append(ops, mountOp{flag: "--ro-bind", args: []string{name, c.last()}})
		}
	}
	passwd, group := p.image.accountFiles(p.job.Home)
	for _, f := range []struct {
		name string
		text []byte
		feed int
	}{{"/etc/passwd", passwd, feedPasswd}, {"/etc/group", group, feedGroup}} {
		if f.text == nil {
			continue
		}
		if err := c.add(Bind{Src: f.name, Dst: f.name}); err == nil {
			ops = append(ops, mountOp{"--ro-bind-data", []string{strconv.Itoa(f.feed), c.last()}, true})
			p.job.Feeds = append(p.job.Feeds, feed{f.feed, f.text})
		}
	}
	return ops
}

func (t imageTree) isDir(name string) bool {
	_, fi, err := t.resolve(name)
	return err == nil && fi.IsDir()
}

// insideEnv makes the whole environment of the tool: the image's own, then what apptainer adds, then what is passed on.
func (p *planner) insideEnv() {
	vars := map[string]string{}
	for _, v := range p.inner {
		vars[v.Name] = v.Value
	}
	var binds []string
	for _, b := range p.job.Binds {
		binds = append(binds, b.Dst)
	}
	for _, prefix := range []string{"APPTAINER_", "SINGULARITY_"} {
		vars[prefix+"CONTAINER"] = p.job.Rootfs
		vars[prefix+"NAME"] = path.Base(p.job.Rootfs)
		vars[prefix+"ENVIRONMENT"] = "/.singularity.d/env/91-environment.sh"
		vars[prefix+"NO_EVAL"] = "1"
		vars[prefix+"BIND"] = strings.Join(binds, ",")
	}
	vars["APPTAINER_COMMAND"], vars["APPTAINER_APPNAME"] = "exec", ""
	vars["PROMPT_COMMAND"] = `PS1="` + promptName + `"; unset PROMPT_COMMAND`
	if p.job.Home != "" {
		vars["HOME"] = p.job.Home
	}
	vars["PWD"] = p.job.Cwd
	for _, v := range p.job.Env {
		switch v.Name {
		case "PREPEND_PATH", "APPEND_PATH":
		default:
			vars[v.Name] = v.Value
		}
	}
	for _, v := range p.job.Env {
		switch v.Name {
		case "PREPEND_PATH":
			vars["PATH"] = v.Value + ":" + vars["PATH"]
		case "APPEND_PATH":
			vars["PATH"] += ":" + v.Value
		}
	}
	p.job.Env = sortedVars(vars)
}

const promptName = "Apptainer> "

// imageEnv tells what the image's environment scripts set: asked of the host, which keeps it for each image; else read as text.
func (p *planner) imageEnv(c choice) ([]Var, error) {
	reason := errors.New("nothing can run them")
	if p.host.ImageEnv != nil {
		hash := p.cmd.Hash
		if path.IsAbs(p.cmd.Image) && !within(p.cmd.Rootfs, p.host.Launcher) {
			hash = "" // a directory of the host: its scripts may be edited, which its hash does not tell
		}
		var vars []Var
		var refusal *Exit
		vars, reason = p.host.ImageEnv(hash, p.job.Home, func() (*Exec, error) { return p.probe(c) })
		if reason == nil || errors.As(reason, &refusal) {
			return vars, reason
		}
	}
	vars, ok := p.image.textEnv()
	if !ok {
		return nil, p.fail("the image's environment scripts could not be run under bwrap (%v); set NEURODESK_RUNTIME=apptainer", reason)
	}
	return vars, nil
}

// probe plans the start that runs the environment scripts. Every error is an *Exit.
func (p *planner) probe(c choice) (*Exec, error) {
	q := &planner{host: p.host, cmd: p.cmd, image: p.image, mount: p.mount}
	q.job = Job{Rootfs: p.cmd.Rootfs, Cwd: "/", Home: p.job.Home, Command: p.image.shell()}
	q.job.Args = []string{"-c", envScript}
	q.job.Env = []Var{{"HOME", p.job.Home}, {"LANG", "C"}, {"PATH", defaultPath}}
	if err := q.root(); err != nil {
		return nil, err
	}
	return q.exec(c), nil
}

// shell is the program that runs the environment scripts; some have words that only bash knows.
func (t imageTree) shell() string {
	if v, _ := t.program("/bin/bash"); v == present {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// envScript sources what apptainer sources, in its order. The last program's own environment tells the outcome, with
// every byte of the values.
const envScript = `unset PS1
for f in /.singularity.d/env/*.sh; do if [ -f "$f" ]; then . "$f"; fi; done >/dev/null 2>&1
unset f
exec cat /proc/self/environ`
