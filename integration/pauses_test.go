package integration

import (
	"regexp"
	"slices"
	"time"
)

// workerStatus is the part of status.json about who serves.
type workerStatus struct {
	PID          int     `json:"pid"`
	User         string  `json:"user"`
	Restarts     uint64  `json:"restarts"`
	Standby      int     `json:"standby_pid"`
	LongestPause float64 `json:"longest_pause_ms"`
}

var pauseField = regexp.MustCompile(`msg="a worker has taken over".* pause=(\S+) standby=(\S+)`)

// pauses are those of the take-overs, as the log has them, in order of length.
func (m *mounted) pauses() (all []time.Duration) { return m.pausesOf("true", "false") }

// pausesOf are those of take-overs for which a standby was ready, "true", or for
// which a worker had to be started first, "false".
func (m *mounted) pausesOf(standby ...string) (all []time.Duration) {
	for _, f := range pauseField.FindAllStringSubmatch(m.Log(), -1) {
		if !slices.Contains(standby, f[2]) {
			continue
		}
		d, err := time.ParseDuration(f[1])
		if err != nil {
			m.t.Errorf("a pause of %q", f[1])
		}
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
