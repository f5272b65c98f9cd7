package launch

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// choice is the runtime of one start: how it is spoken to, and the words that start it.
type choice struct {
	runtime Runtime
	words   []string
}

// choose finds the program: what the policy names, else apptainer, else singularity, else bwrap. A program that is too
// old is passed over where another may be taken.
func (p *planner) choose() (choice, error) {
	kind := p.app.Runtime
	if k := p.host.getenv("NEURODESK_RUNTIME"); k != "" {
		if k == "bwrap" && (kind == "apptainer" || kind == "singularity" || len(p.app.RuntimeCommand) > 0) {
			return choice{}, p.fail("NEURODESK_RUNTIME=bwrap: this site wants its own runtime for %s; unset the variable", p.cmd.App)
		}
		kind = k
	}
	if len(p.app.RuntimeCommand) > 0 {
		return p.configured(kind)
	}
	var old string
	for _, r := range []Runtime{runtimeApptainer, runtimeSingularity, runtimeBwrap} {
		if kind != "" && kind != "auto" && kind != r.Name() {
			continue
		}
		c, tooOld := p.find(r)
		if tooOld != "" && old == "" {
			old = tooOld
		}
		if c.runtime != nil {
			return c, nil
		}
	}
	if old != "" {
		return choice{}, p.fail("%s; try `module load apptainer`, or have a newer one installed", old)
	}
	return choice{}, p.noRuntime(kind)
}

// configured is the site's own command: nobody else's PATH decides.
func (p *planner) configured(kind string) (choice, error) {
	words := p.app.RuntimeCommand
	file := p.host.lookPath(words[0], p.mount)
	if file == "" {
		return choice{}, p.noRuntime(kind)
	}
	words = append([]string{file}, words[1:]...)
	name := path.Base(words[len(words)-1])
	switch {
	case kind == "bwrap" || (kind == "" || kind == "auto") && name == "bwrap":
		return choice{runtimeBwrap, words}, nil
	case kind == "singularity" || (kind == "" || kind == "auto") && name == "singularity":
		return choice{runtimeSingularity, words}, nil
	}
	return choice{runtimeApptainer, words}, nil
}

// find looks for one runtime in PATH and at its version.
func (p *planner) find(r Runtime) (c choice, tooOld string) {
	file := p.host.lookPath(r.Name(), p.mount)
	if file == "" {
		return choice{}, ""
	}
	if link, err := p.host.Readlink(file); err == nil && path.Base(link) == "apptainer" {
		r = runtimeApptainer // apptainer brings a link of the older name
	}
	least := map[Runtime]string{runtimeApptainer: "1.1", runtimeSingularity: "3.8"}[r]
	if least == "" || p.host.RuntimeVersion == nil {
		return choice{r, []string{file}}, ""
	}
	if has := p.host.RuntimeVersion(file); has != "" && older(has, least) {
		return choice{}, fmt.Sprintf("%s %s (%s) is too old, %s or newer is needed", r.Name(), clip(has), file, least)
	}
	return choice{r, []string{file}}, ""
}

// older compares the first two numbers of versions. What is no version is not older.
func older(version, least string) bool {
	a, okA := twoNumbers(version)
	b, okB := twoNumbers(least)
	return okA && okB && (a[0] < b[0] || a[0] == b[0] && a[1] < b[1])
}

func twoNumbers(version string) (n [2]int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return n, false
	}
	for i := range n {
		digits := parts[i]
		if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 && i == 1 {
			digits = digits[:end]
		}
		v, err := strconv.Atoi(digits)
		if err != nil {
			return n, false
		}
		n[i] = v
	}
	return n, true
}

func (p *planner) noRuntime(kind string) *Exit {
	if p.host.Nested {
		return p.fail("%s %s is another container's tool, and no apptainer works inside this one; call it from outside", p.cmd.App, p.cmd.Version)
	}
	if len(p.app.RuntimeCommand) > 0 {
		return p.fail("%s, the runtime_command of this site, is not there; ask your administrator", clip(p.app.RuntimeCommand[0]))
	}
	switch kind {
	case "bwrap":
		return p.fail("bwrap is not in PATH; have the package bubblewrap installed, or unset NEURODESK_RUNTIME")
	case "", "auto", "apptainer", "singularity":
	default:
		return p.fail("NEURODESK_RUNTIME=%s is none of auto, apptainer, singularity, bwrap", clip(kind))
	}
	return p.fail("neither apptainer nor singularity is in PATH; try `module load apptainer` (or singularity), or have apptainer installed")
}

// leaveBwrap hands a start that bwrap cannot do to apptainer or singularity, where the site has one.
func (p *planner) leaveBwrap(c choice) (choice, error) {
	if c.runtime != runtimeBwrap {
		return c, nil
	}
	what := p.job.GPU
	if what == "" {
		binds, env, unknown := p.bwrapOptions()
		if unknown == "" {
			p.extra, p.job.Env = binds, append(p.job.Env, env...)
			return c, nil
		}
		what = unknown
	}
	for _, r := range []Runtime{runtimeApptainer, runtimeSingularity} {
		if len(p.app.RuntimeCommand) > 0 {
			break
		}
		if other, _ := p.find(r); other.runtime != nil {
			return other, nil
		}
	}
	if p.job.GPU != "" && p.app.GPU != "on" {
		p.warn = append(p.warn, clip(p.cmd.Command)+": bwrap does not bring the GPU's libraries in, and apptainer is not there: started without")
		p.job.GPU = ""
		return p.leaveBwrap(c)
	}
	return c, p.fail("bwrap cannot do %s, and neither apptainer nor singularity is in PATH", clip(what))
}
