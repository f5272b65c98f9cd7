package tree

// pins are the site's: for an app the name in M/apps/APP, a version or VERSION_DATE, of the image that its commands in bin
// and its default are to be of. They go before all other rules; a pin on what is not there counts for nothing.
type pins map[string]string

// of finds the pinned image of an app in the list of its images, newest first; nil if there is none. Of a version it is
// one that can run, if any does.
func (p pins) of(app string, list []*img) (pinned *img) {
	want, ok := p[app]
	if !ok {
		return nil
	}
	for _, m := range list {
		if (m.build() == want || m.version == want) && (pinned == nil || pinned.retired() && !m.retired()) {
			pinned = m
		}
	}
	return pinned
}

// Pinned is a site's pin in index.json.
type Pinned struct {
	App     string `json:"app"`
	Version string `json:"version"` // as configured
	Build   string `json:"build"`   // what that is; "": nothing
}
