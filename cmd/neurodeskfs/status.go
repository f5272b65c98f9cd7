package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/session"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// Status is status.json: what the daemon of one mount is doing.
type Status struct {
	PID        int            `json:"pid"`                          // to be signalled and waited for: the supervisor, or the worker where there is none
	Supervisor string         `json:"supervisor_version,omitempty"` // empty where there is none, and while a new one begins
	Worker     WorkerStatus   `json:"worker"`
	Version    string         `json:"version"`
	Mountpoint string         `json:"mountpoint"`
	Job        bool           `json:"job,omitempty"` // it is one of run, and ends with its job
	Config     string         `json:"config"`        // equal for mounts that show the same in the same way
	Uptime     float64        `json:"uptime_s"`
	Sources    []SourceStatus `json:"sources"`
	Index      tree.Progress  `json:"index"`
	Verify     *VerifyStatus  `json:"verify_sif,omitempty"` // nil: signatures are not looked at
	Cache      CacheStatus    `json:"cache"`
	Shared     []TierStatus   `json:"shared"`
	Fuse       FuseStatus     `json:"fuse"`
	IOErrors   uint64         `json:"io_errors"`
	RSS        uint64         `json:"memory_rss_bytes"`
	Memory     MemoryStatus   `json:"memory"`
}

// SourceStatus is one configured source. Error says why it is not there.
type SourceStatus struct {
	FQRN           string        `json:"fqrn"`
	Mounted        string        `json:"mounted,omitempty"` // where the host has it, which is then what is shown
	URL            string        `json:"url,omitempty"`     // kind http: of an image
	Error          string        `json:"error,omitempty"`
	Revision       uint64        `json:"revision"`
	RootHash       string        `json:"root_hash"`
	Tag            string        `json:"tag,omitempty"`
	Pinned         bool          `json:"pinned"`
	Offline        bool          `json:"offline"`
	Expired        *time.Time    `json:"whitelist_expired,omitempty"` // when; taken all the same, which is allowed
	LastRefresh    time.Time     `json:"last_refresh"`
	Hosts          []HostStatus  `json:"hosts"`
	Proxies        []ProxyStatus `json:"proxies"`
	HTTPRequests   uint64        `json:"http_requests"`
	HTTPBytes      uint64        `json:"http_bytes"`
	HTTPErrors     uint64        `json:"http_errors"`
	Failovers      uint64        `json:"failovers"`
	VerifyFailures uint64        `json:"verify_failures"`
	InFlight       int           `json:"in_flight"`
}

// HostStatus is one server.
type HostStatus struct {
	URL       string `json:"url"`
	Current   bool   `json:"current"`
	Errors    uint64 `json:"errors"`
	LastError string `json:"last_error,omitempty"`
}

// ProxyStatus is one proxy; groups are numbered from 0.
type ProxyStatus struct {
	URL       string `json:"url"`
	Group     int    `json:"group"`
	Current   bool   `json:"current"`
	Errors    uint64 `json:"errors"`
	LastError string `json:"last_error,omitempty"`
}

// CacheStatus is the local cache.
type CacheStatus struct {
	Dir       string `json:"dir"`
	Quota     int64  `json:"quota_bytes"`
	Used      int64  `json:"used_bytes"`
	Objects   int    `json:"objects"`
	Hits      int64  `json:"hits"`
	Misses    int64  `json:"misses"`
	Evictions int64  `json:"evictions"`
	Degraded  bool   `json:"degraded"`
}

// TierStatus is one shared directory. Bytes are of objects as stored.
type TierStatus struct {
	Dir     string `json:"dir"`
	Hits    int64  `json:"hits"`
	Bytes   int64  `json:"bytes"`
	Refused int64  `json:"refused"`         // damaged objects
	Error   string `json:"error,omitempty"` // why it is of no use now
}

// FuseStatus counts what the kernel asked.
type FuseStatus struct {
	Requests map[string]uint64 `json:"requests"`
	Total    uint64            `json:"requests_total"`
	InFlight int               `json:"in_flight"`
}

