package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxCommandFile is the size in bytes above which a command file is refused.
const MaxCommandFile = 64 << 10

// ErrCommandFile is returned when a command file cannot be understood; the text names the key.
var ErrCommandFile = errors.New("not a usable command file")

// A file of M/bin says that the image was the mount's choice.
const (
	choiceKey    = "choice"
	choiceOfBins = "default, unless a pin says otherwise"
)

// Unseen stands for the hash of an image on a server that nobody had asked when the file was made, so that M/bin can be
// listed in full without asking about each image. See Host.Look.
const Unseen = "unseen"

const commandComment = "# neurodeskfs: what runs when this name is typed"

// Command is what a command file says: which program of which image runs.
// The zero value is not valid: Command, App, Version and Hash, and Rootfs unless Retired is set or Hash is Unseen, are required.
type Command struct {
	Launcher string   // absolute path of the launcher: the `#!` line
	Command  string   // the name that is typed
	App      string   // for example fsl
	Version  string   // free-form, for example 6.0.7.22
	Date     string   // build date, YYYYMMDD; "" where an image has none
	Image    string   // repository:path, or the path of a local file; for people and provenance
	Hash     string   // content hash of the image, or Unseen
	Revision uint64   // repository revision that it was found in; 0 where there is none
	Rootfs   string   // absolute path on the host of the image's root directory
	Path     string   // absolute path in the image; "" = Command is looked up on the image's PATH
	Args     []string // runtime options of this image (apps.json's apptainer_args)
	Retired  string   // if set, nothing runs: this text is printed, exit status 69
	Refused  string   // if set, nothing runs: the image cannot be used, for this reason; exit status 125
	Default  bool     // the image is the mount's choice, which a pin of the caller's goes before: the file lies in M/bin
}

// BuildName is the name of an image's directory in M/apps/APP: VERSION_DATE, or the version alone of an image without a
// build date.
func BuildName(version, date string) string {
	if date == "" {
		return version
	}
	return version + "_" + date
}

// Build is the name of the image's directory in M/apps/APP.
func (c Command) Build() string { return BuildName(c.Version, c.Date) }

// field ties one key of the file to its place in Command.
type field struct {
	key      string
	required bool
	at       func(*Command) *string
}

var fields = []field{
	{"command", true, func(c *Command) *string { return &c.Command }},
	{"app", true, func(c *Command) *string { return &c.App }},
	{"version", true, func(c *Command) *string { return &c.Version }},
	{"date", false, func(c *Command) *string { return &c.Date }},
	{"image", false, func(c *Command) *string { return &c.Image }},
	{"hash", true, func(c *Command) *string { return &c.Hash }},
	{"rootfs", false, func(c *Command) *string { return &c.Rootfs }},
	{"path", false, func(c *Command) *string { return &c.Path }},
	{"retired", false, func(c *Command) *string { return &c.Retired }},
	{"refused", false, func(c *Command) *string { return &c.Refused }},
}

