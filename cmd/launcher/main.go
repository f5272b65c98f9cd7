// Command launcher is the `#!` interpreter of the command files in M/bin; package launch has the whole story.
package main

import (
	"os"
	"runtime/debug"

	"github.com/neurodesk/neurodeskfs/fs/launch"
)

// memoryLimit is in bytes. The launcher lives for some milliseconds: with the collector off, a start under bwrap took 8.0 ms
// in place of 8.9 (medians of 80 as root).
const memoryLimit = 64 << 20

func main() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	os.Exit(launch.Main(os.Args, os.Stderr))
}