// status looks at everything now.
func (d *daemon) status() Status {
	s := Status{
		PID: os.Getpid(), Version: version, Mountpoint: d.mountpoint, Job: d.claim != nil, Config: d.config, Uptime: time.Since(d.started).Seconds(),
		Index: d.tree.Progress(), Verify: d.verified(), IOErrors: d.fs.IOErrors(), RSS: residentBytes(), Memory: d.memory(),
	}
	listErrors := d.tree.ListErrors()
	for _, src := range d.sources {
		s.Sources = append(s.Sources, src.status(listErrors[src.FQRN]))
	}
	c := d.disk.Stats()
	s.Cache = CacheStatus{c.Dir, c.QuotaBytes, c.UsedBytes, c.Objects, c.Hits, c.Misses, c.Evictions, c.Degraded}
	s.Shared = []TierStatus{}
	for _, t := range d.tiers {
		s.Shared = append(s.Shared, TierStatus(t.Stats()))
	}
	if live := d.session.Load(); live != nil {
		f := live.Stats()
		s.Fuse = FuseStatus{f.ByOpcode, f.Total, f.InFlight}
		s.tellProcesses(f.Processes)
		s.Worker.User = d.as
	}
	return s
}

// tellProcesses fills in who serves the mount.
func (s *Status) tellProcesses(p session.Processes) {
	s.Worker.PID = os.Getpid()
	if p.Supervisor == 0 {
		return
	}
	s.PID, s.Supervisor = p.Supervisor, p.Version
	s.Worker.Restarts, s.Worker.Standby = p.Takeovers, p.Standby
	if !p.Since.IsZero() {
		s.Worker.Uptime = time.Since(p.Since).Seconds()
	}
	s.Worker.LastPause, s.Worker.LongestPause = p.LastPause.Seconds()*1000, p.LongestPause.Seconds()*1000
}

func (s *source) status(listError error) SourceStatus {
	out := SourceStatus{FQRN: s.FQRN, Mounted: s.At, Hosts: []HostStatus{}, Proxies: []ProxyStatus{}}
	switch {
	case s.err != nil:
		out.Error = s.err.Error()
	case listError != nil:
		out.Error = listError.Error()
	}
	if s.bucket != nil {
		out.bucket(s.bucket)
	}
	if s.repo == nil {
		return out
	}
	head, net := s.repo.Head(), s.repo.Stats()
	if head.Forbidden != "" {
		out.Error = head.Forbidden
	}
	out.Revision, out.RootHash, out.Tag = head.Revision, head.Root.Hash.String(), head.Tag
	if !head.Expired.IsZero() {
		expired := head.Expired.UTC()
		out.Expired = &expired
	}
	out.Pinned, out.Offline, out.LastRefresh = head.Pinned, head.Offline, head.Checked.UTC()
	out.hosts(net)
	for _, p := range net.Proxies {
		out.Proxies = append(out.Proxies, ProxyStatus{p.URL, p.Group, p.Current, p.Errors, p.LastError})
	}
	out.traffic(net)
	return out
}

// traffic fills in what a source fetched.
func (s *SourceStatus) traffic(net fetch.Stats) {
	s.HTTPRequests, s.HTTPBytes, s.HTTPErrors = net.Requests, net.Bytes, net.Errors
	s.Failovers, s.VerifyFailures, s.InFlight = net.Failovers, net.VerifyFailures, net.InFlight
}

func (d *daemon) statusJSON() []byte {
	b, err := json.MarshalIndent(d.status(), "", "  ")
	if err != nil {
		panic(err) // texts and numbers only
	}
	return append(b, '\n')
}

// residentBytes is this process's resident memory.
func residentBytes() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// readStatus asks the mount that named, or findMount, says.
func readStatus(named string) (s Status, err error) {
	m, err := findMount(named)
	if err != nil {
		return s, err
	}
	b, err := readOwn(m, "status.json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("status of %s: %w", m, err)
	}
	return s, nil
}

// readAsked is readStatus of a mount that is to be asked for something, which that
// of a job cannot be.
func readAsked(named string) (Status, error) {
	s, err := readStatus(named)
	if err == nil && s.Job {
		err = failf(exitFailure, "%s is the mount of a job (neurodeskfs run): it takes no requests, and ends with the job", s.Mountpoint)
	}
	return s, err
}

func newStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "status [MOUNTPOINT]",
		Short:   "Show servers, revision, cache and requests of a mount",
		Example: "  neurodeskfs status ~/neurodesk\n  neurodeskfs status --json | jq .cache",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readStatus(optional(args))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return s.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print status.json")
	return c
}

