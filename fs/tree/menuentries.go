package tree

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// menuEntry is a graphical program that apps.json names.
type menuEntry struct {
	file       string // its name in M/share/applications
	label      string // for people, with app and version: "fsleyesGUI-fsl 6.0.7.22"
	source     string // the repository whose list it stands in
	exec       string // a command line
	categories []string
	image      *img
}

// listedApp is an app in apps.json. An entry's "version" is its build date; its
// key is LABEL, a blank and the version.
type listedApp struct {
	Apps       map[string]listedEntry `json:"apps"`
	Categories []string               `json:"categories"`
	InMenu     *bool                  `json:"show_in_menu"`
}

// listedEntry is one version of it, or one of its graphical programs. One that
// is not written so is empty, and spoils no other.
type listedEntry struct {
	Version string   `json:"version"` // the build date
	Exec    string   `json:"exec"`
	Args    []string `json:"apptainer_args"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *listedEntry) UnmarshalJSON(b []byte) error {
	type fields listedEntry
	if json.Unmarshal(b, (*fields)(e)) != nil {
		*e = listedEntry{}
	}
	return nil
}

// parseEntries lists the graphical programs of apps.json that are in menus, in
// a certain order. version and date are the image's.
func parseEntries(apps map[string]listedApp, add func(e menuEntry, names []string, version, date string)) {
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		a := apps[app]
		if a.InMenu != nil && !*a.InMenu {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(a.Apps)) {
			e := a.Apps[key]
			label, version, ok := cutLast(oneLine(key), " ")
			line := oneLine(e.Exec)
			if !ok || line == "" {
				continue
			}
			add(menuEntry{label: label + " " + version, exec: line, categories: cleanCategories(a.Categories)}, namesIn(app, label), version, e.Version)
		}
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return strings.TrimSpace(s[:i]), s[i+len(sep):], true
}

// oneLine makes plain text of s, on one line, blanks one by one.
func oneLine(s string) string { return strings.Join(strings.Fields(text(s)), " ") }

// namesIn are the apps that an entry may be of: the one under which it stands;
// its label is APP, or WORDS-APP, in which both may hold dashes.
func namesIn(app, label string) []string {
	names := []string{app, label}
	for {
		_, rest, ok := strings.Cut(label, "-")
		if !ok {
			return names
		}
		names, label = append(names, rest), rest
	}
}

// entries are the menu entries whose image can run, each with a file name of its
// own. What a repository's lists cannot tell now is left out: sure is false then.
func (x *index) entries(ctx context.Context) (list []menuEntry, sure bool, err error) {
	if err := wait(ctx, x.listed); err != nil {
		return nil, false, err
	}
	taken := map[string]bool{}
	sure = true
	for _, s := range x.stores {
		c, err := x.catalogue(ctx, s.name())
		if err != nil {
			if ctx.Err() != nil {
				return nil, false, ctx.Err()
			}
			sure = false
			continue
		}
		parseEntries(c.apps, func(e menuEntry, names []string, version, date string) {
			if e.image = x.runnable(names, version, date); e.image == nil {
				return
			}
			e.source = s.name()
			e.file = fileName(e.label)
			for n := 2; taken[e.file]; n++ {
				e.file = fileName(e.label) + "-" + strconv.Itoa(n)
			}
			taken[e.file] = true
			e.file += ".desktop"
			list = append(list, e)
		})
	}
	return list, sure, nil
}

// runnable finds the image of that version and date, of the first of names that
// has one.
func (x *index) runnable(names []string, version, date string) *img {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, name := range names {
		for _, m := range x.byApp[name] {
			if m.version == version && (m.date == date || m.date == "") {
				if m.known() && (m.info.Retired || !m.info.Published) {
					return nil
				}
				return m
			}
		}
	}
	return nil
}

// fileName makes a file name of a label, of letters, digits, dots, dashes and
// underscores: what a desktop file's id may have.
func fileName(label string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, label)
	return "neurodesk-" + name[:min(len(name), 200)]
}

// parseApps reads apps.json.
func (c *catalogue) parseApps(b []byte) error {
	if err := json.Unmarshal(b, &c.apps); err != nil {
		c.apps = nil
		return err
	}
	c.byApp, c.args = map[string][]string{}, map[string][]string{}
	for app, a := range c.apps {
		c.byApp[app] = cleanCategories(a.Categories)
		for key, e := range a.Apps {
			if name, args := optionsOf(key, e); len(args) > 0 {
				c.args[name] = args
			}
		}
	}
	return nil
}
