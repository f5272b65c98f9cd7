package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/image"
	"github.com/neurodesk/neurodeskfs/fs/trace"
)

// traceRequest is what the trace commands ask of a daemon.
type traceRequest struct {
	Image   string          `json:"image,omitempty"`   // record, replay
	Command string          `json:"command,omitempty"` // record, replay
	File    json.RawMessage `json:"file,omitempty"`    // import: as trace.Format writes it
}

// openTraces makes the book of traces.
func (d *daemon) openTraces(cfg *config.Config) error {
	o := trace.Options{
		Keep: memo{d.disk}, Images: d.images, Logger: d.log,
		Lost: func() int64 { return d.disk.Stats().Evictions },
	}
	if cfg.Traces != "" {
		site := traceSite{at: strings.TrimRight(cfg.Traces, "/")}
		if !filepath.IsAbs(site.at) {
			var err error
			if site.net, err = fetch.New(fetch.Config{Proxies: cfg.Proxies(), UserAgent: userAgent, Logger: d.log}); err != nil {
				return fmt.Errorf("traces: %w", err)
			}
			d.traceNet = site.net
		}
		o.Site = site.file
	}
	d.traces = trace.New(o)
	return nil
}

// announced is told by the tree of what a launcher is about to start.
func (d *daemon) announced(id string, spec image.Spec, command string) {
	if repo := d.images.Repository(spec); repo != nil {
		d.traces.Started(repo, id, command)
	}
}

// traceSite is where a site keeps traces for all its nodes: one file for each
// image, IMAGE.json, in a directory or below a URL.
type traceSite struct {
	at  string
	net *fetch.Client // for a URL
}

// file returns the site's file for an image, nil if there is none.
func (s traceSite) file(ctx context.Context, id string) ([]byte, error) {
	if s.net == nil {
		return readTraces(filepath.Join(s.at, id+".json"))
	}
	var text []byte
	err := s.net.Get(ctx, fetch.Request{URL: s.at + "/" + id + ".json", Limit: trace.MaxFile, Accept: func(_ context.Context, body io.Reader) (err error) {
		text, err = io.ReadAll(body)
		return err
	}})
	if errors.Is(err, fetch.ErrNotFound) {
		return nil, nil
	}
	return text, err
}

// readTraces reads a file that may not be there.
func readTraces(file string) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, trace.MaxFile+1))
}

// traceOperation carries out one of the trace requests.
func (d *daemon) traceOperation(ctx context.Context, r controlRequest, progress func(step)) (controlAnswer, error) {
	switch r.Do {
	case "trace export":
		text, err := trace.Format(d.traces.Traces())
		return controlAnswer{Data: text}, err
	case "trace import":
		list, err := trace.Parse(r.Trace.File)
		if err == nil {
			err = d.traces.Import(list)
		}
		return controlAnswer{Text: fmt.Sprintf("%d traces\n", len(list))}, err
	case "trace record":
		repo, err := d.traced(r.Trace)
		if err != nil {
			return controlAnswer{}, err
		}
		d.traces.Record(repo, r.Trace.Image, r.Trace.Command)
		return controlAnswer{}, nil
	case "trace replay":
		repo, err := d.traced(r.Trace)
		if err != nil {
			return controlAnswer{}, err
		}
		tell := paced(progress)
		done, err := d.traces.Replay(ctx, repo, r.Trace.Image, r.Trace.Command, func(p cvmfs.Prefetched, of int) {
			tell(step{Checked: p.Objects, Objects: of, Bytes: p.Bytes})
		})
		return answerOr(done, err)
	}
	return controlAnswer{}, fmt.Errorf("the daemon (version %s) does not know the request %q", version, r.Do)
}

// traced finds the repository of the image that a request is about.
func (d *daemon) traced(r *traceRequest) (*cvmfs.Repository, error) {
	spec, err := d.tree.Spec(r.Image)
	if err != nil {
		return nil, fmt.Errorf("the mount does not know the image %.60q (any more)", r.Image)
	}
	repo := d.images.Repository(spec)
	if repo == nil {
		return nil, errors.New("the image lies on this machine: it needs no trace")
	}
	return repo, nil
}
