package main

import (
	"bytes"
	"fmt"
)

// WorkerStatus is who serves the mount now. Counts of the sources and the cache
// begin at 0 with each worker; those of the kernel's requests go on.
type WorkerStatus struct {
	PID          int     `json:"pid"`
	User         string  `json:"user,omitempty"` // whom root's serves as
	Restarts     uint64  `json:"restarts"`
	Standby      int     `json:"standby_pid"` // 0: none is ready
	Uptime       float64 `json:"uptime_s"`
	LastPause    float64 `json:"last_pause_ms"` // from the end of the worker before
	LongestPause float64 `json:"longest_pause_ms"`
}

func (w *WorkerStatus) print(out *bytes.Buffer) {
	as, standby := "", "no standby"
	if w.User != "" {
		as = ", user " + w.User
	}
	if w.Standby != 0 {
		standby = fmt.Sprintf("standby %d", w.Standby)
	}
	row(out, "worker", "pid %d%s, %s, %d take-overs", w.PID, as, standby, w.Restarts)
	if w.Restarts > 0 {
		row(out, "  pause", "%.1f ms, the longest %.1f ms", w.LastPause, w.LongestPause)
	}
}
