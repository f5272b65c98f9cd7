package integration

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// TestMountInterrupted: ^C while mount waits gives up what it began; nothing is
// mounted later, when a server answers.
func TestMountInterrupted(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"^C": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			s := newStratum(t)
			src := s.Golden(alpha)
			s.Inject(cvmfstest.All, 0, cvmfstest.Hang(nil))
			set, file := setup{Sources: []source{src}}.prepare(t)
			c := mountCommand(t, set, file)
			var said bytes.Buffer
			c.Stderr = &said
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			s.inFlight(1)
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if _ = c.Wait(); c.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "interrupted") {
				t.Errorf("%v: %s", c.ProcessState, said.String())
			}
			eventually(t, "no process is left", func() bool { return len(daemonsOf(set.Dir)) == 0 })
			wantRun(t, 3, "umount", set.Dir)
		})
	}
}
