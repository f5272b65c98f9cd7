package tree

import (
	"context"
	"slices"
	"strings"
	"time"
)

// seen is the revision that had an image first, as far as is known since this
// worker began. The tree's files tell it, and when it was made: they stay the same,
// with their numbers in the node table, for as long as the image does.
type seen struct {
	id        string // what the image was; "": nobody asked
	revision  uint64
	published time.Time
}

// first is what was seen of m first. Nobody need have asked for m: then it is taken
// for what it was, for what is shown of it tells of no content.
func (m *img) first() seen {
	if f := m.former; f != nil && (!m.known() || f.id != "" && f.id == m.info.ImageID) {
		return *f
	}
	return seen{revision: m.revision, published: m.published}
}

// inherit takes over what the older index knows of the very same content: of a
// silent image, whose content is not known before somebody asks, when it was seen.
// It is for the one that lists.
func (x *index) inherit(m *img) {
	if x.old == nil || m.silent && m.revision == 0 {
		return
	}
	x.old.mu.Lock()
	defer x.old.mu.Unlock()
	i := slices.IndexFunc(x.old.byApp[m.app], func(o *img) bool {
		if m.silent {
			return o.silent && o.source == m.source && o.build() == m.build()
		}
		return o.key == m.key
	})
	if i < 0 {
		return
	}
	o := x.old.byApp[m.app][i]
	if m.silent {
		m.former = x.formerOf(o)
		return
	}
	m.revision, m.published = o.revision, o.published
	if o.known() && !o.info.unusable() {
		m.info = o.info
		close(m.ready)
	}
}

// formerOf is what the silent image o of the older index was. There may be 100,000
// that nobody has asked for: they share one.
func (x *index) formerOf(o *img) *seen {
	f := o.first()
	switch {
	case o.known():
		f.id = o.info.ImageID
		return &f
	case o.former != nil:
		return o.former
	case x.unseen == nil || *x.unseen != f:
		x.unseen = &f
	}
	return x.unseen
}

// signSilent is the sign of a file that tells what a silent image is. While nobody
// has asked for one of a repository, no file does, and it need not be looked at.
func (x *index) signSilent(ctx context.Context, m *img) (string, error) {
	named := m.build() + "\x00" + m.place
	if m.revision != 0 && !m.known() && m.first().id == "" {
		return named, nil
	}
	info, err := x.await(ctx, m)
	if err != nil {
		return "", err
	}
	return strings.Join([]string{named, info.ImageID, info.Host, m.shut()}, "\x00"), nil
}
