package config

import (
	"fmt"
	"io"
	"os"
)

// maxFile bounds a configuration file, bytes.
const maxFile = 16 << 20

// read reads a configuration file, which may be a pipe.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than 16 MiB: it is no configuration", file)
	}
	return text, err
}
