package image

import (
	"context"
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

const (
	envScripts   = "/.singularity.d/env"
	maxEnvs      = 64       // environment scripts of one image
	maxEnvScript = 64 << 10 // bytes read of one
)

// Environment tells the variables that the image's environment scripts set by
// plain assignments, PATH among them. Nothing is run. An image without scripts
// has PATH alone, the runtime's own.
func (f Files) Environment(ctx context.Context) (map[string]string, error) {
	dir, err := f.Resolve(ctx, envScripts)
	var names []string
	if err == nil && dir.IsDir() {
		names, err = f.ReadDir(ctx, dir.Path, 64*maxEnvs)
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	slices.Sort(names)
	var texts []string
	for _, name := range names[:min(len(names), maxEnvs)] {
		if !strings.HasSuffix(name, ".sh") {
			continue
		}
		at, err := f.Resolve(ctx, path.Join(envScripts, name))
		if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsRegular() {
			continue
		}
		var text []byte
		if err == nil {
			text, err = f.ReadFile(ctx, at.Path, maxEnvScript)
		}
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return launch.ScriptVariables(texts), nil
}
