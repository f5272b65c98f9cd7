package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// tool is a command of the golden Neurodesk repository.
type tool struct {
	name    string
	args    []string
	image   string // path in the repository
	program string // path in the image
	says    string // in its output
	// What the reference client fetched for its first start, in bytes: what the
	// tool reads, objects as stored.
	needs float64
	// Aims at 100 ms, in seconds: the first start ever, and with a trace.
	first, traced float64
}

var tools = []tool{
	{name: "pytool", image: "containers/pytools_3.11_20240601/pytools_3.11_20240601.simg", says: "58 modules", needs: 6.5e6, first: 5, traced: 1.2},
	{name: "mrinfo", args: []string{"image.nii"}, image: "containers/mrtrix3_3.0.3_20240515/mrtrix3_3.0.3_20240515.simg",
		program: "/opt/mrtrix3-3.0.3/bin/mrinfo", says: "32 x 32 x 8", needs: 5.3e6, first: 1.5, traced: 0.7},
}

// aimedDelay is the round trip that aims are about.
const aimedDelay = 100 * time.Millisecond

func (b *bench) delays() []time.Duration {
	if b.quick {
		return []time.Duration{0, aimedDelay}
	}
	return []time.Duration{0, 20 * time.Millisecond, 50 * time.Millisecond, aimedDelay, 200 * time.Millisecond}
}

// start is what one start of a tool took.
type start struct {
	cold            float64 // seconds
	bytes, requests int64
}

// samples puts the golden sample files where the tools run.
func (b *bench) samples() error {
	files, err := filepath.Glob(filepath.Join(b.golden, "neurodesk/samples/*.*"))
	if err != nil {
		return err
	}
	return b.copyFiles(b.scratch, files...)
}

// conditions are those of a cold start.
type conditions struct {
	rtt               time.Duration
	traceIn, traceOut string // files: what the mount shall know; where to put what it recorded
	serial            bool   // one thing after another
}

// coldStart mounts with an empty cache, waits for the index, and runs the tool.
func (b *bench) coldStart(ctx context.Context, s *site, t tool, c conditions) (st start, err error) {
	server, err := b.behind(s, c.rtt)
	if err != nil {
		return st, err
	}
	m, err := b.mount(ctx, s, mountOptions{server: server, serial: c.serial})
	if err != nil {
		return st, err
	}
	if err := m.indexed(ctx); err != nil {
		return st, err
	}
	if c.traceIn != "" {
		if _, err := b.run(ctx, b.program("neurodeskfs"), "trace", "import", "--mount", m.dir, c.traceIn); err != nil {
			return st, err
		}
	}
	s.server.Reset()
	command := filepath.Join(m.dir, "bin", t.name)
	if st.cold, err = b.timed(ctx, t.says, command, t.args...); err != nil {
		return st, err
	}
	counted := s.server.Stats()
	st.bytes, st.requests = counted.Bytes, int64(counted.Requests)
	if c.traceOut != "" {
		if _, err := b.run(ctx, b.program("neurodeskfs"), "trace", "export", "--mount", m.dir, c.traceOut); err != nil {
			return st, err
		}
	}
	if _, err := m.healthy(ctx); err != nil {
		return st, err
	}
	return st, m.drop(ctx)
}

// benchCold measures the first start of each tool at each delay.
func benchCold(ctx context.Context, b *bench) error {
	s, err := b.goldenSite()
	if err != nil {
		return err
	}
	if err := b.samples(); err != nil {
		return err
	}
	var errs []error
	for _, t := range tools {
		if err := b.coldTool(ctx, s, t); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.name, err))
		}
	}
	return errors.Join(append(errs, b.atOnce(ctx, s, tools[0]))...)
}

