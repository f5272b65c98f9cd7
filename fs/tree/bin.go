package tree

import (
	"context"
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"time"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// patience is how long a look-up in M/bin waits for the index: less for a name
// that some image is known to have than for one that none has so far.
type patience struct{ known, unknown time.Duration }

var usualPatience = patience{2 * time.Second, 10 * time.Second}

// table returns who owns which name among the images read so far. index.mu is
// held; the map is not changed any more.
func (x *index) table() map[string]Owner {
	if x.owners != nil {
		return x.owners
	}
	candidates := map[string][]Candidate{}
	for app, list := range x.byApp {
		pin := x.pins.of(app, list)
		names := map[string]bool{}
		for _, m := range list {
			if !m.silent && m.known() {
				for _, c := range m.info.Commands {
					names[c.Name] = true
				}
			}
		}
		for _, m := range list {
			if m.silent && plausible(app, x.never) {
				candidates[app] = append(candidates[app], Candidate{
					App: app, Version: m.version, Date: m.date, Silent: true, Pinned: m == pin, Commands: max(len(names), 1), image: m,
				})
			}
			if m.silent || !m.known() || !m.info.Published {
				continue
			}
			for _, c := range m.info.Commands {
				if plausible(c.Name, x.never) {
					candidates[c.Name] = append(candidates[c.Name], Candidate{
						App: app, Version: m.version, Date: m.date,
						Retired: m.info.Retired, Pinned: m == pin, Commands: len(names), image: m,
					})
				}
			}
		}
	}
	x.owners = make(map[string]Owner, len(candidates))
	for name, list := range candidates {
		x.owners[name] = own(name, list)
	}
	return x.owners
}

// snapshot returns the owners known now, whether that is all of them, and what
// is closed at the next progress.
func (x *index) snapshot() (owners map[string]Owner, complete bool, step <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.table(), closed(x.all), x.step
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// owner finds who owns name in M/bin. It answers at once where the answer
// cannot change any more: with a complete index, or when the app that has the
// command's own name was read. Else it waits, bounded, and then answers with
// what is known; final says which. Images that failed once are not waited for.
func (x *index) owner(ctx context.Context, name string) (o Owner, final bool, err error) {
	absent := fmt.Errorf("command %q: %w", name, iofs.ErrNotExist)
	if !plausible(name, x.never) {
		return o, true, absent
	}
	known, unknown := time.NewTimer(x.patience.known), time.NewTimer(x.patience.unknown)
	defer known.Stop()
	defer unknown.Stop()
	late := false
	for started := false; ; {
		if !started && closed(x.listed) {
			started = true
			if !closed(x.tried) { // else there is none to begin with, and may be 10,000 apps to look through
				x.hasten(ctx, name)
			}
		}
		all := closed(x.tried) // before the look, which then sees what was read
		owners, complete, step := x.snapshot()
		o, ok := owners[name]
		switch {
		case ok && (complete || x.namesake(o, name)):
			return o, true, nil
		case ok && (all || late):
			return o, false, nil
		case complete || all:
			return o, complete, absent
		}
		listed := x.listed
		if started {
			listed = nil
		}
		select {
		case <-listed:
		case <-step:
		case <-x.tried:
		case <-known.C:
			late = true
		case <-unknown.C:
			return o, false, absent
		case <-ctx.Done():
			return o, false, ctx.Err()
		}
	}
}

// hasten begins to read the apps that have the command's own name.
func (x *index) hasten(ctx context.Context, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for app, list := range x.byApp {
		if !launch.SameName(app, name) {
			continue
		}
		for _, m := range list {
			if m.err == nil && !m.silent {
				x.begin(ctx, m)
			}
		}
	}
}

// namesake reports whether o owns name by having it as its own or by a pin, and whether all
// images that could contest that were read: nothing that the others have can
// change it then.
func (x *index) namesake(o Owner, name string) bool {
	if o.Winner.Retired || !o.Winner.Pinned && !launch.SameName(o.Winner.App, name) || !closed(x.listed) {
		return false
	}
	if x.unlisted() != nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for app := range x.pins { // one of them may take it
		if m := x.pins.of(app, x.byApp[app]); m != nil && !m.silent && !m.known() {
			return false
		}
	}
	for app, list := range x.byApp {
		if launch.SameName(app, name) && slices.ContainsFunc(list, func(m *img) bool { return !m.silent && !m.known() }) {
			return false
		}
	}
	return true
}

// settle waits, bounded, until every image was tried.
func (x *index) settle(ctx context.Context) error {
	timer := time.NewTimer(x.patience.unknown)
	defer timer.Stop()
	select {
	case <-x.tried:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// names lists M/bin, as far as it is known.
func (x *index) names(context.Context) ([]string, error) {
	owners, _, _ := x.snapshot()
	return slices.Sorted(maps.Keys(owners)), nil
}
