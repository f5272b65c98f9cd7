package integration

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMountInAPrivateNamespace runs tests of take-overs once more where the mount
// is seen by nobody else: in user and mount namespaces, as a job's is. By make
// soak, the kills under six clients too.
func TestMountInAPrivateNamespace(t *testing.T) {
	if err := exec.Command("unshare", "-Urm", "true").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no user namespace can be made: %v", err)
		}
		t.Skipf("no user namespace can be made: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := "^(TestMountNodesOutliveWorkers|TestMountSurvivesItsSupervisor)$"
	if os.Getenv(soakSeconds) != "" {
		tests = "^(TestMountNodesOutliveWorkers|TestMountSurvivesItsSupervisor|TestMountSurvivesKilledWorkers)$"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "unshare", "-Urm", "--propagation", "private", self, "-test.v", "-test.run", tests)
	c.Env = append(os.Environ(), "NEURODESKFS_BIN="+program(t))
	out, err := c.CombinedOutput()
	if n := strings.Count(string(out), "\n--- PASS: "); err != nil || n < 2 {
		t.Errorf("%d tests passed, %v:\n%s", n, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, " kills, ") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
