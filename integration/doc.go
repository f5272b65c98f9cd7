// Package integration tests the built program on real mounts.
//
// The tests start the binary that $NEURODESKFS_BIN names, or build one, mount
// with it, and look at the tree as any other program does: through the kernel.
// Repositories are served by a Stratum 1 in process, either the golden ones,
// which the real CVMFS tools made, or ones that a test publishes.
//
// Names tell who runs a test: TestMount, TestLaunch and TestGolden work for
// root and for an ordinary user, the others for root or without a mount.
//
// Whatever a test mounts or starts is taken away when it ends, and a mount,
// process or file that is left fails it.
package integration
