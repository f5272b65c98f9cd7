// Package trace keeps what commands read of their images when they start, and
// has it fetched at once when they start again with an empty cache.
//
// # Recording
//
// The launcher announces each start (see fs/launch). From then on, for Window,
// all that is read of that image counts as read by that command: FUSE tells no
// processes apart that the kernel serves from one page cache. Commands of one
// image that start together therefore share what they read; what a tool reads of
// its image later, and what the kernel answers from its own caches, is not seen.
// Runs are merged: a trace is what any run needed, in the order in which it was
// first needed.
//
// # Bounds
//
// A trace holds names of objects, which are hashes of their content. A wrong or
// hostile one costs bandwidth: at most MaxObjects objects and MaxBytes bytes for
// each start, fetched behind all that somebody waits for, each verified like any
// other. It is never believed for anything else. A Book keeps MaxTraces traces, of
// MaxText bytes together; the one not used for longest goes first. Starts of which
// there is no trace leave nothing, and those that come while maxRuns are recorded
// are not.
//
// LOCK ORDER: Book.mu before run.mu. Neither is held during I/O other than the
// Keep's own.
package trace
