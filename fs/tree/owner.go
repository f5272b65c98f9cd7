package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// Candidate is an image that has a command.
type Candidate struct {
	App, Version, Date string
	Retired            bool
	Silent             bool // it has the command by its name only
	Pinned             bool // the site wants this very version of the app
	Commands           int  // how many distinct commands the app exposes
	image              *img
}

// Owner is who a command's name belongs to in M/bin, and why.
type Owner struct {
	Winner Candidate
	Reason string
	Others []Candidate // in the order in which they would follow
}

// own orders the candidates for one command by the rules of who owns a name:
// live before retired; what the site pins; the app that has the command's own name; images that
// list their commands before those that do not; the app that exposes the fewest commands; by name; within the app the newest version that
// has the command, then the newest build. list is not empty.
func own(command string, list []Candidate) Owner {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Candidate) int {
		return cmp.Or(
			order(b.Retired, a.Retired),
			order(a.Pinned, b.Pinned),
			namesakes(command, a.App, b.App),
			order(b.Silent, a.Silent),
			cmp.Compare(a.Commands, b.Commands),
			strings.Compare(a.App, b.App),
			newerFirst(a.Version, a.Date, b.Version, b.Date),
		)
	})
	o := Owner{Winner: list[0], Others: list[1:]}
	o.Reason = reason(command, o)
	return o
}

// namesakes puts the app first that has the command's own name. Most candidates
// are of one app, of which 100,000 need not be spelt out.
func namesakes(command, a, b string) int {
	if a == b {
		return 0
	}
	return order(launch.SameName(a, command), launch.SameName(b, command))
}

// order puts what holds first.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// reason says in words which rule decided.
func reason(command string, o Owner) string {
	w := o.Winner
	var rival *Candidate // the first of another app
	older := false
	for i, c := range o.Others {
		if c.App != w.App {
			rival = &o.Others[i]
			break
		}
		older = true
	}
	switch {
	case w.Retired:
		return "only retired images have it"
	case w.Pinned:
		return "the site pins " + w.App + " to " + launch.BuildName(w.Version, w.Date)
	case rival == nil && older:
		return "the newest version of the only app that has it"
	case rival == nil:
		return "the only image that has it"
	case rival.Retired:
		return "the others are retired"
	case launch.SameName(w.App, command):
		return "the app has the command's own name"
	case w.Commands < rival.Commands:
		return fmt.Sprintf("the app exposes the fewest commands (%d)", w.Commands)
	}
	return "the first app by name"
}
