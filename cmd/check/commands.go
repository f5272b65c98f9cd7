package check

import (
	"context"
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// maxCommandsTxt bounds a commands.txt inside the image, bytes.
const maxCommandsTxt = 4 << 20

// commands examines all that the image declares.
func (r *run) commands(ctx context.Context) error {
	all, err := r.declared(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		r.fault("no command is declared: it has no commands.txt, DEPLOY_PATH, DEPLOY_BINS or runscript")
	}
	for _, c := range all {
		r.report.Commands = append(r.report.Commands, c.Name)
		if err := r.command(ctx, c); err != nil {
			return err
		}
		if why := tree.WhyNotInBin(c.Name); why != "" {
			r.report.Hidden = append(r.report.Hidden, Hidden{c.Name, why})
		} else if r.Others != nil {
			if apps := r.Others(c.Name); len(apps) > 0 {
				r.report.Shared = append(r.report.Shared, Shared{c.Name, apps})
			}
		}
	}
	return nil
}

// declared gathers the commands of commands.txt, beside the image or in it, and
// those that the image itself names.
func (r *run) declared(ctx context.Context) (all []tree.Command, err error) {
	source := func(name string) { r.report.Sources = append(r.report.Sources, name) }
	add := func(c tree.Command) {
		if !slices.ContainsFunc(all, func(d tree.Command) bool { return d.Name == c.Name }) {
			all = append(all, c)
		}
	}
	text := r.CommandsTxt
	if text == nil {
		if text, err = r.inside(ctx, "/commands.txt"); err != nil {
			return nil, err
		}
	}
	if text != nil {
		source("commands.txt")
		r.unusable(string(text))
		for _, c := range tree.ParseCommands(string(text)) {
			add(c)
		}
	}
	vars, err := r.Files.Environment(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"DEPLOY_PATH", "DEPLOY_BINS"} {
		if vars[name] != "" {
			source(name)
		}
	}
	if err := r.deployed(ctx, vars["DEPLOY_PATH"]); err != nil {
		return nil, err
	}
	found, err := tree.FindCommands(ctx, r.Files, r.App)
	if err != nil {
		return nil, err
	}
	if len(r.report.Sources) == 0 && len(found) > 0 && found[0] != (tree.Command{Name: r.App}) {
		source("the image's own programs")
	}
	for _, c := range found {
		if c == (tree.Command{Name: r.App}) && len(found) == 1 {
			// Only a name that the mount gives to an image that says nothing.
			if at, _, err := r.linker.Search(ctx, c.Name); err != nil || at == "" {
				continue
			}
		}
		add(c)
	}
	return all, nil
}

// inside reads a file of the image, nil where there is none.
func (r *run) inside(ctx context.Context, name string) ([]byte, error) {
	at, err := r.Files.Resolve(ctx, name)
	if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.Files.ReadFile(ctx, at.Path, maxCommandsTxt)
}

// unusable notes the lines of commands.txt that can be no file name.
func (r *run) unusable(text string) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" && len(tree.ParseCommands(line)) == 0 {
			r.fault("a line of commands.txt can be no command's name", strings.TrimSpace(line))
		}
	}
}

// deployed notes the directories of DEPLOY_PATH that are not there.
func (r *run) deployed(ctx context.Context, dirs string) error {
	for dir := range strings.SplitSeq(dirs, ":") {
		if dir == "" {
			continue
		}
		at, err := r.Files.Resolve(ctx, dir)
		if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsDir() {
			r.fault("DEPLOY_PATH names " + dir + ", which is no directory in the image")
		} else if err != nil {
			return err
		}
	}
	return nil
}

// command finds out whether one command can start.
func (r *run) command(ctx context.Context, c tree.Command) error {
	at := c.Path
	if at == "" {
		found, plain, err := r.linker.Search(ctx, c.Name)
		switch {
		case err != nil:
			return err
		case found == "" && plain != "":
			r.fault(plain+": not executable, chmod +x it", c.Name)
			return nil
		case found == "":
			r.fault("not in the image's PATH", c.Name)
			return nil
		}
		at = found
	}
	s, err := r.linker.Start(ctx, at)
	if err != nil {
		return err
	}
	for _, m := range s.Missing {
		r.fault(problem(m, at), c.Name)
	}
	if a := r.report.Architecture; a != "" && s.Architecture != "" && !runs(a, s.Architecture) {
		r.fault("built for "+s.Architecture+", the image's shell for "+a, c.Name)
	}
	for _, name := range s.Host {
		if !slices.Contains(r.report.Driver, name) {
			r.report.Driver = append(r.report.Driver, name)
		}
	}
	return nil
}

// problem says what is missing, and who wants it.
func problem(m image.Missing, program string) string {
	if m.By == "" || path.Base(m.By) == path.Base(program) {
		return m.Name + ": " + m.Why
	}
	return m.Name + ": " + m.Why + " (" + m.By + " needs it)"
}

// runs reports whether a machine executes programs of another.
func runs(machine, program string) bool {
	return machine == program || machine == "x86_64" && program == "i386" || machine == "aarch64" && program == "arm"
}
