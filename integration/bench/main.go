// Command bench (make bench) measures the file system against what people use
// instead, on this machine and in one run:
//
//	make bench                   all cases
//	make bench CASE=hot,launch   some of them
//	make bench QUICK=1           fewer rounds, smaller data, fewer delays
//	make bench FULL=1            1 GB and 1,000,000 entries where it is 256 MB and 100,000
//
// It prints a table and writes bench/results.json, bench/cold.svg and
// bench/many.svg. Rounds of the ways that are compared alternate; the table has
// their medians, and the ratio of the medians. What is not here, or a case that
// cannot run, is named.
//
// Absolute times are this machine's. Ratios and counts are what an aim is about;
// where one is missed, the bench says so and still ends with status 0. It ends
// with 1 when a case failed, and takes away its mounts, processes and files
// whatever happens.
//
// # How
//
// Servers are in process, on the loopback interface. Delay is made by a TCP
// proxy (package delay), the same for every client. As root, mounts and tools
// run as an ordinary user if the machine allows it, for such are the users.
//
// A cold start has an empty cache, a new mount, and an index of commands that is
// complete: the first look-up is a case of its own. Where there is no cvmfs2, the
// peer "serial" stands in for it: our own client, told to fetch nothing before it
// is asked for (NEURODESKFS_SERIAL), with neither look-ahead nor prediction nor
// trace. It needs 20.5 s for a cold pytool at 100 ms and 3.4 s for mrinfo, where
// cvmfs2 2.12 was seen to need 20.1 and 3.4. A mount and its first command as one
// are a line, too.
//
// The last column has an aim, and whether it is met: of our figure, of the ratio
// (x), of the bytes (kB, MB) or of the requests (r).
//
// # Settings
//
// NEURODESKFS_GOLDEN is the folder of test data, default ../shared/golden. PPROF
// (127.0.0.1:6060) is given to each daemon as --pprof. BENCH_CVMFS2_CONFIG is a
// file with settings for cvmfs2, if that is in PATH; server, key and cache are
// added.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// errStopped is the cause when a signal ends the run.
var errStopped = errors.New("stopped")

// benchCase is one group of measurements.
type benchCase struct {
	name, what string
	needs      []string // commands, or "golden"
	run        func(context.Context, *bench) error
}

var cases = []benchCase{
	{"hot", "what the kernel has seen before", nil, benchHot},
	{"images", "all files of a squashfs image", []string{"mksquashfs"}, benchImages},
	{"requests", "FUSE requests of a second pass", nil, benchRequests},
	{"launch", "a command through M/bin", []string{"golden data", "apptainer"}, benchLaunch},
	{"cold", "the first start of a tool", []string{"golden data", "apptainer"}, benchCold},
	{"large", "a cold sequential read", nil, benchLarge},
	{"find", "a walk over many entries", nil, benchFind},
	{"lookup", "the first look-up in M/bin", nil, benchLookup},
	{"many", "cold starts at once", []string{"golden data"}, benchMany},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerWord {
		os.Exit(worker(os.Args[2:]))
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { cancel(fmt.Errorf("%w by %v", errStopped, <-signals)) }()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a reader that leaves must not keep us from cleaning up

	chosen, err := choose(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	b, err := newBench(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	err = b.runAll(ctx, chosen)
	err = errors.Join(err, b.cleanUp())
	if errors.Is(context.Cause(ctx), errStopped) {
		fmt.Fprintln(os.Stderr, "bench:", context.Cause(ctx))
		return 130
	}
	err = errors.Join(err, b.report.publish(os.Stdout, filepath.Join(b.root, "bench")))
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench: FAILED:", err)
		return 1
	case len(b.report.Failed) > 0:
		return 1
	}
	return 0
}

// choose finds the cases by name; none named is all.
func choose(args []string) ([]benchCase, error) {
	var names, known []string
	for _, a := range args {
		names = append(names, strings.FieldsFunc(a, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	for _, c := range cases {
		known = append(known, c.name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("there is no case %q; there are %s", n, strings.Join(known, ", "))
		}
	}
	if len(names) == 0 {
		names = known
	}
	var list []benchCase
	for _, c := range cases {
		if slices.Contains(names, c.name) {
			list = append(list, c)
		}
	}
	return list, nil
}

// caseTimeout bounds each case.
func (b *bench) caseTimeout() time.Duration {
	if b.full {
		return 30 * time.Minute
	}
	return 10 * time.Minute
}

func (b *bench) runCase(ctx context.Context, c benchCase) error {
	limit := b.caseTimeout()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no end after %v", limit))
	defer cancel()
	return c.run(ctx, b)
}

// runAll runs the cases one after another. One that fails does not keep the
// others from running; what it left is taken away first.
func (b *bench) runAll(ctx context.Context, list []benchCase) error {
	for _, c := range list {
		if why := b.lacks(c.needs); why != "" {
			b.report.skip(c.name, why)
			continue
		}
		started := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s: %s\n", c.name, c.what)
		b.current = c.name
		err := b.runCase(ctx, c)
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w%s", err, b.daemonLog())
		}
		if err := errors.Join(err, b.empty()); err != nil && ctx.Err() == nil {
			b.report.fail(c.name, err)
		}
		if err := b.newScratch(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // run names the cause
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %.0f s\n", c.name, time.Since(started).Seconds())
	}
	return nil
}
