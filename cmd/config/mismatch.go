package config

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/BurntSushi/toml"
)

// mismatch is what the parser says of a value of the wrong type, in Go's words.
var mismatch = regexp.MustCompile(`^toml: line (\d+) \(last key "(.*)"\): (?:incompatible types: TOML value has type (\S+); destination has type (.+)|type mismatch for .*: expected (table) but found (\S+))$`)

// kinds are those of TOML in a person's words, by Go's and by the parser's.
var kinds = map[string]string{
	"string": "a text", "primitive (string-like)": "a text", "int64": "a number", "integer": "a whole number", "float64": "a number with a fraction",
	"bool": "true or false", "boolean": "true or false", "time.Time": "a time", "[]any": "a list", "slice": "a list",
	"map[string]any": "a table", "map": "a table", "table": "a table", "[]map[string]any": "a list of tables",
}

// explainError says on which line a text is wrong, and why, without Go's types.
func explainError(text string, err error) error {
	var where toml.ParseError
	if errors.As(err, &where) {
		key := ""
		if _, syntax := toml.Decode(text, &map[string]any{}); syntax == nil { // else it is the key before
			key = " (" + where.LastKey + ")"
		}
		return fmt.Errorf("line %d%s: %s", where.Position.Line, key, where.Message)
	}
	m := mismatch.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	is, must := kinds[m[3]+m[6]], kinds[m[4]+m[5]]
	if is == "" || must == "" {
		return err
	}
	if m[2] == "source" {
		must = "a list of tables, each of which begins with [[source]]"
	}
	return fmt.Errorf("line %s (%s): it is %s, and must be %s", m[1], m[2], is, must)
}

// checkTables refuses what is no table where names are free: the parser would pass
// over it.
func checkTables(meta toml.MetaData) error {
	for _, key := range meta.Keys() {
		free := len(key) == 1 && key[0] == "app" || len(key) == 3 && key[0] == "app" && key[2] == "set" ||
			len(key) == 2 && key[0] == "launch" && (key[1] == "set" || key[1] == "pins")
		if free && meta.Type(key...) != "Hash" {
			return fmt.Errorf("%s must be a table: write [%s], and below it a line NAME = ... for each", key, key)
		}
	}
	return nil
}
