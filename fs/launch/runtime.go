package launch

import (
	"slices"
	"strings"
)

// Runtime knows how one container program is started.
type Runtime interface {
	// Name is the program's name, for messages and to find it in PATH.
	Name() string
	// Argv gives the words after the program's own: options, the image, then the command and its arguments verbatim.
	Argv(j *Job) []string
	// Environ gives the environment that the program itself starts with.
	Environ(host []string, j *Job) []string
}

// Job is one start, all decisions made.
type Job struct {
	Rootfs        string
	Cwd           string
	Home          string // "" = as the runtime decides
	Binds         []Bind
	GPU           string // "", nvidia or rocm
	WritableTmpfs bool
	Contain       bool
	Options       []string // of the image, the site and the user, in this order: later ones win
	Command       string
	Args          []string
	Env           []Var // under bwrap all that the tool sees, else what is added to the image's own
	Mounts        []mountOp
	Feeds         []feed
	OwnMount      bool // the image lies on a mount that only this user can read: no setuid program can
}

// apptainer is also SingularityCE: the options are the same, the variables' prefix is not.
type apptainer struct {
	name, prefix string
}

var (
	runtimeApptainer   Runtime = apptainer{"apptainer", "APPTAINER"}
	runtimeSingularity Runtime = apptainer{"singularity", "SINGULARITY"}
)

func (r apptainer) Name() string { return r.name }

// Argv passes --silent, which hides warnings (a passwd file that the image lacks) but no error. What the runtime would
// mount by itself (home, tmp, cwd) is turned off: our own list has it, and a double one is a warning.
func (r apptainer) Argv(j *Job) []string {
	argv := []string{"--silent", "exec", "--cleanenv", "--no-mount", "home,tmp,cwd", "--pwd", j.Cwd}
	if j.Home != "" {
		argv = append(argv, "--home", j.Home)
	}
	var plain []string
	for _, b := range j.Binds {
		if odd(b.Src) || odd(b.Dst) {
			argv = append(argv, "--mount", mountSpec(b))
			continue
		}
		plain = append(plain, bindSpec(b))
	}
	if len(plain) > 0 {
		argv = append(argv, "--bind", strings.Join(plain, ","))
	}
	switch j.GPU {
	case "nvidia":
		argv = append(argv, "--nv")
	case "rocm":
		argv = append(argv, "--rocm")
	}
	if j.OwnMount && !slices.Contains(j.Options, "--userns") && !slices.Contains(j.Options, "-u") {
		argv = append(argv, "--userns")
	}
	if j.WritableTmpfs {
		argv = append(argv, "--writable-tmpfs")
	}
	if j.Contain {
		argv = append(argv, "--contain")
	}
	argv = append(argv, j.Options...)
	argv = append(argv, j.Rootfs, j.Command)
	return append(argv, j.Args...)
}

// Environ sets NO_EVAL: without it the runtime's shell evaluates `$(...)` and backslashes in the values. As a variable
// it does no harm to a version that does not know it, as an option it would. Bind lists are taken out: they are in Argv.
//
// The runtimes are Go programs, which collect garbage several times in a start of some 20 MB: a twentieth of its work. GOGC
// reaches neither the part of them that stays nor, for --cleanenv, the tool.
func (r apptainer) Environ(host []string, j *Job) []string {
	env := make([]string, 0, len(host)+len(j.Env)+2)
	garbage := runtimeGarbage
	for _, e := range host {
		name, _, _ := strings.Cut(e, "=")
		if name == "GOGC" {
			garbage = e
			continue
		}
		if slices.Contains(bindVariables, name) || strings.HasPrefix(name, "APPTAINERENV_") || strings.HasPrefix(name, "SINGULARITYENV_") ||
			name == r.prefix+"_NO_EVAL" {
			continue
		}
		env = append(env, e)
	}
	env = append(env, r.prefix+"_NO_EVAL=1", garbage)
	for _, v := range j.Env {
		env = append(env, r.prefix+"ENV_"+v.Name+"="+v.Value)
	}
	return env
}

// runtimeGarbage lets the heap of a runtime grow to 16 MB, four times Go's default, before it is searched for garbage.
const runtimeGarbage = "GOGC=400"

// bindVariables are the lists that we read ourselves, in the order in which they are applied; see Host.bindLists.
var bindVariables = []string{
	"SINGULARITY_BIND", "SINGULARITY_BINDPATH", "APPTAINER_BIND", "APPTAINER_BINDPATH", "NEURODESK_BINDPATH",
}

// odd tells paths that --bind cannot hold.
func odd(name string) bool {
	return strings.ContainsAny(name, ":,\"\\\n\r") || strings.TrimSpace(name) != name
}

func bindSpec(b Bind) string {
	switch {
	case b.Opts != "":
		return b.Src + ":" + b.Dst + ":" + b.Opts
	case b.Src != b.Dst:
		return b.Src + ":" + b.Dst
	}
	return b.Src
}

// mountSpec writes the CSV form (RFC 4180 quoting), which holds every path.
func mountSpec(b Bind) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	spec := "type=bind," + quote("source="+b.Src) + "," + quote("destination="+b.Dst)
	for _, o := range strings.Split(b.Opts, ",") {
		if o != "" && o != "rw" {
			spec += "," + o
		}
	}
	return spec
}
