package tree

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// maxHelp bounds what a module tells of a README, bytes.
const maxHelp = 64 << 10

// moduleFormat is a language in which module files are written.
type moduleFormat struct {
	suffix string   // of a version's file
	rc     []string // the files that name the default version
	write  func(module) []byte
	// point writes one of rc.
	point func(rc, app, version string) []byte
}

// luaModules are for Lmod, tclModules for Environment Modules.
var (
	luaModules = moduleFormat{suffix: ".lua", rc: []string{".modulerc.lua"}, write: module.lua, point: func(_, app, version string) []byte {
		return fmt.Appendf(nil, "module_version(%s, \"default\")\n", luaString(app+"/"+version))
	}}
	tclModules = moduleFormat{rc: []string{".modulerc", ".version"}, write: module.tcl, point: func(rc, app, version string) []byte {
		if rc == ".version" {
			return fmt.Appendf(nil, "#%%Module1.0\nset ModulesVersion %s\n", tclString(version))
		}
		return fmt.Appendf(nil, "#%%Module1.0\nmodule-version %s default\n", tclString(app+"/"+version))
	}}
)

// moduleFormats are the directories of modules in M.
var moduleFormats = map[string]*moduleFormat{"modules": &luaModules, "modules-tcl": &tclModules}

// module is what a module file says.
type module struct {
	app, version, image string
	help                string
	categories          []string
	bin                 string
	variables           []variable
	env                 string   // the env file that is read when the module is loaded, "": none
	commands            []string // plausible ones
	retired             string   // why it cannot be loaded
}

// modules is M/modules or M/modules-tcl, or one app's directory there.
func (t generation) modules(part []string, f moduleFormat) directory {
	if len(part) == 2 {
		return t.moduleDir(part[0], part[1], f)
	}
	return directory{names: t.index.apps, absent: absentSoon, child: func(ctx context.Context, name string) (volume.Child, error) {
		return t.dirUnless(t.index.stands(ctx, name), part[0]+"/"+name)
	}}
}

// module finds the image that the module file name stands for, nil where it is
// one of f.rc, and all images of the app; whole is false where one of them
// cannot be read yet.
func (t generation) module(ctx context.Context, app, name string, f moduleFormat) (m *img, list []*img, whole bool, err error) {
	list, whole, err = t.index.app(ctx, app)
	if err != nil {
		return nil, nil, false, err
	}
	if slices.Contains(f.rc, name) {
		return nil, list, whole, nil
	}
	version, ok := strings.CutSuffix(name, f.suffix)
	i := slices.IndexFunc(list, func(m *img) bool { return m.version == version })
	if !ok || i < 0 || !loadable(version) {
		return nil, nil, whole, notExist(name)
	}
	return list[i], list, whole, nil
}

// moduleDir is M/modules/NAME: one file for each version, that of its newest
// build, and those that name the default.
func (t generation) moduleDir(top, app string, f moduleFormat) directory {
	at := func(ctx context.Context, name string) (*img, []*img, bool, error) {
		return t.module(ctx, app, name, f)
	}
	return directory{
		names: func(ctx context.Context) ([]string, error) {
			list, _, err := t.index.app(ctx, app)
			names := slices.Clone(f.rc)
			for i, m := range list {
				if loadable(m.version) && (i == 0 || list[i-1].version != m.version) { // newest first
					names = append(names, m.version+f.suffix)
				}
			}
			return names, err
		},
		child: func(ctx context.Context, name string) (volume.Child, error) {
			m, list, whole, err := at(ctx, name)
			if err != nil {
				return volume.Child{}, err
			}
			var c volume.Child
			sure := true
			if m == nil {
				c, err = t.file(path.Join(top, app, name), 0o644, list[0].first().published, f.point(name, app, t.index.pins.defaultVersion(app, list)))
			} else {
				c, sure, err = t.moduleFile(ctx, path.Join(top, app, name), m, f)
			}
			if !whole || !sure {
				c.Valid = 0 // an image that cannot be read yet may be newer
			}
			return c, err
		},
		// A module's text is made from the container's files and the repository's
		// lists: nothing need be read to see whether it changed.
		sign: func(ctx context.Context, name string) (string, error) {
			m, list, _, err := at(ctx, name)
			if err != nil {
				return "", err
			}
			if m == nil {
				return t.index.pins.defaultVersion(app, list), nil
			}
			c, err := t.index.catalogue(ctx, m.source)
			if err != nil {
				return "", err
			}
			return m.key + "\x00" + strings.Join(c.categories(m), "\x00"), nil
		},
		absent: absentSoon,
	}
}

// defaultVersion is the version that M/apps/NAME/default leads to.
func (p pins) defaultVersion(app string, list []*img) string {
	if pin := p.of(app, list); pin != nil {
		return pin.version
	}
	return p.links(app, list)["default"]
}

// loadable reports whether a version can be a module's: hidden files and
// editors' copies are none, and a Tcl file must not look like one in Lua.
func loadable(version string) bool {
	return version != "default" && !strings.HasPrefix(version, ".") && !strings.HasSuffix(version, "~") && !strings.HasSuffix(version, ".lua")
}

