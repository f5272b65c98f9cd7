package tree

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/image"
)

// maxText bounds commands.txt, env.txt and the like, bytes.
const maxText = 4 << 20

// Info is what is known of an image from its container's directory. It is
// derived from content, so it is kept by that content's hash.
type Info struct {
	Published bool       `json:"published"`         // commands.txt is there
	Retired   bool       `json:"retired,omitempty"` // the image is gone, its commands are still listed
	Commands  []Command  `json:"commands,omitempty"`
	ImageID   string     `json:"image,omitempty"`
	Spec      image.Spec `json:"spec,omitzero"`
	Host      string     `json:"host,omitempty"` // the root tree, where it is a directory of the host
}

// unusable reports whether the image was refused before it was known by its content.
func (i *Info) unusable() bool { return i.Published && !i.Retired && i.ImageID == "" }

// Command is one exposed command.
type Command struct {
	Name string `json:"name"`
	Path string `json:"path,omitempty"` // in the image, where commands.txt says it
}

// Memo is where the tree remembers what it found out. It may forget at any time.
// Safe for concurrent use.
type Memo interface {
	cvmfs.Memo
	// Each calls fn for all of a bucket.
	Each(bucket string, fn func(key string, value []byte))
}

// infoMemo is the memo's bucket of Infos, by the content of the container's directory.
const infoMemo = "index"

// maxGone is how many Infos of images that are gone are remembered, of about 1 KB each.
const maxGone = 4096

// forgetGone has the memo forget the images of earlier revisions when they are too
// many: years have thousands. Those of old, the index before, stay, so that a source
// that goes back to it has nothing to read anew. Another process on the same cache,
// at another revision, reads its own anew.
func (x *index) forgetGone(old *index) {
	named := map[string]bool{}
	for _, i := range []*index{x, old} {
		i.mu.Lock()
		for _, m := range i.order {
			named[m.key] = true
		}
		i.mu.Unlock()
	}
	var gone []string
	x.memo.Each(infoMemo, func(key string, _ []byte) {
		if !named[key] {
			gone = append(gone, key)
		}
	})
	if len(gone) <= maxGone {
		return
	}
	for _, key := range gone {
		x.memo.Put(infoMemo, key, nil)
	}
}

// inspect reads the container's directory, or what is remembered of it.
func (x *index) inspect(ctx context.Context, m *img) (Info, error) {
	if m.silent {
		return x.examine(ctx, m) // its catalogs tell all
	}
	var info Info
	if b, ok := x.memo.Get(infoMemo, m.key); ok && json.Unmarshal(b, &info) == nil {
		return info, nil
	}
	info, err := x.examine(ctx, m)
	if err != nil {
		return Info{}, err
	}
	if b, err := json.Marshal(info); err == nil && m.refused.Load() == nil { // whom it is refused may change
		x.memo.Put(infoMemo, m.key, b)
	}
	return info, nil
}

// examine looks into the container's directory.
func (x *index) examine(ctx context.Context, m *img) (Info, error) {
	if m.silent {
		r, err := m.container.rootfs(ctx)
		if notThere(err) {
			return Info{}, nil
		}
		if errors.Is(err, image.ErrRefused) {
			x.refuse(m, err)
			return Info{Published: true}, nil
		}
		x.images.SeenAt(r.spec)
		return Info{Published: err == nil, ImageID: r.id, Spec: r.spec, Host: r.host}, err
	}
	text, err := m.container.text(ctx, "commands.txt")
	if notThere(err) {
		return Info{}, nil
	}
	if err != nil {
		return Info{}, err
	}
	info := Info{Published: true, Commands: ParseCommands(string(text))}
	r, err := m.container.rootfs(ctx)
	if notThere(err) {
		info.Retired = true
		return info, nil
	}
	if errors.Is(err, image.ErrRefused) {
		x.refused(m, err)
		return info, nil
	}
	x.images.SeenAt(r.spec)
	info.ImageID, info.Spec, info.Host = r.id, r.spec, r.host
	return info, err
}

// ParseCommands reads a commands.txt: each command once, in the order of the
// file. Lines that can be no file name are left out.
func ParseCommands(text string) []Command {
	var list []Command
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		name, path, ok := exposed(line)
		if ok && !seen[name] {
			seen[name] = true
			list = append(list, Command{name, path})
		}
	}
	return list
}

// command finds one of an image's commands.
func command(list []Command, name string) (Command, bool) {
	n := slices.IndexFunc(list, func(c Command) bool { return c.Name == name })
	if n < 0 {
		return Command{}, false
	}
	return list[n], true
}
