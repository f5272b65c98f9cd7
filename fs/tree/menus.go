package tree

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// M/share is for desktops: with M/share in XDG_DATA_DIRS they find the entries
// and the names of the categories, in XDG_CONFIG_DIRS the menu (Desktop Entry
// Specification 1.5, Desktop Menu Specification 1.1 of freedesktop.org).
const (
	desktopDir   = "share/applications"
	directoryDir = "share/desktop-directories"
	menuDir      = "share/menus/applications-merged"
	menuFile     = "neurodesk.menu"
	topDirectory = "neurodesk.directory"
)

// iconFile is where Neurodesk's repositories keep the icon of an app.
func iconFile(app string) string { return "/neurocommand/neurodesk/icons/" + app + ".png" }

// share is a directory below M/share.
func (t generation) share(p string) (directory, error) {
	switch p {
	case "share":
		return t.fixed(p, "applications", "desktop-directories", "menus"), nil
	case path.Dir(menuDir):
		return t.fixed(p, path.Base(menuDir)), nil
	case desktopDir, directoryDir, menuDir:
		return t.shareDir(p), nil
	}
	return directory{}, fmt.Errorf("tree: %q: %w", p, volume.ErrStale)
}

// shareDir is one of the directories of generated files.
func (t generation) shareDir(p string) directory {
	return directory{
		names: func(ctx context.Context) ([]string, error) {
			files, _, err := t.shared(ctx, p)
			return slices.Collect(maps.Keys(files)), err
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			files, sure, err := t.shared(ctx, p)
			if err != nil {
				return volume.Child{}, err
			}
			f, ok := files[name]
			if !ok {
				return volume.Child{}, notExist(p + "/" + name)
			}
			c, err := t.file(p+"/"+name, 0o644, f.made, f.write(ctx))
			if !sure {
				c.Valid = 0
			}
			return c, err
		},
		absent: absentSoon,
	}
}

// sharedFile is a file below M/share.
type sharedFile struct {
	made  time.Time // when what it is about was
	write func(context.Context) []byte
}

// shared are the files of a directory below M/share.
func (t generation) shared(ctx context.Context, p string) (files map[string]sharedFile, sure bool, err error) {
	entries, sure, err := t.index.entries(ctx)
	if err != nil {
		return nil, false, err
	}
	files = map[string]sharedFile{}
	newest := time.Unix(0, 0)
	var categories []string
	for _, e := range entries {
		made := e.image.first().published
		if made.After(newest) {
			newest = made
		}
		categories = append(categories, e.categories...)
		if p == desktopDir {
			files[e.file] = sharedFile{made, func(ctx context.Context) []byte { return t.desktopEntry(ctx, e) }}
		}
	}
	slices.Sort(categories)
	categories = slices.Compact(categories)
	fixed := func(b []byte) sharedFile {
		return sharedFile{newest, func(context.Context) []byte { return b }}
	}
	switch {
	case len(entries) == 0:
	case p == directoryDir:
		files[topDirectory] = fixed(directoryEntry("Neurodesk"))
		for _, c := range categories {
			files[categoryFile(c)] = fixed(directoryEntry(c))
		}
	case p == menuDir:
		files[menuFile] = fixed(menu(categories))
	}
	return files, sure, nil
}

// desktopEntry is the file of one program.
func (t generation) desktopEntry(ctx context.Context, e menuEntry) []byte {
	var b bytes.Buffer
	line := func(key, value string) { fmt.Fprintf(&b, "%s=%s\n", key, desktopString(value)) }
	b.WriteString("[Desktop Entry]\nType=Application\nVersion=1.5\n")
	line("Name", e.label)
	line("Comment", strings.TrimSpace(e.image.app+" "+e.image.version+" "+e.image.date))
	fmt.Fprintf(&b, "Exec=%s\nTerminal=false\n", desktopExec(t.commandLine(e)))
	if icon := iconFile(e.image.app); nameable(e.image.app) && t.index.holds(ctx, e.source, icon) {
		line("Icon", path.Join(t.o.Mountpoint, "cvmfs", e.source, icon))
	}
	b.WriteString("Categories=X-Neurodesk;")
	for _, c := range e.categories {
		b.WriteString(category(c) + ";")
	}
	b.WriteString("\n")
	return b.Bytes()
}

// holds reports whether a source has a document; one that cannot be read now
// counts as not there.
func (x *index) holds(ctx context.Context, source, name string) bool {
	for _, s := range x.stores {
		if s.name() == source {
			b, err := s.document(ctx, name)
			return err == nil && len(b) > 0
		}
	}
	return false
}

// commandLine is what a menu entry runs: the command itself, or, for a line with
// arguments, the image's shell with that line, by the launcher.
func (t generation) commandLine(e menuEntry) []string {
	m := e.image
	_, exposed := command(m.info.Commands, e.exec)
	if plain := strings.Trim(e.exec, plainBytes) == ""; plain && !strings.Contains(e.exec, "/") && (exposed || !m.known()) {
		return []string{path.Join(t.buildPath(m), "bin", e.exec)}
	}
	return []string{t.launcherPath(), path.Join(t.o.Mountpoint, ".neurodeskfs/apps", m.app, m.build()), "-c", e.exec}
}

// directoryEntry names a menu.
func directoryEntry(name string) []byte {
	return []byte("[Desktop Entry]\nType=Directory\nVersion=1.5\nName=" + desktopString(name) + "\n")
}

// category is a category's name in desktop entries, where ours must begin so.
func category(name string) string {
	return "X-Neurodesk-" + strings.TrimPrefix(fileName(name), "neurodesk-")
}

func categoryFile(name string) string { return fileName(name) + ".directory" }

// menu puts the entries below Neurodesk and their categories.
func menu(categories []string) []byte {
	var b bytes.Buffer
	element := func(name, value string) {
		fmt.Fprintf(&b, "<%s>", name)
		_ = xml.EscapeText(&b, []byte(value)) // a buffer takes all
		fmt.Fprintf(&b, "</%s>", name)
	}
	b.WriteString(`<!DOCTYPE Menu PUBLIC "-//freedesktop//DTD Menu 1.0//EN" "http://www.freedesktop.org/standards/menu-spec/menu-1.0.dtd">` + "\n<Menu><Name>Applications</Name>\n<Menu>")
	element("Name", "Neurodesk")
	element("Directory", topDirectory)
	b.WriteByte('\n')
	for _, c := range categories {
		b.WriteString("<Menu>")
		element("Name", c)
		element("Directory", categoryFile(c))
		b.WriteString("<Include>")
		element("Category", category(c))
		b.WriteString("</Include></Menu>\n")
	}
	b.WriteString("</Menu>\n</Menu>\n")
	return b.Bytes()
}
