package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Bounds of one trace, and of a file of traces.
const (
	MaxObjects = 8192
	MaxBytes   = 512 << 20 // of content; an object of unknown size counts as 8 MiB, and has no more
	MaxFile    = 32 << 20  // bytes

	unknownSize = 8 << 20
	maxName     = 255
	maxTraces   = 4096 // in one file
)

// ErrFormat is returned for what is no file of traces.
var ErrFormat = errors.New("no usable traces")

// The head of a file of traces.
const (
	format  = "neurodeskfs traces"
	version = 1
)

// Trace is what one command of one image reads when it starts.
type Trace struct {
	Repository string    `json:"repository"` // FQRN
	Image      string    `json:"image"`      // content hash, as in .neurodeskfs/images
	Command    string    `json:"command"`
	Runs       int       `json:"runs"` // that it was made of
	Used       time.Time `json:"used,omitzero"`
	Objects    []Object  `json:"objects"` // in the order in which they are needed
}

// Object is an object of the repository. As text it is the path's last part,
// "HASH" or "HASH-ALGORITHM", then the suffix letter or "-", then the size of the
// content in bytes, -1 if that is not known, and "raw" for one that is stored as
// it is.
type Object cvmfs.Object

// MarshalText implements encoding.TextMarshaler.
func (o Object) MarshalText() ([]byte, error) {
	suffix := "-"
	if o.Suffix != 0 {
		suffix = string(rune(o.Suffix))
	}
	text := o.Hash.String() + " " + suffix + " " + strconv.FormatInt(o.Size, 10)
	if o.Compression == catalog.None {
		text += " raw"
	}
	return []byte(text), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Object) UnmarshalText(b []byte) error {
	f := strings.Split(string(b), " ")
	if len(f) == 4 && f[3] == "raw" {
		o.Compression, f = catalog.None, f[:3]
	}
	if len(f) != 3 {
		return fmt.Errorf("%w: object %.60q", ErrFormat, b)
	}
	var err error
	if o.Hash, err = hash.Parse(f[0]); err == nil && o.Hash.Algorithm == hash.MD5 {
		err = hash.ErrSyntax // no object is named so
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	switch f[1] {
	case "-":
	case "P", "C":
		o.Suffix = hash.Suffix(f[1][0])
	default:
		return fmt.Errorf("%w: object of kind %.20q", ErrFormat, f[1])
	}
	if o.Size, err = strconv.ParseInt(f[2], 10, 64); err != nil || o.Size < -1 || o.Size > MaxBytes {
		return fmt.Errorf("%w: object of %.20q bytes", ErrFormat, f[2])
	}
	return nil
}

// charge is what the object counts for MaxBytes.
func (o Object) charge() int64 {
	if o.Size < 0 {
		return unknownSize
	}
	return o.Size
}

// Bytes is the size of all objects' contents.
func (t *Trace) Bytes() (n int64) {
	for _, o := range t.Objects {
		n += o.charge()
	}
	return n
}

// list is the objects, for cvmfs.
func (t *Trace) list() []cvmfs.Object {
	list := make([]cvmfs.Object, len(t.Objects))
	for i, o := range t.Objects {
		list[i] = cvmfs.Object(o)
	}
	return list
}

// merge adds what objects has and t has not, as far as the bounds allow.
func (t *Trace) merge(objects []Object) {
	known := make(map[Object]bool, len(t.Objects))
	bytes := int64(0)
	for _, o := range t.Objects {
		known[o] = true
		bytes += o.charge()
	}
	for _, o := range objects {
		if known[o] || len(t.Objects) == MaxObjects || bytes+o.charge() > MaxBytes {
			continue
		}
		known[o] = true
		bytes += o.charge()
		t.Objects = append(t.Objects, o)
	}
}

// Union merges two lists of traces; of one that is in both, a's objects come first.
func Union(a, b []Trace) []Trace {
	all := slices.Clone(a)
	for _, t := range b {
		i := slices.IndexFunc(all, func(o Trace) bool { return o.Image == t.Image && o.Command == t.Command })
		if i < 0 {
			all = append(all, t)
			continue
		}
		merged := all[i]
		merged.Objects = slices.Clone(merged.Objects)
		merged.merge(t.Objects)
		merged.Runs = max(merged.Runs, t.Runs)
		all[i] = merged
	}
	return all
}

// check refuses names that no mount could have given, and too much of all.
func (t *Trace) check() error {
	switch {
	case !plainName(t.Repository):
		return fmt.Errorf("%w: repository %.60q", ErrFormat, t.Repository)
	case !plainName(t.Image) || len(t.Image) < 8:
		return fmt.Errorf("%w: image %.60q", ErrFormat, t.Image)
	case !printable(t.Command):
		return fmt.Errorf("%w: command %.60q", ErrFormat, t.Command)
	case len(t.Objects) > MaxObjects || t.Bytes() > MaxBytes:
		return fmt.Errorf("%w: %s: %d objects of %d bytes; at most %d of %d are taken", ErrFormat, t.Command, len(t.Objects), t.Bytes(), MaxObjects, MaxBytes)
	}
	return nil
}

// plainName accepts letters, digits, dots, dashes and underscores.
func plainName(s string) bool {
	return s != "" && len(s) <= maxName && s[0] != '.' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == ""
}

// printable accepts what can be one word of a terminal's line and a file's name.
func printable(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == '/' || r == '�'
	}) < 0
}

// file is a file of traces.
type file struct {
	Format  string  `json:"format"`
	Version int     `json:"version"`
	Traces  []Trace `json:"traces"`
}

// Format writes traces; Parse reads them.
func Format(traces []Trace) ([]byte, error) {
	if traces == nil {
		traces = []Trace{}
	}
	b, err := json.MarshalIndent(file{format, version, traces}, "", " ")
	return append(b, '\n'), err
}

// Parse reads a file of traces. Every error wraps ErrFormat.
func Parse(b []byte) ([]Trace, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFormat, MaxFile)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if f.Format != format || f.Version != version {
		return nil, fmt.Errorf("%w: format %.40q, version %d: want what this version's `neurodeskfs trace export` writes", ErrFormat, f.Format, f.Version)
	}
	if len(f.Traces) > maxTraces {
		return nil, fmt.Errorf("%w: %d traces; at most %d are taken at once", ErrFormat, len(f.Traces), maxTraces)
	}
	for i := range f.Traces {
		if err := f.Traces[i].check(); err != nil {
			return nil, err
		}
	}
	return f.Traces, nil
}
