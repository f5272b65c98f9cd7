package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// launcherPath is where the `#!` line of a command file points to.
func (t *Tree) launcherPath() string { return path.Join(t.o.Mountpoint, ".neurodeskfs/launcher") }

// describe says what running name from m means.
func (t generation) describe(m *img, name string) launch.Command {
	c := launch.Command{
		Launcher: t.launcherPath(), Command: name, App: m.app, Version: m.version, Date: m.date,
		Image:    m.place,
		Revision: m.first().revision,
	}
	known := m.info.Commands
	if found := m.found.Load(); found != nil {
		known = *found
	}
	if cmd, ok := command(known, name); ok {
		c.Path = cmd.Path
	}
	if m.info.Retired {
		c.Hash = "none"
		c.Retired = fmt.Sprintf("the repository %s no longer holds its image (%s). Choose another version: ls %s",
			m.source, m.dir, path.Join(t.o.Mountpoint, "apps", m.app))
		return c
	}
	c.Hash, c.Args = m.info.ImageID, t.index.options(m)
	if reason := m.refused.Load(); reason != nil {
		c.Refused = *reason
	}
	if m.shut() != "" { // a text all the same, which tells why
		c.Hash, c.Rootfs = "none", path.Join(t.o.Mountpoint, ".neurodeskfs/images/none/rootfs")
		return c
	}
	if c.Rootfs = m.info.Host; c.Rootfs != "" {
		return c
	}
	t.remember(m.info.ImageID, m.info.Spec)
	c.Rootfs = path.Join(t.o.Mountpoint, ".neurodeskfs/images", m.info.ImageID, "rootfs")
	return c
}

// commandFile is the executable text that runs c.
func (t generation) commandFile(dir string, c launch.Command, published time.Time) (volume.Child, error) {
	p := dir + "/" + c.Command
	if err := c.Validate(); err != nil {
		return volume.Child{}, fmt.Errorf("%w: %w", notExist(p), err)
	}
	return t.file(p, 0o755, published, c.Format())
}

// chosen says what running name from M/bin means, where m owns it.
func (t generation) chosen(m *img, name string) launch.Command {
	if m.unseen {
		return launch.Command{
			Launcher: t.launcherPath(), Command: name, App: m.app, Version: m.version, Date: m.date, Image: m.place, Hash: launch.Unseen, Default: true,
		}
	}
	c := t.describe(m, name)
	c.Default = true
	return c
}

// choice is name's file in M/bin, where m owns it.
func (t generation) choice(m *img, name string) (volume.Child, error) {
	return t.commandFile("bin", t.chosen(m, name), m.first().published)
}

// envFile is the env file in the directory base, which a shell on the host may source to find the image's files. The image
// is shown as id, and its root seen at rootfs. One without an env.txt beside it is asked itself.
func (t generation) envFile(ctx context.Context, m *img, id, base, rootfs string) (volume.Child, error) {
	text, err := m.container.text(ctx, "env.txt")
	if m.silent && notThere(err) {
		text, err = t.index.deployed(ctx, id, m.info)
	}
	if err != nil && !notThere(err) {
		return volume.Child{}, err
	}
	var out bytes.Buffer
	for _, v := range variables(text, rootfs) {
		fmt.Fprintf(&out, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	}
	return t.file(base+"/env", 0o644, m.first().published, out.Bytes())
}

// variable is one that an image wants to be set on the host.
type variable struct{ name, value string }

// variables reads an env.txt, which has DEPLOY_ENV_NAME=VALUE lines in which
// BASEPATH stands for the image's root, seen on the host at rootfs.
func variables(text []byte, rootfs string) (vars []variable) {
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		name, deploy := strings.CutPrefix(name, "DEPLOY_ENV_")
		if ok && deploy && identifier(name) && !steersHost(name) && !strings.ContainsFunc(value, unicode.IsControl) {
			vars = append(vars, variable{name, strings.ReplaceAll(value, "BASEPATH", rootfs)})
		}
	}
	return vars
}

