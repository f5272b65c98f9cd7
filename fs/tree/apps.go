package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// apps lists the apps' names that have an image that is, or may be, published.
func (x *index) apps(ctx context.Context) ([]string, error) {
	if err := wait(ctx, x.listed); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown(), nil
}

// shown are the apps that stand in M/apps; index.mu is held.
func (x *index) shown() []string {
	var names []string
	for app, list := range x.byApp {
		if anyShown(list) {
			names = append(names, app)
		}
	}
	return names
}

// anyShown reports whether one of the images is, or may be, published.
func anyShown(list []*img) bool {
	return slices.ContainsFunc(list, func(m *img) bool { return !m.known() || m.info.Published })
}

// stands returns nil if an app stands in M/apps. There may be 10,000 of them.
func (x *index) stands(ctx context.Context, app string) error {
	if err := wait(ctx, x.listed); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !anyShown(x.byApp[app]) {
		return notExist("apps/" + app)
	}
	return nil
}

// app returns the published images of an app, newest first, reading them; of one
// version those that can run go before retired ones. Those that cannot be read are
// left out, unless none can: whole is false then. What failed before is left to the
// background.
func (x *index) app(ctx context.Context, name string) (list []*img, whole bool, err error) {
	if err := wait(ctx, x.listed); err != nil {
		return nil, false, err
	}
	x.mu.Lock()
	list = slices.Clone(x.byApp[name])
	x.mu.Unlock()
	errs := make([]error, len(list))
	var g sync.WaitGroup
	for i, m := range list {
		if m.silent {
			continue // it is listed unseen
		}
		g.Go(func() {
			if errs[i] = x.failed(m); errs[i] == nil {
				_, errs[i] = x.await(ctx, m)
			}
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	err = errors.Join(errs...)
	whole = err == nil
	list = slices.DeleteFunc(list, func(m *img) bool { return m.known() && !m.info.Published || !m.silent && !m.known() })
	if slices.ContainsFunc(list, (*img).retired) {
		slices.SortFunc(list, func(a, b *img) int {
			return cmp.Or(-compareNatural(a.version, b.version), order(b.retired(), a.retired()), newerFirst(a.version, a.date, b.version, b.date))
		})
	}
	switch {
	case len(list) > 0 && !whole:
		x.mu.Lock()
		x.partial[name] = true
		x.mu.Unlock()
	case len(list) == 0 && whole:
		return nil, true, fmt.Errorf("app %q: %w", name, iofs.ErrNotExist)
	case len(list) == 0:
		return nil, false, err
	}
	return list, whole, nil
}

// unseenBuild reports whether a build of an app is known by its name only.
func (x *index) unseenBuild(app, build string) bool {
	m := x.named(app, build)
	return m != nil && m.unknown()
}

// named returns a build of an app as it was listed, or nil.
func (x *index) named(app, build string) *img {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := slices.IndexFunc(x.byApp[app], func(m *img) bool { return m.build() == build }); i >= 0 {
		return x.byApp[app][i]
	}
	return nil
}

// find returns one published image of an app, reading no other.
func (x *index) find(ctx context.Context, app, build string) (*img, error) {
	if err := wait(ctx, x.listed); err != nil {
		return nil, err
	}
	m := x.named(app, build)
	absent := fmt.Errorf("image %q of app %q: %w", build, app, iofs.ErrNotExist)
	if m == nil {
		return nil, absent
	}
	if _, err := x.await(ctx, m); err != nil {
		return nil, err
	}
	if !m.info.Published {
		return nil, absent
	}
	return m, nil
}

// image finds an image by its content, waiting, bounded, for the index. A directory of the host is none: it is bound as it is.
func (x *index) image(ctx context.Context, id string) (image.Spec, bool) {
	timer := time.NewTimer(x.patience.unknown)
	defer timer.Stop()
	for {
		all := closed(x.tried) // before the look, which then sees what was read
		x.mu.Lock()
		step := x.step
		var found *img
		if i := slices.IndexFunc(x.order, func(m *img) bool { return m.known() && m.info.ImageID == id && m.info.Host == "" }); i >= 0 {
			found = x.order[i]
		}
		x.mu.Unlock()
		switch {
		case found != nil:
			return found.info.Spec, true
		case all:
			return image.Spec{}, false
		}
		select {
		case <-step:
		case <-x.tried:
		case <-timer.C:
			return image.Spec{}, false
		case <-ctx.Done():
			return image.Spec{}, false
		}
	}
}
