package tree

import (
	"context"
	"errors"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// listedSoon is how long the kernel may believe what a listing of M/bin shows of
// an image that nobody has looked into: long enough for `ls -l`, which would
// have all of them opened otherwise.
const listedSoon = 10 * time.Second

// unopened is the command file of a silent image as a listing shows it.
func (t generation) unopened(ctx context.Context, m *img, name string) (volume.Child, error) {
	_, err := t.index.await(ctx, m)
	switch {
	case err != nil && ctx.Err() == nil:
		err = errors.Join(notExist(name), err) // one bad image must not end the listing
	case err == nil && !m.info.Published:
		err = notExist(name)
	}
	if err != nil {
		return volume.Child{}, err
	}
	c, err := t.choice(m, name)
	c.Valid = min(c.Valid, listedSoon)
	return c, err
}
