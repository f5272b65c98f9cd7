package tree

import (
	"context"

	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// startsDir is M/.neurodeskfs/starts. Nothing is ever in it: to look a name up
// there is how the launcher says what it starts, in one round trip that waits for
// nothing. Anybody may; the worst that comes of it is that a trace is fetched.
func (t *Tree) startsDir() directory {
	return directory{
		names: func(context.Context) ([]string, error) { return nil, nil },
		child: func(_ context.Context, name string) (volume.Child, error) {
			id, command, ok := launch.ParseStart(name)
			if ok && t.o.Started != nil {
				if spec, err := t.Spec(id); err == nil {
					t.o.Started(id, spec, command)
				}
			}
			return volume.Child{}, notExist(".neurodeskfs/starts/" + name)
		},
		absent: absentSoon,
	}
}
