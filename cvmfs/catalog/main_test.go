package catalog

import (
	"os"
	"testing"
)

// bigDir holds what several tests and benchmarks share.
var bigDir string

func TestMain(m *testing.M) {
	var err error
	if bigDir, err = os.MkdirTemp("", "catalog"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(bigDir)
	os.Exit(code)
}
