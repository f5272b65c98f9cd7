package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/session"
)

// daemon is the supervisor of m.
func (m *mounted) daemon() int {
	m.t.Helper()
	s := m.Status()
	pids := daemonsOf(m.Dir)
	if !slices.Contains(pids, s.PID) || !slices.Contains(pids, s.Worker.PID) || len(pids) > 3 {
		m.t.Fatalf("processes %v serve the mount, status names %d and %d", pids, s.PID, s.Worker.PID)
	}
	return s.PID
}

// killAll kills all that serve m, until nobody is left.
func (m *mounted) killAll() {
	m.t.Helper()
	eventually(m.t, "nobody serves the mount", func() bool {
		pids := daemonsOf(m.Dir)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
}

// gone waits until the mount and its daemon are no more.
func (m *mounted) gone() {
	m.t.Helper()
	eventually(m.t, "the daemon ends", func() bool { return len(daemonsOf(m.Dir)) == 0 })
	if on, err := session.IsMounted(m.Dir); on || err != nil {
		m.t.Errorf("still mounted: %v, %v", on, err)
	}
}

// raceReport begins what a program that was built with -race (make race) says of a
// race, on its stderr. A daemon's is its log: nowhere else may its worker write.
const raceReport = "WARNING: DATA RACE"

// noRaces fails a test if the log of a daemon whose cache is dir, or lies in it,
// tells of a race.
func noRaces(t testing.TB, dir string) {
	t.Helper()
	for _, place := range []string{".", "*"} {
		logs, _ := filepath.Glob(filepath.Join(dir, place, "*log"))
		for _, name := range logs {
			if b, _ := os.ReadFile(name); bytes.Contains(b, []byte(raceReport)) {
				t.Errorf("a daemon has a race:\n%s", b)
			}
		}
	}
}
