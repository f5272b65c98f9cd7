package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrParameter is wrapped by every error about what a CVMFS configuration says.
var ErrParameter = errors.New("CVMFS configuration")

// Setting is one parameter's value and where it was set.
type Setting struct {
	Key, Value string
	Origin     string // file:line
}

// Parameters is what a CVMFS configuration says to one repository. The zero value
// says nothing. It is not changed after Load and safe for concurrent use.
type Parameters struct {
	FQRN string
	// Notes are one line each, "file:line: what": what the configuration has and
	// was passed over since no shell is run. Whoever shows the parameters should
	// show these too.
	Notes []string

	dir    string
	values map[string]Setting
}

// Tree is where a CVMFS configuration lies.
type Tree struct {
	Dir string // as /etc/cvmfs
	// ConfigRepository is the folder etc/cvmfs of the mounted configuration
	// repository, if there is one. A configuration that names one
	// (CVMFS_CONFIG_REPOSITORY) gets a note when this is empty.
	ConfigRepository string
}

// Load reads the configuration below dir, such as /etc/cvmfs, as the reference
// client would for the repository fqrn: default.conf, default.d/*.conf,
// default.local, domain.d/DOMAIN.conf and .local, config.d/FQRN.conf and .local;
// what comes later wins. Files that are not there are left out; that dir is
// not there is an error that matches fs.ErrNotExist. What a file says that cannot
// be told without a shell becomes a note, or, where no end of it can be seen,
// an error that wraps ErrParameter.
func Load(dir, fqrn string) (Parameters, error) { return Tree{Dir: dir}.Load(fqrn) }

// Load is Load with a configuration repository, whose files come before the
// local ones of the same kind.
func (t Tree) Load(fqrn string) (Parameters, error) {
	p := Parameters{FQRN: fqrn, dir: t.Dir, values: map[string]Setting{}}
	_, domain, ok := strings.Cut(fqrn, ".")
	if !ok || domain == "" || strings.ContainsAny(fqrn, "/\x00") {
		return p, fmt.Errorf("%w: %q is no repository's full name, such as %s", ErrParameter, fqrn, NeurodeskFQRN)
	}
	if _, err := os.Stat(t.Dir); err != nil {
		return p, fmt.Errorf("%w: %w", ErrParameter, err)
	}
	defaults, err := filepath.Glob(filepath.Join(globQuote(t.Dir), "default.d", "*.conf"))
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrParameter, err)
	}
	if err := p.readAll(append([]string{filepath.Join(t.Dir, "default.conf")}, defaults...)...); err != nil {
		return p, err
	}
	remote := func(string) string { return "" }
	if s, ok := p.values["CVMFS_CONFIG_REPOSITORY"]; ok && s.Value != "" && s.Value != fqrn {
		if t.ConfigRepository == "" {
			p.Notes = append(p.Notes, s.Origin+": the configuration repository "+s.Value+" is not read: it is not mounted here")
		} else {
			remote = func(name string) string { return filepath.Join(t.ConfigRepository, name) }
		}
	}
	local := func(name string) string { return filepath.Join(t.Dir, name) }
	d, c := filepath.Join("domain.d", domain), filepath.Join("config.d", fqrn)
	return p, p.readAll(
		remote("default.conf"), local("default.local"),
		remote(d+".conf"), local(d+".conf"), local(d+".local"),
		remote(c+".conf"), local(c+".conf"), local(c+".local"),
	)
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// readAll reads files, in this order. "" and what is not there is left out.
func (p *Parameters) readAll(files ...string) error {
	for _, file := range files {
		if file == "" {
			continue
		}
		text, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = p.read(file, text)
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrParameter, file, err)
		}
	}
	return nil
}

// readFile reads a regular file: the read of a pipe would never end.
func readFile(file string) (string, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", errors.New("it is no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return string(b), err
}

// read takes over what a file's text sets.
func (p *Parameters) read(file, text string) error {
	r := &reader{
		text: text,
		get:  func(key string) (string, bool) { s, ok := p.values[key]; return s.Value, ok },
		set: func(key, value string, line int) {
			p.values[key] = Setting{Key: key, Value: value, Origin: fmt.Sprintf("%s:%d", file, line)}
		},
		note: func(line int, format string, args ...any) {
			p.Notes = append(p.Notes, fmt.Sprintf("%s:%d: ", file, line)+fmt.Sprintf(format, args...))
		},
	}
	return r.read()
}

// Get returns one parameter as it was written; false if it is not set.
func (p Parameters) Get(key string) (Setting, bool) {
	s, ok := p.values[key]
	return s, ok
}

// All returns every parameter, by name.
func (p Parameters) All() []Setting {
	return slices.SortedFunc(maps.Values(p.values), func(a, b Setting) int { return cmp.Compare(a.Key, b.Key) })
}