// ParseCommand reads the text of a command file. Unknown keys are ignored: a newer mount may write them. Every error
// wraps ErrCommandFile and names the key or the line. A parsed Command is valid: Format gives a text that parses to the same.
func ParseCommand(text []byte) (Command, error) {
	var c Command
	if len(text) > MaxCommandFile {
		return c, fmt.Errorf("%w: larger than %d bytes", ErrCommandFile, MaxCommandFile)
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	interp, ok := bytes.CutPrefix(first, []byte("#!"))
	if !ok {
		return c, fmt.Errorf("%w: line 1 is no #! line", ErrCommandFile)
	}
	c.Launcher = string(interp)
	seen := map[string]bool{}
	for n, line := range strings.Split(string(rest), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		key, raw, ok := strings.Cut(line, ":")
		if !ok {
			return c, fmt.Errorf("%w: line %d has no key", ErrCommandFile, n+2)
		}
		if seen[key] {
			return c, fmt.Errorf("%w: %s is given twice", ErrCommandFile, clip(key))
		}
		seen[key] = true
		if err := c.set(key, strings.TrimPrefix(raw, " ")); err != nil {
			return c, fmt.Errorf("%w: %s: %w", ErrCommandFile, clip(key), err)
		}
	}
	return c, c.Validate()
}

// set stores one value as it stands in the file.
func (c *Command) set(key, raw string) error {
	switch key {
	case "revision":
		n, err := strconv.ParseUint(raw, 10, 64)
		c.Revision = n
		return err
	case choiceKey:
		c.Default = raw == choiceOfBins
		return nil
	case "args":
		if err := json.Unmarshal([]byte(raw), &c.Args); err != nil {
			return errors.New("not a JSON list of strings")
		}
		if len(c.Args) == 0 {
			c.Args = nil
		}
		return nil
	}
	for _, f := range fields {
		if f.key == key {
			v, err := unquoteValue(raw)
			*f.at(c) = v
			return err
		}
	}
	return nil
}

// Validate tells whether the command can be run and written to a file. Errors wrap ErrCommandFile and name the key.
func (c *Command) Validate() error {
	bad := func(key, why string) error { return fmt.Errorf("%w: %s %s", ErrCommandFile, key, why) }
	for _, f := range fields {
		v := *f.at(c)
		if f.required && v == "" {
			return bad(f.key, "is missing")
		}
		if strings.IndexByte(v, 0) >= 0 {
			return bad(f.key, "contains a NUL byte")
		}
	}
	if !path.IsAbs(c.Launcher) || strings.ContainsAny(c.Launcher, " \t\n\r\x00") {
		return bad("launcher", "is no absolute path without blanks")
	}
	switch {
	case c.Rootfs == "" && c.Retired == "" && c.Hash != Unseen:
		return bad("rootfs", "is missing")
	case c.Rootfs != "" && (!path.IsAbs(c.Rootfs) || path.Clean(c.Rootfs) != c.Rootfs || c.Rootfs == "/"):
		return bad("rootfs", "is no clean absolute path of an image")
	case c.Path != "" && (!path.IsAbs(c.Path) || path.Clean(c.Path) != c.Path):
		return bad("path", "is no clean absolute path")
	}
	for _, a := range c.Args {
		if strings.IndexByte(a, 0) >= 0 || !utf8.ValidString(a) {
			return bad("args", "contains a NUL byte or is no UTF-8")
		}
	}
	return nil
}

// Format gives the text of the command file; ParseCommand is its inverse for every valid Command.
func (c Command) Format() []byte {
	var b bytes.Buffer
	b.Grow(512)
	b.WriteString("#!" + c.Launcher + "\n" + commandComment + "\n")
	for _, f := range fields {
		v := *f.at(&c)
		if f.key == "app" && c.Default {
			b.WriteString(choiceKey + ": " + choiceOfBins + "\n")
		}
		if f.key == "rootfs" && c.Revision != 0 { // revision stands between hash and rootfs
			b.WriteString("revision: " + strconv.FormatUint(c.Revision, 10) + "\n")
		}
		if f.key == "retired" && len(c.Args) > 0 {
			if j, err := json.Marshal(c.Args); err == nil { // a list of strings always marshals
				b.WriteString("args: " + string(j) + "\n")
			}
		}
		if v != "" {
			b.WriteString(f.key + ": " + quoteValue(v) + "\n")
		}
	}
	return b.Bytes()
}

// quoteValue leaves a value raw where a line can hold it.
func quoteValue(v string) string {
	plain := utf8.ValidString(v) && strings.TrimSpace(v) == v && !strings.HasPrefix(v, `"`)
	for i := 0; plain && i < len(v); i++ {
		plain = v[i] >= ' ' && v[i] != 0x7f
	}
	if plain {
		return v
	}
	return strconv.Quote(v)
}

func unquoteValue(raw string) (string, error) {
	if !strings.HasPrefix(raw, `"`) {
		return raw, nil
	}
	v, err := strconv.Unquote(raw)
	if err != nil {
		return "", errors.New("bad quoting")
	}
	return v, nil
}

// clip keeps foreign text short and printable in messages.
func clip(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strings.Trim(strconv.QuoteToGraphic(s), `"`)
}
