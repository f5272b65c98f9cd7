package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// explainKey says that a key does not exist and which one may have been meant.
func explainKey(key string) string {
	table, last := "", key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		table, last = key[:i], key[i+1:]
	}
	if strings.HasPrefix(table, "app.") {
		table = "app" // the part between is the app's name
	}
	known := keysOf(table)
	if len(known) == 0 {
		table, last = "", strings.SplitN(key, ".", 2)[0]
		known = keysOf("")
	}
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(last, a) - distance(last, b) })
	if table != "" {
		nearest = table + "." + nearest
	}
	return fmt.Sprintf("there is no key %q; the nearest is %q", key, nearest)
}

// keysOf lists the keys of a table, "" for the top level.
func keysOf(table string) []string {
	t := reflect.TypeFor[Config]()
	if table != "" {
		found := false
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("toml") == table {
				t, found = f.Type, true
				break
			}
		}
		if !found {
			return nil
		}
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil // a key, not a table
		}
	}
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		if k := f.Tag.Get("toml"); k != "-" && k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// distance is the number of edits (Levenshtein) between two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