// moduleFile is the module of one image. It is not sure of the categories while
// the repository's lists cannot be read.
func (t generation) moduleFile(ctx context.Context, p string, m *img, f moduleFormat) (c volume.Child, sure bool, err error) {
	readme, err := m.container.text(ctx, "README.md")
	if err != nil && !notThere(err) {
		return c, false, err
	}
	mod := module{app: m.app, version: m.version, image: m.dir, help: head(text(string(readme)), maxHelp), bin: path.Join(t.buildPath(m), "bin")}
	env, err := m.container.text(ctx, "env.txt")
	switch {
	case err == nil:
		mod.variables = variables(env, path.Join(t.buildPath(m), "rootfs"))
	case !notThere(err):
		return c, false, err
	case m.silent: // to list a module must not open an image
		mod.env = path.Join(t.buildPath(m), "env")
	}
	lists, listErr := t.index.catalogue(ctx, m.source)
	if listErr != nil {
		if ctx.Err() != nil {
			return c, false, ctx.Err()
		}
		lists = &catalogue{}
		t.log.Warn("a module is shown without its categories", "image", m.dir, "err", listErr)
	}
	mod.categories = lists.categories(m)
	if !m.silent {
		for _, c := range m.info.Commands {
			if plausible(c.Name, t.index.never) {
				mod.commands = append(mod.commands, c.Name)
			}
		}
		if m.info.Retired {
			mod.retired = t.describe(m, "sh").Retired
		}
	}
	c, err = t.file(p, 0o644, m.first().published, f.write(mod))
	return c, listErr == nil, err
}

// whatis are the module's one-line descriptions.
func (m module) whatis() []string {
	lines := []string{"Name: " + m.app, "Version: " + m.version, "Image: " + m.image}
	if len(m.categories) > 0 {
		lines = append(lines, "Category: "+strings.Join(m.categories, ", "))
	}
	if m.retired != "" {
		lines = append(lines, "Retired: the repository no longer holds its image")
	}
	return lines
}

// extensions names the commands as Lmod lists them, NAME/VERSION; "" if the
// names or the version would break such a list.
func (m module) extensions() string {
	const marks = ",/ \t"
	if m.retired != "" || strings.ContainsAny(m.version, marks) {
		return ""
	}
	var list []string
	for _, c := range m.commands {
		if !strings.ContainsAny(c, marks) {
			list = append(list, c+"/"+m.version)
		}
	}
	return strings.Join(list, ", ")
}

// lua writes the module for Lmod.
func (m module) lua() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "-- -*- lua -*-\nhelp(%s)\n", luaLong(m.help))
	for _, line := range m.whatis() {
		fmt.Fprintf(&b, "whatis(%s)\n", luaString(line))
	}
	if m.retired != "" {
		fmt.Fprintf(&b, "if mode() == \"load\" then\n    LmodError(%s)\nend\n", luaString(m.complaint()))
		return b.Bytes()
	}
	if list := m.extensions(); list != "" { // Lmod has them since 8.2.5
		fmt.Fprintf(&b, "if type(extensions) == \"function\" then\n    extensions(%s)\nend\n", luaString(list))
	}
	fmt.Fprintf(&b, "conflict(%s)\nprepend_path(\"PATH\", %s)\n", luaString(m.app), luaString(m.bin))
	for _, v := range m.variables {
		fmt.Fprintf(&b, "setenv(%s, %s)\n", luaString(v.name), luaString(v.value))
	}
	if m.env != "" {
		fmt.Fprintf(&b, luaReadsEnv, luaString(m.env))
	}
	return b.Bytes()
}

// tcl writes the module for Environment Modules.
func (m module) tcl() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "#%%Module1.0\nproc ModulesHelp { } {\n    puts stderr %s\n}\n", tclString(m.help))
	for _, line := range m.whatis() {
		fmt.Fprintf(&b, "module-whatis %s\n", tclString(line))
	}
	if m.retired != "" {
		// break ends the load; error would show a trace and name the administrator.
		fmt.Fprintf(&b, "if {[module-info mode load]} {\n    puts stderr %s\n    break\n}\n", tclString(m.complaint()))
		return b.Bytes()
	}
	fmt.Fprintf(&b, "conflict %s\nprepend-path PATH %s\n", tclString(m.app), tclString(m.bin))
	for _, v := range m.variables {
		fmt.Fprintf(&b, "setenv %s %s\n", v.name, tclString(v.value))
	}
	if m.env != "" {
		fmt.Fprintf(&b, tclReadsEnv, tclString(m.env))
	}
	return b.Bytes()
}

// luaReadsEnv and tclReadsEnv set what an env file says. Lmod evaluates each module to list what there is
// (mode "spider"), Environment Modules to describe it: neither opens an image for that.
const (
	luaReadsEnv = `local env = (mode() == "load" or mode() == "unload" or mode() == "show") and io.open(%s)
if env then
    for line in env:lines() do
        local name, value = line:match("^export ([%%w_]+)='(.*)'$")
        if name then
            setenv(name, (value:gsub("'\\''", "'")))
        end
    end
    env:close()
end
`
	tclReadsEnv = `if {[module-info mode load] || [module-info mode remove] || [module-info mode display]} {
    if {![catch {open %s} lines]} {
        while {[gets $lines line] >= 0} {
            if {[regexp {^export ([A-Za-z0-9_]+)='(.*)'$} $line all name value]} {
                setenv $name [string map [list {'\''} '] $value]
            }
        }
        close $lines
    }
}
`
)

// complaint is what loading a retired image's module says.
func (m module) complaint() string { return m.app + "/" + m.version + " was retired: " + m.retired }