// rowIndent is where the second column of the status begins.
const rowIndent = 13

// row writes one row of the status, folded between words where it does not fit.
func row(out io.Writer, key, format string, args ...any) {
	line := ""
	for _, word := range strings.Fields(visible(fmt.Sprintf(format, args...))) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > screenWidth-rowIndent {
			fmt.Fprintf(out, "%-*s%s\n", rowIndent, key, line)
			key, line = "", ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	fmt.Fprintf(out, "%-*s%s\n", rowIndent, key, line)
}

// print writes the status as a table that fits 80 columns, but for words that
// are longer.
func (s Status) print(w io.Writer) error {
	var out bytes.Buffer
	row(&out, "mount", "%s (neurodeskfs %s, pid %d, up %s)", s.Mountpoint, s.Version, s.PID, time.Duration(s.Uptime*float64(time.Second)).Round(time.Second))
	if s.Worker.PID != 0 && s.Worker.PID != s.PID {
		s.Worker.print(&out)
	}
	for _, src := range s.Sources {
		src.print(&out)
	}
	pending := ""
	if s.Index.Pending > 0 {
		pending = fmt.Sprintf("; %d images are still to be read", s.Index.Pending)
	}
	row(&out, "index", "%d apps, %d commands%s", s.Index.Apps, s.Index.Commands, pending)
	s.Verify.print(&out)
	row(&out, "cache", "%s of %s in %d objects; %d hits, %d misses, %d evicted",
		bytesText(s.Cache.Used), bytesText(s.Cache.Quota), s.Cache.Objects, s.Cache.Hits, s.Cache.Misses, s.Cache.Evictions)
	row(&out, "  folder", "%s", s.Cache.Dir)
	if s.Cache.Degraded {
		row(&out, "  warning", "the cache disk fails: new objects are kept in memory")
	}
	for _, t := range s.Shared {
		row(&out, "shared", "%s", t.Dir)
		row(&out, "  taken", "%d objects, %s; %d refused", t.Hits, bytesText(t.Bytes), t.Refused)
		if t.Error != "" {
			row(&out, "  warning", "%s", t.Error)
		}
	}
	row(&out, "kernel", "%d requests, %d under way, %d answered with an I/O error", s.Fuse.Total, s.Fuse.InFlight, s.IOErrors)
	s.Memory.print(&out, s.RSS)
	_, err := w.Write(out.Bytes())
	return err
}

func (src SourceStatus) print(out io.Writer) {
	row(out, "source", "%s", src.FQRN)
	if src.Error != "" {
		row(out, "  error", "%s", src.Error)
	}
	if src.Mounted != "" {
		row(out, "  mounted", "%s (by the host)", src.Mounted)
	}
	if src.URL != "" {
		state := ""
		if src.Offline {
			state = " (offline: it was not reached)"
		}
		row(out, "  images at", "%s%s", src.URL, state)
		if len(src.Hosts) > 1 {
			src.printHost(out)
		}
		src.printTraffic(out)
	}
	if src.RootHash == "" {
		return
	}
	state := ""
	switch {
	case src.Tag != "":
		state = ", pinned to tag " + src.Tag
	case src.Pinned:
		state = ", pinned"
	case src.Offline:
		state = ", offline: no server was reached"
	}
	row(out, "  revision", "%d%s", src.Revision, state)
	if src.Expired != nil {
		row(out, "  warning", "the whitelist expired on %s; it is taken all the same (--allow-expired-whitelist)", src.Expired.Format(time.DateOnly))
	}
	row(out, "  root hash", "%s", src.RootHash)
	src.printHost(out)
	src.printTraffic(out)
}

func (src SourceStatus) printTraffic(out io.Writer) {
	row(out, "  fetched", "%d requests, %s; %d errors, %d fail-overs, %d refused",
		src.HTTPRequests, bytesText(int64(src.HTTPBytes)), src.HTTPErrors, src.Failovers, src.VerifyFailures)
}

// bytesText writes a size as a person reads it: 1.5 GiB.
func bytesText(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/step, 0
	for value >= step-0.05 && unit < 4 { // what would be written 1024.0
		value /= step
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
