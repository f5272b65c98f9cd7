package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errNoFile: a device, a pipe or a directory cannot be replaced.
var errNoFile = errors.New("is no file")

// replaceFile puts text in the place of a file as a whole: others see the old one
// or the new one, a power loss leaves one of the two. A link is followed; the mode
// is the old one's, 0644 of a new file whatever the umask. What is there and is no
// file stays what it is, with an error that wraps errNoFile.
func replaceFile(file string, text []byte) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(file); err == nil {
		if mode = info.Mode(); !mode.IsRegular() {
			return fmt.Errorf("%s %w", file, errNoFile)
		}
		mode = mode.Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
