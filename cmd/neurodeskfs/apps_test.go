package main

import (
	"errors"
	"os"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// TestNothingWasStarted: what exec and shell end with when no program ran is never
// a status that the program could have ended with; env and info have their own.
func TestNothingWasStarted(t *testing.T) {
	nowhere := t.TempDir()
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"exec", "--mount", nowhere, "fsl", "--", "true"}, launch.StatusError},
		{[]string{"shell", "--mount", nowhere, "fsl"}, launch.StatusError},
		{[]string{"exec", "fsl"}, exitUsage},
		{[]string{"env", "--mount", nowhere, "fsl"}, exitNoMount},
		{[]string{"info", "--mount", nowhere, "fsl"}, exitNoMount},
	} {
		if got := run(append([]string{"neurodeskfs"}, tt.args...)); got != tt.want {
			t.Errorf("%q ends with %d, want %d", tt.args, got, tt.want)
		}
	}
	t.Chdir(t.TempDir())
	gone, err := os.Getwd()
	if err != nil || os.Remove(gone) != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"exec", "--mount", "m", "fsl", "--", "true"}, {"shell", "--mount", "m", "fsl"}} {
		if got := run(append([]string{"neurodeskfs"}, args...)); got != launch.StatusError {
			t.Errorf("%q in no directory ends with %d", args, got)
		}
	}
	for err, want := range map[error]int{
		failf(exitNoMount, "nothing is mounted"):         launch.StatusError,
		failf(exitUsage, "there are 2 mounts: name one"): exitUsage,
		&launch.Exit{Code: launch.StatusRetired}:         launch.StatusRetired,
		errors.New("any other"):                          launch.StatusError,
	} {
		if got := exitStatus(notStarted(err)); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}
