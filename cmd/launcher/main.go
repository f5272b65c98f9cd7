// Command launcher is the `#!` interpreter of the command files in M/bin; package launch has the whole story.
package main

import (
	"os"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

func main() { os.Exit(launch.Main(os.Args, os.Stderr)) }
