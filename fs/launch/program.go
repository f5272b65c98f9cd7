package launch

import (
	"errors"
	"io/fs"
	"path"
	"strings"
)

// program decides what the runtime is told to start, and refuses what is not in the image: a runtime's own answer to
// that is 255. Where the image's environment cannot be read as text, the runtime decides.
func (p *planner) program() error {
	name := p.cmd.Path
	if name == "" {
		name = p.cmd.Command
	}
	if strings.Contains(name, "/") {
		p.job.Command = path.Clean(path.Join(p.host.Cwd, name))
		if path.IsAbs(name) {
			p.job.Command = path.Clean(name)
		}
		if v, at := p.image.program(p.job.Command); v == present {
			p.hide(p.job.Command, at)
		}
		return nil // relative looks again, once the binds are known
	}
	return p.search(name)
}

// hide keeps the automatic binds from covering the command. The top level may be a link.
func (p *planner) hide(names ...string) {
	for _, name := range names {
		top, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
		if rest != "" && !imageOwns(top) {
			p.b.hidden = append(p.b.hidden, top)
		}
	}
}

// search looks for a bare name on the image's PATH.
func (p *planner) search(name string) error {
	p.job.Command = name
	dirs, ok := p.searchPath()
	if ok {
		p.dirs = dirs
	}
	sure := ok && !p.changesTree()
	plain := false
	for _, dir := range dirs {
		if !path.IsAbs(dir) {
			sure = false
			continue
		}
		v, at := p.image.program(path.Join(dir, name))
		switch v {
		case present:
			p.hide(dir+"/"+name, at)
			p.absolute(path.Join(dir, name), sure)
			return nil
		case notExecutable:
			plain = true
		case unknown:
			sure = false
		}
		if top, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/"); !imageOwns(top) {
			sure = false // a bind may put it there
		}
	}
	switch {
	case sure && plain:
		return p.notExecutable()
	case sure:
		return p.noSuchCommand()
	case strings.HasPrefix(name, "-"):
		return p.fail("the name begins with a dash; give its path in the image")
	}
	return nil
}

// searchPath tells the directories of the image's PATH, as far as they can be told.
func (p *planner) searchPath() ([]string, bool) {
	for _, v := range p.inner {
		if v.Name == "PATH" {
			return strings.Split(v.Value, ":"), true
		}
	}
	return p.image.searchPath(func(variable string) bool {
		for _, v := range p.job.Env {
			if v.Name == variable {
				return true
			}
		}
		return variable == "HOME" || variable == "PWD"
	})
}

// absolute gives the runtime the path in place of the name where the name alone could be taken for something else.
func (p *planner) absolute(file string, sure bool) {
	if sure || strings.HasPrefix(p.job.Command, "-") {
		p.job.Command, p.looked = file, true
	}
}

func (p *planner) noSuchCommand() *Exit {
	return &Exit{StatusNotFound, clip(p.cmd.Command) + ": no such command in " + p.cmd.App + " " + p.cmd.Version +
		"; `neurodeskfs info " + p.cmd.App + "` lists what it has"}
}

// changesTree tells whether someone's options or variables may add to the image's tree or to its PATH.
func (p *planner) changesTree() bool {
	for _, name := range p.host.bindLists() {
		if p.host.getenv(name) != "" {
			return true
		}
	}
	return len(p.app.Binds) > 0 || len(p.extra) > 0 || p.changesMore()
}

// changesMore is changesTree without the binds that we make ourselves.
func (p *planner) changesMore() bool {
	for _, o := range p.job.Options {
		for _, prefix := range []string{"-B", "--bind", "--mount", "--overlay", "-o", "--env", "--app", "--fusemount", "--compat", "--oci"} {
			if strings.HasPrefix(o, prefix) && (p.inner == nil || prefix == "--env") {
				return true
			}
		}
	}
	for _, v := range p.job.Env {
		switch v.Name {
		case "PATH", "PREPEND_PATH", "APPEND_PATH":
			return true
		}
	}
	for _, name := range []string{"APPTAINER_OVERLAY", "SINGULARITY_OVERLAY", "APPTAINER_MOUNT", "SINGULARITY_MOUNT"} {
		if p.host.getenv(name) != "" && p.inner == nil {
			return true
		}
	}
	return false
}

// again looks for a bare name once the binds are known: they may have brought it, or not.
func (p *planner) again() error {
	if p.looked || p.dirs == nil || strings.Contains(p.job.Command, "/") || p.changesMore() {
		return nil
	}
	plain := false
	for _, dir := range p.dirs {
		if !path.IsAbs(dir) {
			return nil
		}
		name := path.Join(dir, p.job.Command)
		v, bound := unknown, p.b.behind(name)
		if bound != "" {
			v = hostProgram(p.host, bound)
		} else {
			v, _ = p.image.program(name)
		}
		switch v {
		case present, unknown:
			return nil
		case notExecutable:
			plain = true
		}
	}
	if plain {
		return p.notExecutable()
	}
	return p.noSuchCommand()
}

func (p *planner) notExecutable() *Exit {
	return &Exit{StatusNotExecutable, clip(p.cmd.Command) + ": found in " + p.cmd.App + " " + p.cmd.Version + ", but it is not executable"}
}

// relative checks a command that is given by path: below a bind it is the host's file, else the image's.
func (p *planner) relative() error {
	name := p.job.Command
	if p.looked || !path.IsAbs(name) || p.changesTree() {
		return nil
	}
	v, covered := unknown, p.b.covered(name)
	if covered {
		v = hostProgram(p.host, name)
	} else {
		v, _ = p.image.program(name)
	}
	switch v {
	case notFound:
		return p.noSuchCommand()
	case notExecutable:
		return &Exit{StatusNotExecutable, clip(p.cmd.Command) + ": " + clip(name) + " is not executable"}
	}
	return nil
}

// hostProgram is program for a file of the host. A link may lead to a place that is another inside: not our business.
func hostProgram(h *Host, name string) verdict {
	fi, err := h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir):
		return notFound
	case err != nil || fi.Mode()&fs.ModeSymlink != 0:
		return unknown
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		return notExecutable
	}
	return present
}
