package squashfs

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt is returned for an image that contradicts itself, ends early
	// or does not decompress. The image must be fetched or built again.
	ErrCorrupt = errors.New("corrupt squashfs image")
	// ErrUnsupported is returned for an image that may well be in order, but
	// needs what this reader lacks: another version, an unknown compressor or
	// filter. It must be built again with other options.
	ErrUnsupported = errors.New("unsupported squashfs image")
)

// corruptf says in which way an image is corrupt.
func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// unsupportedf says what an image needs.
func unsupportedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnsupported}, args...)...)
}