// coldTool makes the rows and the panel of one tool.
func (b *bench) coldTool(ctx context.Context, s *site, t tool) error {
	panel := plot{title: t.name + ": cold start over round trip time", x: "round trip, ms", y: "s"}
	ours, traced, peer := series{name: "first start"}, series{name: "with a trace"}, series{dashed: true}
	trace := filepath.Join(b.scratch, t.name+".trace")
	if _, err := b.coldStart(ctx, s, t, conditions{traceOut: trace}); err != nil {
		return err
	}
	for _, rtt := range b.delays() {
		at := float64(rtt.Milliseconds())
		name, figures, err := b.referenceStart(ctx, s, t, rtt)
		if err != nil {
			return err
		}
		peer.name = name
		peer.add(at, median(figures))
		for _, kind := range []struct {
			name  string
			trace string
			line  *series
			aims  []*goal
		}{
			{"first", "", &ours, []*goal{atMost("ours", t.first)}},
			{"trace", trace, &traced, []*goal{atMost("ours", t.traced), atMost("bytes", 1.1*t.needs)}},
		} {
			runs, last, err := b.coldRounds(ctx, s, t, conditions{rtt: rtt, traceIn: kind.trace})
			if err != nil {
				return err
			}
			row := b.add(fmt.Sprintf("%s %dms %s", t.name, rtt.Milliseconds(), kind.name), "s").
				ours(runs...).against(name, figures...).fetched(last.bytes, last.requests)
			if rtt == aimedDelay {
				row.aim(kind.aims...)
			}
			kind.line.add(at, row.Ours)
		}
	}
	panel.lines = []series{peer, ours, traced}
	b.report.plot("cold.svg", panel)
	return nil
}

func (b *bench) coldRounds(ctx context.Context, s *site, t tool, c conditions) (cold []float64, last start, err error) {
	for range b.rounds(1, 3) {
		if last, err = b.coldStart(ctx, s, t, c); err != nil {
			return nil, last, err
		}
		cold = append(cold, last.cold)
	}
	return cold, last, nil
}

// referenceStart is the same start with the reference client, or with what stands
// in for it: our own client that fetches one thing after another. It is measured
// once: nearly all of its time is spent waiting.
func (b *bench) referenceStart(ctx context.Context, s *site, t tool, rtt time.Duration) (name string, figures []float64, err error) {
	if !b.hasReference() {
		st, err := b.coldStart(ctx, s, t, conditions{rtt: rtt, serial: true})
		return "serial", []float64{st.cold}, err
	}
	server, err := b.behind(s, rtt)
	if err != nil {
		return "", nil, err
	}
	took, err := b.referenceRun(ctx, s, server, func(dir string) (float64, error) {
		return b.timed(ctx, t.says, "apptainer", append([]string{"exec", "--cleanenv", filepath.Join(dir, t.image), t.name}, t.args...)...)
	})
	return "cvmfs2", []float64{took}, err
}

// atOnce measures what somebody sees who mounts and types a command at once: the
// mount, the index and the start.
func (b *bench) atOnce(ctx context.Context, s *site, t tool) error {
	var runs []float64
	var bytes, requests int64
	for range b.rounds(1, 3) {
		server, err := b.behind(s, aimedDelay)
		if err != nil {
			return err
		}
		s.server.Reset()
		started := time.Now()
		m, err := b.mount(ctx, s, mountOptions{server: server})
		if err != nil {
			return err
		}
		// A shell starts it, for whoever forks stands still until the program was found,
		// and the server that this takes is in this process.
		words := append([]string{"-c", `exec "$0" "$@"`, filepath.Join(m.dir, "bin", t.name)}, t.args...)
		if _, err := b.timed(ctx, t.says, "/bin/sh", words...); err != nil {
			return err
		}
		runs = append(runs, time.Since(started).Seconds())
		counted := s.server.Stats()
		bytes, requests = counted.Bytes, int64(counted.Requests)
		if err := m.drop(ctx); err != nil {
			return err
		}
	}
	b.add("mount+"+t.name+" 100ms", "s").ours(runs...).fetched(bytes, requests)
	return nil
}
