// Command neurodeskfs mounts neuroimaging containers as native commands.
package main

import "os"

func main() {
	os.Exit(run(os.Args))
}
