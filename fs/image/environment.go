package image

import (
	"context"
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
// has PATH alone, the runtime's own. A script that cannot be read by us cannot be
// by who starts the image.
func (f Files) Environment(ctx context.Context) (map[string]string, error) {
	dir, err := f.Resolve(ctx, envScripts)
	var names []string
	if err == nil && dir.IsDir() {
		names, err = f.ReadDir(ctx, dir.Path, 64*maxEnvs)
	}
	if err != nil && !Absent(err) {
		return nil, err
	}
	slices.Sort(names)
	var texts []string
	for _, name := range names[:min(len(names), maxEnvs)] {
		if !strings.HasSuffix(name, ".sh") {
			continue
		}
		at, err := f.Resolve(ctx, path.Join(envScripts, name))
		var text []byte
		if err == nil && at.IsRegular() {
			text, err = f.ReadFile(ctx, at.Path, maxEnvScript)
		}
		if err != nil && !Absent(err) {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return launch.ScriptVariables(texts), nil
}
