package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

const (
	runscript = "/.singularity.d/runscript"
	maxListed = 20000 // names read of one directory
)

// commands lists what an image exposes. A silent image is looked into once; what
// it says is kept by its content. Of a directory of the host, until the next
// refresh.
func (x *index) commands(ctx context.Context, m *img) ([]Command, error) {
	info, err := x.await(ctx, m)
	if err != nil || !m.silent {
		return m.info.Commands, err
	}
	if list := m.found.Load(); list != nil {
		return *list, nil
	}
	if info.Host != "" { // its content has no name: it may be another one at every look
		list, err := x.lookInside(ctx, m.app, info.ImageID, *info)
		if err == nil {
			m.found.Store(&list)
		}
		return list, err
	}
	var list []Command
	key := m.app + "/" + info.ImageID + x.images.Trust()
	if b, ok := x.memo.Get("commands", key); !ok || json.Unmarshal(b, &list) != nil {
		list, err = x.lookInside(ctx, m.app, info.ImageID, *info)
		if errors.Is(err, image.ErrRefused) {
			return x.refuse(m, err), nil
		}
		if err != nil {
			return nil, err
		}
		if b, err := json.Marshal(list); err == nil {
			x.memo.Put("commands", key, b)
		}
	}
	m.found.Store(&list)
	return list, nil
}

// refuse gives an image that cannot be used a command of its own name, which
// tells why.
func (x *index) refuse(m *img, err error) []Command {
	x.refused(m, err)
	list := []Command{{Name: m.app}}
	m.found.Store(&list)
	return list
}

// refused keeps, and says once, why an image cannot be used.
func (x *index) refused(m *img, err error) {
	reason := err.Error()
	if m.refused.Swap(&reason) == nil {
		x.log.Error("an image cannot be used", "image", m.place, "err", err)
	}
}

// lookInside asks an image, which is shown as id, for its commands.
func (x *index) lookInside(ctx context.Context, app, id string, info Info) ([]Command, error) {
	files, err := x.filesOf(ctx, id, info)
	if err != nil {
		return nil, err
	}
	list, err := findCommands(ctx, files, app, x.never)
	if err == nil {
		err = ctx.Err()
	}
	return list, err
}

// filesOf is what an image holds, which is shown as id.
func (x *index) filesOf(ctx context.Context, id string, info Info) (f image.Files, err error) {
	if info.Host != "" {
		return image.HostFiles(info.Host), nil
	}
	root, err := x.images.Root(ctx, id, info.Spec)
	if err != nil {
		return f, err
	}
	return image.VolumeFiles(root), nil
}

// deployed are the variables of a silent image that begin with DEPLOY_ENV_, as
// lines of an env.txt, kept by its content. One that cannot be used has none.
// The image is shown as id.
func (x *index) deployed(ctx context.Context, id string, info Info) ([]byte, error) {
	if info.ImageID == "" {
		return nil, nil
	}
	key := info.ImageID + x.images.Trust()
	if b, ok := x.memo.Get("deployed", key); ok && info.Host == "" { // whose scripts may be others at every look
		return b, nil
	}
	files, err := x.filesOf(ctx, id, info)
	var vars map[string]string
	if err == nil {
		vars, err = files.Environment(ctx)
	}
	if errors.Is(err, image.ErrRefused) {
		return nil, nil
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	text := []byte{}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if strings.HasPrefix(name, "DEPLOY_ENV_") && !strings.ContainsAny(vars[name], "\r\n") {
			text = fmt.Appendf(text, "%s=%s\n", name, vars[name])
		}
	}
	x.memo.Put("deployed", key, text)
	return text, nil
}

// findCommands asks the image itself: the directories of DEPLOY_PATH and the
// names in DEPLOY_BINS, or, where it has neither, its programs in
// /usr/local/bin; and the runscript under the app's name. What is not there
// counts as nothing; other errors are returned.
func findCommands(ctx context.Context, f image.Files, app string, never map[string]bool) ([]Command, error) {
	vars, err := f.Environment(ctx)
	if err != nil {
		return nil, err
	}
	dirs, bins := vars["DEPLOY_PATH"], vars["DEPLOY_BINS"]
	deployed := dirs != "" || bins != ""
	if !deployed {
		dirs = "/usr/local/bin"
	}
	list := []Command{}
	add := func(line, at string) {
		name, abs, ok := exposed(line)
		if at != "" {
			abs = at
		}
		if _, known := command(list, name); ok && !known {
			list = append(list, Command{name, abs})
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		programs, err := programsIn(ctx, f, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range programs {
			if deployed || plausible(name, never) {
				add(name, path.Join("/", dir, name))
			}
		}
	}
	for name := range strings.SplitSeq(bins, ":") {
		add(name, "")
	}
	_, runs, err := f.Program(ctx, runscript)
	if err != nil {
		return nil, err
	}
	if runs {
		add(app, runscript)
	}
	if _, known := command(list, app); !known && len(list) == 0 {
		add(app, "")
	}
	return list, nil
}

// programsIn lists what can be run in a directory, links followed.
func programsIn(ctx context.Context, f image.Files, dir string) (programs []string, err error) {
	if dir == "" {
		return nil, nil
	}
	at, err := f.Resolve(ctx, dir)
	var names []string
	if err == nil && at.IsDir() {
		names, err = f.ReadDir(ctx, at.Path, maxListed)
	}
	if err != nil && !image.Absent(err) {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		_, runs, err := f.Program(ctx, at.Path+"/"+name)
		if err != nil {
			return nil, err
		}
		if runs {
			programs = append(programs, name)
		}
	}
	return programs, nil
}
