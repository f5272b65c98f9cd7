package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// Where a value comes from.
const (
	FromFile    = "file"
	FromDefault = "default"
	FromBuiltIn = "built-in" // what is compiled in about the Neurodesk repository
	FromFlag    = "flag"     // for the command line, which knows its flags
)

// Value is one effective value.
type Value struct {
	Table  string `json:"table"`            // "" for the top level, "cache", "source", "app.NAME" ...
	Source int    `json:"source,omitempty"` // which [[source]], from 1
	Key    string `json:"key"`
	Value  any    `json:"value"` // string, uint64, bool, []string or map[string]string
	Origin string `json:"origin"`
	File   string `json:"file,omitempty"` // FromFile: where it is written
	Line   int    `json:"line,omitempty"`
	Flag   string `json:"flag,omitempty"` // FromFlag: its name
}

// Explain loads as Load does and lists every effective value with its origin:
// the top level first, then table by table. Errors as those of Load.
func Explain(file string) (*Config, []Value, error) {
	c, err := Load(file)
	if err != nil {
		return nil, nil, err
	}
	e := explanation{config: c}
	if c.File != "" {
		text, err := os.ReadFile(c.File)
		if err == nil {
			_, err = toml.Decode(string(text), &e.given)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		e.lines = keyLines(string(text))
	}
	shown := *c
	fillPolicy(&shown.Launch.AppPolicy)
	all := reflect.ValueOf(shown)
	e.table(all, "", 0, e.given)
	for i := range all.NumField() {
		name := all.Type().Field(i).Tag.Get("toml")
		switch field := all.Field(i); {
		case field.Kind() == reflect.Struct:
			e.table(field, name, 0, tableIn(e.given[name]))
		case name == "source":
			given := tablesIn(e.given[name])
			for n := range field.Len() {
				var keys map[string]any
				if n < len(given) {
					keys = given[n]
				}
				e.table(field.Index(n), name, n+1, keys)
			}
		case field.Kind() == reflect.Map:
			for _, app := range slices.Sorted(maps.Keys(c.Apps)) {
				e.table(reflect.ValueOf(c.Apps[app]), name+"."+app, 0, tableIn(tableIn(e.given[name])[app]))
			}
		}
	}
	return c, e.list, nil
}

// fillPolicy writes the launcher's defaults out.
func fillPolicy(p *launch.AppPolicy) {
	d := launch.DefaultPolicy()
	setDefault(&p.Runtime, d.Runtime)
	setDefault(&p.Env, d.Env)
	setDefault(&p.GPU, d.GPU)
}

// explanation is being written.
type explanation struct {
	config *Config
	given  map[string]any // what the file says, whatever it is
	lines  map[string]int
	list   []Value
}

func tableIn(v any) map[string]any {
	t, _ := v.(map[string]any)
	return t
}

// tablesIn returns an array of tables, however it is spelt.
func tablesIn(v any) []map[string]any {
	if inline, ok := v.([]any); ok {
		var list []map[string]any
		for _, t := range inline {
			list = append(list, tableIn(t))
		}
		return list
	}
	list, _ := v.([]map[string]any)
	return list
}

// table notes the keys of one table, of which the file gives some.
func (e *explanation) table(table reflect.Value, name string, source int, given map[string]any) {
	neurodesk := source > 0 && e.config.Sources[source-1].FQRN == builtin.NeurodeskFQRN && e.config.Sources[source-1].Kind == "cvmfs"
	for _, field := range reflect.VisibleFields(table.Type()) {
		v := Value{Table: name, Source: source, Key: field.Tag.Get("toml"), Origin: FromDefault}
		plain := true
		switch value := table.FieldByIndex(field.Index).Interface().(type) {
		case string, uint64, int64, int, bool:
			v.Value = value
		case map[string]string:
			v.Value = map[string]string{}
			if value != nil {
				v.Value = value
			}
		case []string:
			v.Value = append([]string{}, value...)
		case List:
			v.Value = append([]string{}, value...)
		case Texts:
			v.Value = append([]string{}, value...)
			if len(value) == 1 {
				v.Value = value[0]
			}
		case Bound:
			v.Value, plain = int64(value), value != 0
		case Duration:
			v.Value, plain = value.String(), value != 0 // 0: of no use with that kind
		case fmt.Stringer: // sizes and times are written as they are read
			v.Value = value.String()
			if t, ok := value.(time.Time); ok {
				v.Value = ""
				if !t.IsZero() {
					v.Value = t.Format(time.RFC3339)
				}
			}
		default:
			plain = false // a table
		}
		if v.Key == "" || v.Key == "-" || !plain {
			continue
		}
		if _, ok := given[v.Key]; ok {
			v.Origin, v.File, v.Line = FromFile, e.config.File, e.line(v)
		} else if place := e.site(source, v.Key); place != "" {
			v.Origin = place
		} else if neurodesk && (v.Key == "fqrn" || v.Key == "servers" || v.Key == "public_keys") {
			v.Origin = FromBuiltIn
		}
		e.list = append(e.list, v)
	}
}

// line finds where a value is written. Of inline tables in an array only the
// first line of the array is known.
func (e *explanation) line(v Value) int {
	table := v.Table
	if v.Source > 0 {
		table += "." + strconv.Itoa(v.Source)
	}
	for _, path := range []string{strings.TrimPrefix(table+"."+v.Key, "."), table, v.Table + ".1"} {
		if line, ok := e.lines[path]; ok {
			return line
		}
	}
	return 0
}

// keyLines finds the line on which each key of a valid file is given: of
// "cache.quota", of "source.2.fqrn". It lets the parser judge: where the text up
// to a line parses, a statement ends, and the keys that came with it stand on
// its first line.
func keyLines(text string) map[string]int {
	lines := make(map[string]int)
	all := strings.SplitAfter(text, "\n")
	start, known := 0, 0
	var prefix strings.Builder
	for n, line := range all {
		prefix.WriteString(line)
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			if start == n {
				start = n + 1
			}
			continue
		}
		var ignored map[string]any
		meta, err := toml.Decode(prefix.String(), &ignored)
		if err != nil {
			continue
		}
		if keys := meta.Keys(); len(keys) > known {
			known = len(keys)
			noteKeys(lines, keys, start+1)
		}
		start = n + 1
	}
	return lines
}

// noteKeys gives the keys that have no line yet this one.
func noteKeys(lines map[string]int, keys []toml.Key, line int) {
	source := 0
	for _, key := range keys {
		path := strings.Join(key, ".")
		if key[0] == "source" {
			if len(key) == 1 {
				source++
				path += "." + strconv.Itoa(source)
			} else {
				path = "source." + strconv.Itoa(max(source, 1)) + "." + strings.Join(key[1:], ".")
			}
		}
		if _, ok := lines[path]; !ok {
			lines[path] = line
		}
	}
}

// String writes the size as UnmarshalText reads it: 20GiB, 1500 as 1500B.
func (s Size) String() string {
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && int64(s)%u.factor == 0 {
			return strconv.FormatInt(int64(s)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// String writes the time as UnmarshalText reads it.
func (r Refresh) String() string {
	if r == 0 {
		return "auto"
	}
	return time.Duration(r).String()
}

// site is where a value stands in the site's CVMFS configuration, file:line.
func (e *explanation) site(source int, key string) string {
	if source == 0 {
		return ""
	}
	return e.config.Sources[source-1].Site[key]
}
