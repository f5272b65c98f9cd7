package tree

import (
	"context"
	"errors"
	iofs "io/fs"
	"maps"
	"slices"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// remember keeps where an image's tree is, for as long as its hash may be named.
// The first place stays: were the same image at another place shown under the
// same name, its root would become another node, and the kernel would detach
// what is mounted below.
func (t *Tree) remember(id string, spec image.Spec) {
	t.mu.Lock()
	_, known := t.specs[id]
	if !known {
		t.specs[id] = spec
	}
	t.mu.Unlock()
	if !known {
		t.o.Memo.Put("image", id, spec.Format())
	}
}

// Spec says where the tree of an image lies that was named since the mount, or
// that the memo knows; fs.ErrNotExist: it was not.
func (t *Tree) Spec(id string) (image.Spec, error) {
	t.mu.Lock()
	spec, ok := t.specs[id]
	t.mu.Unlock()
	if ok {
		return spec, nil
	}
	if b, ok := t.o.Memo.Get("image", id); ok {
		if spec, err := image.ParseSpec(b); err == nil && t.o.Images.Holds(spec) {
			t.remember(id, spec)
			return spec, nil
		}
	}
	return spec, notExist(".neurodeskfs/images/" + id)
}

// imageIDs lists the images that were named since the mount.
func (t *Tree) imageIDs(context.Context) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.specs)), nil
}

// imageChild is M/.neurodeskfs/images/HASH. An unknown hash may be that of an
// image that the index has not read yet.
func (t generation) imageChild(ctx context.Context, id string) (volume.Child, error) {
	_, err := t.Spec(id)
	if errors.Is(err, iofs.ErrNotExist) {
		if spec, ok := t.index.image(ctx, id); ok {
			t.remember(id, spec)
			err = nil
		}
	}
	if err != nil {
		return volume.Child{}, err
	}
	return t.dir(".neurodeskfs/images/" + id)
}

// imageDir is M/.neurodeskfs/images/HASH.
func (t generation) imageDir(id string) directory {
	return directory{
		names: func(context.Context) ([]string, error) { return []string{"rootfs", "image.sif"}, nil },
		child: func(ctx context.Context, name string) (volume.Child, error) {
			spec, err := t.Spec(id)
			switch {
			case err != nil:
				return volume.Child{}, err
			case name == "rootfs":
				return t.o.Images.Root(ctx, id, spec)
			case name == "image.sif" && spec.Kind == image.KindBlob:
				return t.o.Images.Whole(id, spec), nil
			case name == launch.ContentFile: // not among the names: whoever asks has it read to its end
				sum, err := t.o.Images.ContentHash(ctx, spec)
				if err != nil {
					return volume.Child{}, err
				}
				return t.file(".neurodeskfs/images/"+id+"/"+name, 0o644, time.Unix(0, spec.MTime), []byte(sum+"\n"))
			}
			return volume.Child{}, notExist(name)
		},
		absent: volume.Forever,
	}
}
