package tree

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// catalogue is what a repository's own lists say of its images. The zero value
// says nothing.
type catalogue struct {
	byImage map[string][]string // categories, by the container's name, of log.txt
	byApp   map[string][]string // categories, by the app's name, of apps.json
	apps    map[string]listedApp
	args    map[string][]string // options of the runtime, by the container's name, of apps.json
}

// Where Neurodesk's repositories keep their lists.
const (
	appsFile = "/neurocommand/neurodesk/apps.json"
	logFile  = "/neurocommand/cvmfs/log.txt"
)

// catalogue reads the lists of a source once for each index. What is not there,
// or cannot be understood, says nothing.
func (x *index) catalogue(ctx context.Context, source string) (*catalogue, error) {
	x.mu.Lock()
	c := x.catalogues[source]
	x.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c = &catalogue{}
	for _, s := range x.stores {
		if s.name() != source {
			continue
		}
		apps, err := s.document(ctx, appsFile)
		if err != nil && !notThere(err) {
			return nil, err
		}
		log, err := s.document(ctx, logFile)
		if err != nil && !notThere(err) {
			return nil, err
		}
		c.byImage = parseLog(string(log))
		if len(apps) > 0 {
			if err := c.parseApps(apps); err != nil {
				x.log.Warn("a repository's list of apps cannot be read", "source", source, "file", appsFile, "err", err)
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.catalogues[source] = c
	return c, nil
}

// categories of an image, sorted.
func (c *catalogue) categories(m *img) []string {
	if list := c.byImage[m.dir]; len(list) > 0 {
		return list
	}
	return c.byApp[m.app]
}

// parseLog reads log.txt: `IMAGE categories:CATEGORY,CATEGORY,` in each line.
func parseLog(log string) map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(log) {
		name, list, ok := strings.Cut(strings.TrimSpace(line), " categories:")
		if ok {
			m[name] = cleanCategories(strings.Split(list, ","))
		}
	}
	return m
}

// optionsOf reads one entry "NAME VERSION", whose "version" is the build date: which container it is of, and the options
// that the runtime is to be given for it. An entry that is written otherwise has none.
func optionsOf(key string, e listedEntry) (container string, args []string) {
	name, version, ok := cutLast(key, " ")
	if !ok {
		return "", nil
	}
	args = slices.DeleteFunc(slices.Clone(e.Args), func(arg string) bool { return arg == "" || strings.ContainsRune(arg, 0) })
	return name + "_" + version + "_" + e.Version, args
}

// options are what the lists of m's source want the runtime to be given. They are read once for each index, while the
// sources are listed; lists that cannot be read want nothing.
func (x *index) options(m *img) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.catalogues[m.source]; c != nil {
		return c.args[m.dir]
	}
	return nil
}

// readCatalogues reads the lists of all sources that have any.
func (x *index) readCatalogues() {
	var g sync.WaitGroup
	for _, s := range x.stores {
		switch s.(type) {
		case repoStore, hostStore:
			g.Go(func() {
				if _, err := x.catalogue(x.ctx, s.name()); err != nil && x.ctx.Err() == nil {
					x.log.Warn("a repository's lists cannot be read: options of single images are not known", "source", s.name(), "err", err)
				}
			})
		}
	}
	g.Wait()
}

// cleanCategories are the names in a list: one line each, sorted, each once.
func cleanCategories(list []string) []string {
	var names []string
	for _, name := range list {
		if name = strings.Join(strings.Fields(text(name)), " "); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
