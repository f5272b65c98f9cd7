package launch

import (
	"strconv"
	"strings"
)

// Exec is what to hand to execve(2).
type Exec struct {
	Path     string
	Argv     []string
	Env      []string
	Warnings []string // one line each, for stderr
	Debug    bool     // NEURODESK_DEBUG: print Line first
	Runtime  string   // its name, for provenance
	removed  []string // variables of the caller that Env lacks
	added    []string // entries of Env that the caller lacks
	feeds    []feed   // bwrap: what its descriptors give, in the order in which it reads them
	feedArgs []int    // bwrap: where in Argv the descriptors' numbers stand
	options  [2]int   // bwrap: where in Argv its options begin, and where they have ended
}

// Line is the command line as one can paste it into a shell: the tool starts in the same way. That of bwrap is for bash.
func (e *Exec) Line() string {
	var b strings.Builder
	if len(e.removed)+len(e.added) > 0 {
		b.WriteString("env ")
	}
	for _, name := range e.removed {
		b.WriteString("-u " + Quote(name) + " ")
	}
	for _, entry := range e.added {
		b.WriteString(Quote(entry) + " ")
	}
	for i, w := range e.shown() {
		if i == 0 {
			w = e.Path
		} else {
			b.WriteByte(' ')
		}
		b.WriteString(Quote(w))
	}
	for _, f := range e.feeds {
		b.WriteString(" " + strconv.Itoa(shownFeed+f.number) + "< <(printf %s " + Quote(string(f.text)) + ")")
	}
	return b.String()
}

// shownFeed is added to the numbers of descriptors in Line, which a shell opens.
const shownFeed = 10

// shown is Argv without the descriptors that only Run serves.
func (e *Exec) shown() []string {
	argv := append([]string{}, e.Argv...)
	drop := map[int]bool{}
	for _, at := range e.feedArgs {
		n, err := strconv.Atoi(argv[at])
		switch {
		case err != nil:
		case n == feedInfo || n == feedBlock:
			drop[at-1], drop[at] = true, true
		case n == feedGate:
			drop[at-1], drop[at], drop[at+1] = true, true, true
		default:
			argv[at] = strconv.Itoa(shownFeed + n)
		}
	}
	var out []string
	for i, w := range argv {
		if !drop[i] {
			out = append(out, w)
		}
	}
	return out
}

// compare finds what Line has to say about the environment.
func (e *Exec) compare(host []string) {
	before, names := map[string]bool{}, map[string]bool{}
	for _, entry := range host {
		before[entry] = true
	}
	for _, entry := range e.Env {
		name, _, _ := strings.Cut(entry, "=")
		names[name] = true
		if !before[entry] {
			e.added = append(e.added, entry)
		}
	}
	for _, entry := range host {
		if name, _, _ := strings.Cut(entry, "="); !names[name] {
			e.removed = append(e.removed, name)
		}
	}
}
