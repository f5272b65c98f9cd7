// Package checkout finds the source tree, for tests and tools that run in it.
package checkout

import (
	"errors"
	"os"
	"path/filepath"
)

// ErrOutside is returned by Dir where there is no go.mod.
var ErrOutside = errors.New("no go.mod here or above: cd to the source tree")

// Dir is the directory of go.mod, at or above the working directory.
func Dir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", ErrOutside
		}
	}
}
