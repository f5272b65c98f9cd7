// Package golden finds the golden data: repositories that the real CVMFS tools
// made, and lists of what those tools show of them.
package golden

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

// Dir is where the golden data are: $NEURODESKFS_GOLDEN, or shared/golden beside
// the source tree. It is an error that they are not there.
func Dir() (string, error) {
	dir := os.Getenv("NEURODESKFS_GOLDEN")
	if dir == "" {
		root, err := checkout.Dir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "..", "shared", "golden")
	}
	_, err := os.Stat(filepath.Join(dir, "README.md"))
	return dir, err
}

// Path is a path in the golden data. Without them a test is skipped, except in
// CI, where it fails.
func Path(t testing.TB, parts ...string) string {
	t.Helper()
	dir, err := Dir()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("golden data are missing: %v", err)
		}
		t.Skipf("golden data are missing: %v", err)
	}
	return filepath.Join(append([]string{dir}, parts...)...)
}
