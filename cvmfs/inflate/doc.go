// Package inflate decodes zlib streams (RFC 1950) and raw deflate streams
// (RFC 1951) at one go into a buffer whose size is known, as it is for every
// CVMFS object and squashfs block. It uses neither unsafe nor assembly, so that
// no input, however hostile, can do more than fail.
//
// # Verdicts
//
// A stream is accepted exactly if compress/zlib and compress/flate accept it,
// with the same output and the same number of input bytes consumed; fuzzing
// compares the two. Hence a distance code of no symbols and a code of a single
// one-bit symbol are fine until an invalid code is met, and the window size in
// the zlib header is not enforced. There are two differences: a preset
// dictionary is always refused, and so is an output that is not of the size
// asked for. Where the input is both cut off and wrong in its last bytes, one
// may name the first and the other the second.
//
// # How it works
//
// Up to 63 bits wait in a 64-bit buffer, filled by 8-byte loads without a
// branch. A symbol is one load from a table indexed by the next 11 bits (8 for
// distances) whose entry holds literal or base, bit counts and the mask of the
// extra bits; longer codes take a second table. The fast loop in fast.go runs
// while there are margins of 16 bytes of input and 300 of room; the last bytes
// of the input are given such a margin by a copy with zeros behind it, and
// outputs of up to 8 KB by a buffer of the decoder, so that the careful code in
// decode.go mostly does the last 300 bytes of large outputs. Decoders, with
// their tables of 20 KB, are pooled: no call allocates unless it fails.
//
// # Speed
//
// MB of output a second on one core and the ratio to klauspost/compress 1.20.3
// in the same process, by go test -bench Ratio -benchtime 3x, November 2026,
// a virtual machine with two AMD EPYC cores, Go 1.26, GOAMD64=v1:
//
//	class                    std  klauspost     own  ratio
//	ELF in 128 KB blocks     236        314     754   2.40
//	ELF, whole files         236        313     746   2.39
//	Python sources           318        413    1085   2.63
//	Python byte code         229        300     696   2.32
//	text                     301        393     982   2.50
//	4 KB objects             205        257     595   2.32
//	1 KB objects             125        146     319   2.19
//	stored blocks          49000      52000  102000   1.96
//	zeros                   8100       7640   20500   2.69
//
// The geometric mean of the ratios over ELF in blocks, Python sources, byte
// code and text is 2.46.
package inflate
