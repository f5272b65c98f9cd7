package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what a run found: results.json.
type report struct {
	Started time.Time         `json:"started"`
	Quick   bool              `json:"quick"`
	Machine machine           `json:"machine"`
	Rows    []*row            `json:"rows"`
	Memory  map[string]uint64 `json:"daemon_rss_bytes"` // the most that a daemon had at the end of a measurement, by case
	Missing map[string]string `json:"missing"`          // peers, and why
	Skipped map[string]string `json:"skipped"`          // cases or parts of them, and why
	Failed  map[string]string `json:"failed"`           // cases
	plots   map[string][]plot // file name to panels
}

// machine is what the figures depend on.
type machine struct {
	Cores      int    `json:"cores"`
	CPU        string `json:"cpu"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	Apptainer  string `json:"apptainer"`
	FileSystem string `json:"local_file_system"`
	Account    string `json:"account"`
	Load       string `json:"load_at_start"`
}

// row is one comparison, or one figure that stands alone.
type row struct {
	Case       string    `json:"case"`
	Name       string    `json:"name"`
	Unit       string    `json:"unit"` // s, ms, /s, MB/s, MB, or empty: a count
	Ours       float64   `json:"ours"`
	OursRuns   []float64 `json:"ours_runs"`
	Peer       string    `json:"peer,omitempty"`
	PeerFigure float64   `json:"peer_figure,omitempty"`
	PeerRuns   []float64 `json:"peer_runs,omitempty"`
	Ratio      float64   `json:"ratio,omitempty"` // ours to the peer's; 0 without a peer
	// What one run of ours took from the server; -1: it does not apply.
	Bytes    int64   `json:"bytes"`
	Requests int64   `json:"requests"`
	Aims     []*goal `json:"aims,omitempty"`
}

// goal is what a figure of a row shall be.
type goal struct {
	Of    string  `json:"of"` // ours, ratio, bytes, requests
	Least bool    `json:"at_least"`
	Bound float64 `json:"bound"`
	Got   float64 `json:"got"`
	Met   bool    `json:"met"`
}

func atMost(of string, bound float64) *goal  { return &goal{Of: of, Bound: bound} }
func atLeast(of string, bound float64) *goal { return &goal{Of: of, Bound: bound, Least: true} }

func newReport(ctx context.Context, b *bench) *report {
	r := &report{
		Started: time.Now(), Quick: b.quick,
		Memory: map[string]uint64{}, Missing: map[string]string{}, Skipped: map[string]string{}, Failed: map[string]string{}, plots: map[string][]plot{},
	}
	r.Machine = machine{
		Cores: runtime.NumCPU(), CPU: cpuModel(), Kernel: firstLine("/proc/sys/kernel/osrelease"), Go: runtime.Version(),
		FileSystem: fileSystem(b.work), Account: b.who.name, Load: firstLine("/proc/loadavg"),
	}
	if out, err := b.run(ctx, "apptainer", "--version"); err == nil {
		r.Machine.Apptainer = strings.TrimSpace(out)
	}
	return r
}

func firstLine(file string) string {
	text, _ := os.ReadFile(file)
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// fileSystem names the file system that dir is on.
func fileSystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "local"
	}
	names := map[uint32]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
	return cmp.Or(names[uint32(s.Type)], "local")
}

func (r *report) miss(peer, why string)        { r.Missing[peer] = why }
func (r *report) skip(what, why string)        { r.Skipped[what] = why }
func (r *report) fail(what string, err error)  { r.Failed[what] = err.Error() }
func (r *report) plot(file string, p ...plot)  { r.plots[file] = append(r.plots[file], p...) }
func (b *bench) add(name, unit string) *row    { return b.report.add(b.current, name, unit) }
func (b *bench) partly(part string, why error) { b.report.skip(b.current+": "+part, why.Error()) }

func (r *report) add(group, name, unit string) *row {
	w := &row{Case: group, Name: name, Unit: unit, Bytes: -1, Requests: -1}
	r.Rows = append(r.Rows, w)
	return w
}

// ours sets our figures.
func (w *row) ours(runs ...float64) *row {
	w.OursRuns, w.Ours = runs, median(runs)
	return w
}

// against sets the peer's figures.
func (w *row) against(peer string, runs ...float64) *row {
	w.Peer, w.PeerRuns, w.PeerFigure = peer, runs, median(runs)
	if w.PeerFigure != 0 {
		w.Ratio = w.Ours / w.PeerFigure
	}
	return w
}

// fetched sets what one run took from the server.
func (w *row) fetched(bytes, requests int64) *row {
	w.Bytes, w.Requests = bytes, requests
	return w
}

// aim compares with what shall be; the figures must be there.
func (w *row) aim(goals ...*goal) *row {
	for _, g := range goals {
		g.Got = map[string]float64{"ours": w.Ours, "ratio": w.Ratio, "bytes": float64(w.Bytes), "requests": float64(w.Requests)}[g.Of]
		g.Met = g.Got <= g.Bound
		if g.Least {
			g.Met = g.Got >= g.Bound
		}
		w.Aims = append(w.Aims, g)
	}
	return w
}

// missed tells whether an aim of the row is missed.
func (w *row) missed() bool {
	return slices.ContainsFunc(w.Aims, func(g *goal) bool { return !g.Met })
}

// median is 0 for no runs.
func median(runs []float64) float64 {
	if len(runs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(runs))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// publish prints the table and writes results.json and the plots to dir.
func (r *report) publish(out io.Writer, dir string) error {
	if err := r.print(out); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644)}
	names := []string{"results.json"}
	for _, name := range slices.Sorted(maps.Keys(r.plots)) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(svg(r.plots[name])), 0o644))
		names = append(names, name)
	}
	_, err = fmt.Fprintf(out, "\nwritten to bench: %s\n", strings.Join(names, ", "))
	return errors.Join(append(errs, err)...)
}