// steersHost reports whether a variable would make the host's own shell, loader,
// interpreters or runtime run what an image chooses: none may be set by an image.
func steersHost(name string) bool {
	switch name {
	case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "PS1", "PS4", "GCONV_PATH", "TMPDIR", "EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "MODULEPATH",
		"ZDOTDIR", "FPATH", "CDPATH", "EXINIT", "MAKEFILES", "MAKEFLAGS", "TAR_OPTIONS", "RSYNC_RSH", "CURL_HOME", "WGETRC", "CLASSPATH", "TCLLIBPATH":
		return true
	}
	for _, prefix := range []string{
		"LD_", "BASH_", "GLIBC_", "GIT_", "SSH_", "SUDO_", "LESS", "LMOD_", "PYTHON", "PERL", "RUBY", "NODE_", "R_", "LUA_", "JAVA_", "_JAVA_", "JDK_JAVA_",
		"JULIA_", "OPENSSL_", "VIM", "XDG_", "GTK_", "GDK_", "GIO_", "QT_PLUGIN_", "QT_QPA_", "APPTAINER", "SINGULARITY", "NEURODESK", "neurodesk_",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// buildPath is where the image's directory is seen on the host.
func (t *Tree) buildPath(m *img) string {
	return path.Join(t.o.Mountpoint, "apps", m.app, m.build())
}

// identifier reports whether name is a shell variable's name.
func identifier(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// ownDir is M/.neurodeskfs.
func (t generation) ownDir() directory {
	names := []string{"launcher", "launch.json", "status.json", "index.json", "conflicts.tsv", "version", "images", "apps", "locked", "starts"}
	return directory{
		names: func(context.Context) ([]string, error) { return names, nil },
		child: func(_ context.Context, name string) (volume.Child, error) {
			switch name {
			case "launcher":
				return t.launcher()
			case "launch.json":
				return t.file(".neurodeskfs/launch.json", 0o644, time.Unix(0, 0), t.o.Policy)
			case "version":
				return t.file(".neurodeskfs/version", 0o644, time.Unix(0, 0), []byte(t.o.Version+"\n"))
			case "status.json":
				return t.freeze(t.o.Status())
			case "index.json":
				return t.freeze(t.index.json())
			case "conflicts.tsv":
				return t.freeze(t.index.conflicts())
			case "images", "apps", "locked", "starts":
				return t.dir(".neurodeskfs/" + name)
			}
			return volume.Child{}, notExist(name)
		},
		absent: volume.Forever,
		sign:   func(_ context.Context, name string) (string, error) { return name, nil }, // each look-up makes them anew, or they never change
	}
}

// descriptions is M/.neurodeskfs/apps[/NAME]: one text for each build, in the
// form of a command file, that says what `neurodeskfs exec` runs.
func (t generation) descriptions(part []string) directory {
	switch len(part) {
	case 0:
		return directory{names: t.index.apps, absent: absentSoon, child: func(ctx context.Context, name string) (volume.Child, error) {
			return t.dirUnless(t.index.stands(ctx, name), ".neurodeskfs/apps/"+name)
		}}
	case 1:
		child := func(ctx context.Context, name string) (volume.Child, error) {
			m, err := t.index.find(ctx, part[0], name)
			if err != nil {
				return volume.Child{}, err
			}
			if m.silent && m.info.Host == "" {
				_, _ = t.index.commands(ctx, m) // finds out whether it can be used
			}
			c := t.describe(m, "sh")
			return t.file(".neurodeskfs/apps/"+part[0]+"/"+name, 0o644, m.first().published, c.Format())
		}
		return directory{
			names: func(ctx context.Context) ([]string, error) {
				list, _, err := t.index.app(ctx, part[0])
				var names []string
				for _, m := range list {
					names = append(names, m.build())
				}
				return names, err
			},
			child: child,
			sign: func(ctx context.Context, name string) (string, error) {
				if m := t.index.named(part[0], name); m != nil && m.silent {
					return t.index.signSilent(ctx, m)
				}
				return signChild(ctx, child, name)
			},
			absent: absentSoon,
		}
	}
	return directory{
		names: func(context.Context) ([]string, error) { return nil, nil },
		child: func(_ context.Context, name string) (volume.Child, error) { return volume.Child{}, notExist(name) },
	}
}

// Listing is index.json: every image and who owns which name.
type Listing struct {
	Pending int       `json:"pending"` // images that were not read yet
	Images  []Listed  `json:"images"`
	Names   []Decided `json:"names"`
	Pins    []Pinned  `json:"pins"` // the site's, by app
}

// Listed is one image in index.json.
type Listed struct {
	App      string   `json:"app"`
	Version  string   `json:"version"`
	Date     string   `json:"date"` // "": the version alone names the build
	FQRN     string   `json:"fqrn"`
	Hash     string   `json:"hash,omitempty"`
	Retired  bool     `json:"retired"`
	Commands []string `json:"commands"`
}

// Build is the name of the image's directory in M/apps/APP.
func (l Listed) Build() string { return launch.BuildName(l.Version, l.Date) }

// Decided is one name of M/bin in index.json. Builds are APP/VERSION_DATE.
type Decided struct {
	Command string   `json:"command"`
	Owner   string   `json:"owner"`
	Reason  string   `json:"reason"`
	Others  []string `json:"others,omitempty"`
}

func (c Candidate) build() string { return c.App + "/" + launch.BuildName(c.Version, c.Date) }

// listing returns what is known now.
func (x *index) listing() Listing {
	owners, _, _ := x.snapshot()
	x.mu.Lock()
	defer x.mu.Unlock()
	l := Listing{Pending: x.left, Images: []Listed{}, Names: []Decided{}, Pins: []Pinned{}}
	for _, app := range slices.Sorted(maps.Keys(x.pins)) {
		p := Pinned{App: app, Version: x.pins[app]}
		if m := x.pins.of(app, x.byApp[app]); m != nil {
			p.Build = m.build()
		}
		l.Pins = append(l.Pins, p)
	}
	for _, app := range slices.Sorted(maps.Keys(x.byApp)) {
		for _, m := range x.byApp[app] {
			if m.silent && !m.known() {
				l.Images = append(l.Images, Listed{App: app, Version: m.version, Date: m.date, FQRN: m.source, Commands: []string{app}})
				continue
			}
			if !m.known() || !m.info.Published {
				continue
			}
			e := Listed{App: app, Version: m.version, Date: m.date, FQRN: m.source, Hash: m.info.ImageID, Retired: m.info.Retired, Commands: []string{}}
			for _, c := range m.info.Commands {
				e.Commands = append(e.Commands, c.Name)
			}
			if found := m.found.Load(); found != nil {
				for _, c := range *found {
					e.Commands = append(e.Commands, c.Name)
				}
			} else if m.silent {
				e.Commands = append(e.Commands, app)
			}
			l.Images = append(l.Images, e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		o := owners[name]
		d := Decided{Command: name, Owner: o.Winner.build(), Reason: o.Reason}
		for _, c := range o.Others {
			d.Others = append(d.Others, c.build())
		}
		l.Names = append(l.Names, d)
	}
	return l
}

func (x *index) json() []byte {
	b, err := json.Marshal(x.listing())
	if err != nil {
		panic(err) // texts and numbers only
	}
	return append(b, '\n')
}

// conflicts lists the names that several images have: command, owner, reason, others.
func (x *index) conflicts() []byte {
	var out bytes.Buffer
	out.WriteString("command\towner\treason\tothers\n")
	for _, d := range x.listing().Names {
		if len(d.Others) > 0 {
			fmt.Fprintf(&out, "%s\t%s\t%s\t%s\n", d.Command, d.Owner, d.Reason, strings.Join(d.Others, " "))
		}
	}
	return out.Bytes()
}

// Progress is how far the command index is.
type Progress struct {
	Apps     int `json:"apps"`
	Commands int `json:"commands"` // names in M/bin
	Pending  int `json:"pending"`  // images not read yet
}

// Progress reports how far the command index is.
func (t *Tree) Progress() Progress {
	apps, commands, pending := t.index.Load().progress()
	return Progress{apps, commands, pending}
}

// ListErrors are the sources whose images could not be listed, by name.
func (t *Tree) ListErrors() map[string]error {
	x := t.index.Load()
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.listErr)
}
