package main

import (
	"io"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// hosts notes the servers of a source.
func (src *SourceStatus) hosts(net fetch.Stats) {
	for _, h := range net.Hosts {
		src.Hosts = append(src.Hosts, HostStatus{h.URL, h.Current, h.Errors, h.LastError})
	}
}

// printHost says which server is asked.
func (src SourceStatus) printHost(out io.Writer) {
	for i, h := range src.Hosts {
		if h.Current {
			row(out, "  server", "%s (%d of %d)", h.URL, 1+i, len(src.Hosts))
		}
	}
}
