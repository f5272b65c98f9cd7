package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	// was passed over since no shell is run; an if that compares texts needs none.
	// Whoever shows the parameters should show these too.
	Notes []string

	dir    string
	values map[string]Setting
}

// Load reads the configuration below dir, such as /etc/cvmfs, as the reference
// client would for the repository fqrn: default.conf, default.d/*.conf,
// default.local, domain.d/DOMAIN.conf and .local, config.d/FQRN.conf and .local;
// what comes later wins. Files that are not there are left out; that dir is
// not there is an error that matches fs.ErrNotExist. What a file says that cannot
// be told without a shell becomes a note, or, where no end of it can be seen,
// an error that wraps ErrParameter.
func Load(dir, fqrn string) (Parameters, error) {
	p := Parameters{FQRN: fqrn, dir: dir, values: map[string]Setting{}}
	_, domain, ok := strings.Cut(fqrn, ".")
	if !ok || domain == "" || strings.ContainsAny(fqrn, "/\x00") {
		return p, fmt.Errorf("%w: %q is no repository's full name, such as %s", ErrParameter, fqrn, NeurodeskFQRN)
	}
	if _, err := os.Stat(dir); err != nil {
		return p, fmt.Errorf("%w: %w", ErrParameter, err)
	}
	defaults, err := filepath.Glob(filepath.Join(globQuote(dir), "default.d", "*.conf"))
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrParameter, err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := p.readAll(append([]string{at("default.conf")}, defaults...)...); err != nil {
		return p, err
	}
	if s, ok := p.values["CVMFS_CONFIG_REPOSITORY"]; ok && s.Value != "" && s.Value != fqrn {
		p.Notes = append(p.Notes, s.Origin+": the configuration repository "+s.Value+" is not read: it is not mounted here")
	}
	d, c := filepath.Join("domain.d", domain), filepath.Join("config.d", fqrn)
	err = p.readAll(at("default.local"), at(d+".conf"), at(d+".local"), at(c+".conf"), at(c+".local"))
	return p, err
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// readAll reads files, in this order. What is not there is left out.
func (p *Parameters) readAll(files ...string) error {
	for _, file := range files {
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
		get:  p.known,
		set: func(key, value string, line int) {
			p.values[key] = Setting{Key: key, Value: value, Origin: fmt.Sprintf("%s:%d", file, line)}
		},
		tell: func(line int, format string, args ...any) {
			p.Notes = append(p.Notes, fmt.Sprintf("%s:%d: ", file, line)+fmt.Sprintf(format, args...))
		},
	}
	return r.read()
}

// known is what $key stands for in a file: what was set before, or the repository's
// name, which the reference client hands to its files (CVMFS documentation,
// "Structure of /etc/cvmfs").
func (p *Parameters) known(key string) (string, bool) {
	s, ok := p.values[key]
	if !ok && key == "CVMFS_FQRN" {
		return p.FQRN, true
	}
	return s.Value, ok
}

// Get returns one parameter as it was written; false if it is not set.
func (p Parameters) Get(key string) (Setting, bool) {
	s, ok := p.values[key]
	return s, ok
}
