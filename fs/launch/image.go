package launch

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
)

const (
	maxLinks   = 40       // as the kernel's limit for one path
	maxEnvFile = 64 << 10 // bytes read of one environment script
	maxEnvs    = 64       // environment scripts looked at
)

// defaultPath is the PATH that apptainer and singularity set before the image's scripts run.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// imageTree is an image's root directory as seen from the host. Names are resolved as they would be inside: absolute
// links and `..` never lead out of it.
type imageTree struct {
	host  *Host
	root  string
	looks map[string]look // what was seen already, by name in the image: nothing of it changes during a start. nil: nothing is kept
}

// look is an answer of Lstat.
type look struct {
	info os.FileInfo
	err  error
}

// lstat asks for one name of the image. Most are on the way to several files.
func (t imageTree) lstat(name string) (os.FileInfo, error) {
	l, ok := t.looks[name]
	if !ok {
		l.info, l.err = t.host.Lstat(path.Join(t.root, name))
		if t.looks != nil {
			t.looks[name] = l
		}
	}
	return l.info, l.err
}

var errTooManyLinks = errors.New("too many symbolic links")

// resolve follows a path of the image to the file that it names. It gives that file's own path in the image.
func (t imageTree) resolve(name string) (string, os.FileInfo, error) {
	rest := strings.Split(path.Clean("/"+name), "/")
	at, links := "/", 0
	var info os.FileInfo
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at, info = path.Dir(at), nil
			continue
		}
		next := path.Join(at, part)
		fi, err := t.lstat(next)
		if err != nil {
			return "", nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at, info = next, fi
			continue
		}
		if links++; links > maxLinks {
			return "", nil, errTooManyLinks
		}
		target, err := t.host.Readlink(path.Join(t.root, next))
		if err != nil {
			return "", nil, err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		info = nil
		rest = append(strings.Split(target, "/"), rest...)
	}
	if info == nil {
		fi, err := t.lstat(at)
		return at, fi, err
	}
	return at, info, nil
}

// holdsSomething tells whether the image has a file, or a directory with entries, of that name.
func (t imageTree) holdsSomething(name string) bool {
	at, fi, err := t.resolve(name)
	if err != nil {
		return false
	}
	if !fi.IsDir() {
		return true
	}
	entries, err := t.host.ReadDir(path.Join(t.root, at), 1)
	return err != nil || len(entries) > 0
}

// The scripts that apptainer puts into every image. They change PATH only for options that we do not use.
func standardScript(name string) bool {
	switch name {
	case "01-base.sh", "94-appsbase.sh", "95-apps.sh", "99-base.sh", "99-runtimevars.sh":
		return true
	}
	return false
}

// searchPath tells the directories of PATH as a command in the image would have it. It reads the image's environment
// scripts as text and runs nothing; ok is false when it does not understand one of them. outside tells whether a
// variable comes from outside the image.
func (t imageTree) searchPath(outside func(name string) bool) (dirs []string, ok bool) {
	vars, ok := t.scripts(outside)
	p, known := vars.values["PATH"]
	if !ok || !known {
		return nil, false
	}
	return strings.Split(p, ":"), true
}

// textEnv is the image's environment as its scripts' text tells it.
func (t imageTree) textEnv() ([]Var, bool) {
	vars, ok := t.scripts(func(string) bool { return false })
	if ok {
		vars.values["LD_LIBRARY_PATH"] = strings.TrimPrefix(vars.values["LD_LIBRARY_PATH"]+":/.singularity.d/libs", ":")
	}
	return sortedVars(vars.values), ok
}

// scripts follows the image's environment scripts.
func (t imageTree) scripts(outside func(name string) bool) (vars shellVars, ok bool) {
	texts, ok := t.envScripts()
	vars = shellVars{values: map[string]string{"PATH": defaultPath}, outside: outside}
	for _, text := range texts {
		ok = ok && vars.script(text)
	}
	return vars, ok
}

// sets tells whether one of the image's environment scripts gives a variable a value.
func (t imageTree) sets(name string) bool {
	texts, _ := t.envScripts() // of those that cannot be read nothing is known
	for _, text := range texts {
		for {
			before, after, found := strings.Cut(text, name+"=")
			if !found {
				break
			}
			if n := len(before); n == 0 || !nameByte(before[n-1], 1) {
				return true
			}
			text = after
		}
	}
	return false
}

// envScripts reads the image's environment scripts up to the first that cannot be read; ok is false if there is one. An
// image that apptainer did not make has none.
func (t imageTree) envScripts() (texts []string, ok bool) {
	const dir = "/.singularity.d/env"
	at, _, err := t.resolve(dir)
	if err != nil {
		return nil, errors.Is(err, fs.ErrNotExist)
	}
	entries, err := t.host.ReadDir(path.Join(t.root, at), maxEnvs+1)
	if err != nil || len(entries) > maxEnvs {
		return nil, false
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	for _, e := range entries {
		if standardScript(e.Name()) || !strings.HasSuffix(e.Name(), ".sh") {
			continue
		}
		file, fi, err := t.resolve(path.Join(at, e.Name()))
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > maxEnvFile {
			return texts, false
		}
		if fi.Size() == 0 {
			continue
		}
		text, err := t.host.ReadAt(path.Join(t.root, file), 0, maxEnvFile)
		if err != nil {
			return texts, false
		}
		texts = append(texts, string(text))
	}
	return texts, true
}

// verdict is what a look into the image says of a command.
type verdict int

const (
	unknown       verdict = iota // the runtime will tell
	present                      // found and executable
	notFound                     // exit status 127
	notExecutable                // exit status 126
)

// program looks one path of the image up. at is where the file lies once links are followed.
func (t imageTree) program(name string) (v verdict, at string) {
	at, fi, err := t.resolve(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) || errors.Is(err, errTooManyLinks):
		return notFound, ""
	case err != nil:
		return unknown, ""
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		return notExecutable, ""
	}
	return present, at
}
