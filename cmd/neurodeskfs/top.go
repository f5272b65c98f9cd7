package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// topFlags are the flags of top.
type topFlags struct {
	interval time.Duration
	count    int
	json     bool
}

func newTop() *cobra.Command {
	var f topFlags
	c := &cobra.Command{
		Use:   "top [MOUNTPOINT]",
		Short: "Show the status of a mount live, with rates",
		Long: `Shows what status shows, again and again, and above it what happened since the
time before: bytes and requests a second, cache hits, kernel requests. On a
terminal it draws over itself until ^C; elsewhere each look is one line.`,
		Example: "  neurodeskfs top ~/neurodesk\n  neurodeskfs top --interval 10s --count 6 > rates.txt",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if f.interval < 100*time.Millisecond {
				return failf(exitUsage, "--interval is %s: it must be at least 100ms", f.interval)
			}
			return f.watch(c, optional(args))
		},
	}
	c.Flags().DurationVar(&f.interval, "interval", 2*time.Second, "`TIME` between two looks, at least 100ms")
	c.Flags().IntVar(&f.count, "count", 0, "end after `N` looks; 0: at ^C")
	c.Flags().BoolVar(&f.json, "json", false, "print each look as one line of JSON")
	return c
}

// watch looks until ^C, or as often as was asked for.
func (f topFlags) watch(c *cobra.Command, named string) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	look := func(m string) (Status, error) { // a mount that hangs keeps nobody from ^C
		return within(ctx, mountPatience, func() (Status, error) { return readStatus(m) })
	}
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	out := c.OutOrStdout()
	live := !f.json && isTerminal(out)
	before, err := look(named)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	if !live && !f.json {
		fmt.Fprintln(out, rateHead)
	}
	for n := 0; f.count == 0 || n < f.count; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := look(before.Mountpoint)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.show(out, ratesBetween(before, now), now, live); err != nil {
			return err
		}
		before = now
	}
	return nil
}

func (f topFlags) show(out io.Writer, r rates, now Status, live bool) error {
	var b bytes.Buffer
	switch {
	case f.json:
		return json.NewEncoder(out).Encode(r)
	case live:
		b.WriteString("\x1b[H\x1b[J") // to the upper left corner, and clear from there
		fmt.Fprintf(&b, "%s\n%s\n\n", rateHead, r)
		if err := now.print(&b); err != nil {
			return err
		}
	default:
		fmt.Fprintln(&b, r)
	}
	_, err := out.Write(b.Bytes())
	return err
}

// rates is what a mount did between two looks, a second.
type rates struct {
	Time     time.Time `json:"time"`
	Bytes    float64   `json:"http_bytes_per_s"`
	Requests float64   `json:"http_requests_per_s"`
	Errors   float64   `json:"http_errors_per_s"`
	InFlight int       `json:"http_in_flight"`
	Kernel   float64   `json:"fuse_requests_per_s"`
	Hits     float64   `json:"cache_hits_per_s"`
	Misses   float64   `json:"cache_misses_per_s"`
	Used     int64     `json:"cache_used_bytes"`
	RSS      uint64    `json:"memory_rss_bytes"`
}

const rateHead = "time       fetched/s requests/s errors/s in flight kernel/s hit rate     memory"

// ratesBetween compares two looks. A counter that fell, as it does when another
// daemon has taken over, counts as having begun at zero.
func ratesBetween(before, now Status) rates {
	seconds := max(now.Uptime-before.Uptime, 0.001)
	if now.Uptime < before.Uptime {
		seconds = max(now.Uptime, 0.001)
	}
	rate := func(a, b uint64) float64 {
		if b < a {
			a = 0
		}
		return float64(b-a) / seconds
	}
	sum := func(s Status, of func(SourceStatus) uint64) (n uint64) {
		for _, src := range s.Sources {
			n += of(src)
		}
		return n
	}
	http := func(of func(SourceStatus) uint64) float64 { return rate(sum(before, of), sum(now, of)) }
	r := rates{
		Time:     time.Now().UTC(),
		Bytes:    http(func(s SourceStatus) uint64 { return s.HTTPBytes }),
		Requests: http(func(s SourceStatus) uint64 { return s.HTTPRequests }),
		Errors:   http(func(s SourceStatus) uint64 { return s.HTTPErrors }),
		Kernel:   rate(before.Fuse.Total, now.Fuse.Total),
		Hits:     rate(uint64(before.Cache.Hits), uint64(now.Cache.Hits)),
		Misses:   rate(uint64(before.Cache.Misses), uint64(now.Cache.Misses)),
		Used:     now.Cache.Used,
		RSS:      now.RSS,
	}
	for _, s := range now.Sources {
		r.InFlight += s.InFlight
	}
	return r
}

// String is one line below rateHead, in local time.
func (r rates) String() string {
	hitRate := "-"
	if r.Hits+r.Misses > 0 {
		hitRate = fmt.Sprintf("%.0f %%", 100*r.Hits/(r.Hits+r.Misses))
	}
	return fmt.Sprintf("%-8s %11s %10.1f %8.1f %9d %8.0f %8s %10s", r.Time.Local().Format(time.TimeOnly),
		bytesText(int64(r.Bytes)), r.Requests, r.Errors, r.InFlight, r.Kernel, hitRate, bytesText(int64(r.RSS)))
}
