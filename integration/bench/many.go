package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// benchMany starts the same cold tool many times at once, behind 100 ms: in
// bubblewrap, which costs hardly more than the tool, and by apptainer, whose own
// start keeps the processors busy.
func benchMany(ctx context.Context, b *bench) error {
	s, err := b.goldenSite()
	if err != nil {
		return err
	}
	if err := b.samples(); err != nil {
		return err
	}
	t := tools[1]
	kinds := []kind{
		{"bwrap", []string{"dev", "proc", "tmp"}, func(m *mounted) []string { return append(bwrapWords(m.raw(t.image), t.program), t.args...) }},
		{"apptainer", nil, func(m *mounted) []string { return append([]string{filepath.Join(m.dir, "bin", t.name)}, t.args...) }},
	}
	panel := plot{title: t.name + ": many starts at once, round trip 100 ms", x: "processes", y: "s"}
	for _, k := range kinds {
		if !b.has(k.name) {
			continue
		}
		cold, warm, err := b.manyStarts(ctx, s, t, k)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		panel.lines = append(panel.lines, cold, warm)
	}
	b.report.plot("many.svg", panel)
	return nil
}

// kind is a way to start a tool, by the program of that name.
type kind struct {
	name string
	// known are names in the image's root that are looked up before. On a busy machine
	// bwrap said now and then "Can't bind mount /oldroot/dev/null". As far as its source
	// tells, fuse_lookup since Linux 6.16 shows a name to others before it has noted the
	// name's epoch (d_time), and whoever comes between takes the name for outdated and
	// detaches what is mounted there. The launcher looks the names up before bwrap does.
	known []string
	words func(m *mounted) []string
}

// manyStarts measures one kind of start for each number of processes, and makes
// the rows of the largest.
func (b *bench) manyStarts(ctx context.Context, s *site, t tool, k kind) (cold, warm series, err error) {
	cold, warm = series{name: k.name + ", cold"}, series{name: k.name + ", warm", dashed: true}
	numbers := []int{1, 4, 16, 64}
	if b.quick {
		numbers = []int{1, 64}
	}
	var first, last together
	for _, n := range numbers {
		rounds := 1 // for the plot
		if n == 1 || n == 64 {
			rounds = b.rounds(1, 3)
		}
		if last, err = b.togetherRounds(ctx, s, t, n, rounds, k); err != nil {
			return cold, warm, err
		}
		if n == 1 {
			first = last
		}
		cold.add(float64(n), median(last.cold))
		warm.add(float64(n), median(last.warm))
	}
	n := numbers[len(numbers)-1]
	row := b.add(fmt.Sprintf("%d %s, cold", n, k.name), "s").ours(last.cold...).against("one", first.cold...).fetched(last.bytes, last.requests)
	if k.name == "bwrap" {
		row.aim(atMost("ratio", 1.5))
	}
	b.add(fmt.Sprintf("%d %s, warm", n, k.name), "s").ours(last.warm...).against("one", first.warm...)
	b.add(k.name+", doubles", "").ours(float64(last.twice)).aim(atMost("ours", 0))
	return cold, warm, nil
}

// together is what n starts at once took, cold and then warm.
type together struct {
	cold, warm      []float64
	bytes, requests int64
	twice           int // objects asked for more than once, the most of all rounds
}

func (b *bench) togetherRounds(ctx context.Context, s *site, t tool, n, rounds int, k kind) (all together, err error) {
	for range rounds {
		server, err := b.behind(s, aimedDelay)
		if err != nil {
			return all, err
		}
		m, err := b.mount(ctx, s, mountOptions{server: server})
		if err != nil {
			return all, err
		}
		if err := m.indexed(ctx); err != nil {
			return all, err
		}
		for _, name := range k.known {
			if _, err := b.run(ctx, "stat", filepath.Join(m.raw(t.image), name)); err != nil {
				return all, err
			}
		}
		s.server.Reset()
		command := k.words(m)
		took, err := b.atTheSameTime(ctx, n, t.says, command)
		if err != nil {
			return all, err
		}
		counts := s.server.Stats()
		all.bytes, all.requests = counts.Bytes, int64(counts.Requests)
		times := map[string]int{}
		asked := objects(s.server.Requests())
		for _, o := range asked {
			times[o]++
		}
		all.twice = max(all.twice, len(asked)-len(times))
		all.cold = append(all.cold, took)
		if took, err = b.atTheSameTime(ctx, n, t.says, command); err != nil {
			return all, err
		}
		all.warm = append(all.warm, took)
		if _, err := m.healthy(ctx); err != nil {
			return all, err
		}
		if err := m.drop(ctx); err != nil {
			return all, err
		}
	}
	return all, nil
}

// atTheSameTime starts a command n times and returns the seconds until the last
// has ended.
func (b *bench) atTheSameTime(ctx context.Context, n int, says string, words []string) (float64, error) {
	errs := make([]error, n)
	var wait sync.WaitGroup
	started := time.Now()
	for i := range n {
		wait.Go(func() { _, errs[i] = b.timed(ctx, says, words[0], words[1:]...) })
	}
	wait.Wait()
	took := time.Since(started).Seconds()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}
