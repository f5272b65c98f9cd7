package inflate

import (
	"errors"
	"fmt"
)

// Every error of this package is an *Error, and errors.Is finds ErrCorrupt in
// all of them.
var (
	// ErrCorrupt is returned for data that are not what they should be. They
	// must be fetched again, or their source is damaged.
	ErrCorrupt = errors.New("corrupt compressed data")
	// ErrTruncated is returned when the input ends before the stream does. It
	// is an ErrCorrupt.
	ErrTruncated = fmt.Errorf("%w: input is truncated", ErrCorrupt)
	// ErrSize is returned when the output's size is not the one asked for. It
	// is an ErrCorrupt, and one of the two below.
	ErrSize = fmt.Errorf("%w: wrong output size", ErrCorrupt)
	// ErrTooShort is returned when the stream ends before dst is full.
	ErrTooShort = fmt.Errorf("%w: too short", ErrSize)
	// ErrTooLong is returned when the stream goes on after dst is full.
	ErrTooLong = fmt.Errorf("%w: too long", ErrSize)
)

// Error says what is wrong with a stream, and where.
type Error struct {
	Err    error  // ErrCorrupt, ErrTruncated, ErrTooShort or ErrTooLong
	Reason string // in words; empty if Err says it all
	In     int    // offset in src in bytes, at which decoding ended
	Out    int    // bytes of output before it, at most len(dst)
}

// Error gives reason and offsets.
func (e *Error) Error() string {
	s := "inflate: " + e.Err.Error()
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return fmt.Sprintf("%s (input byte %d, output byte %d)", s, e.In, e.Out)
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// fault is an error inside of the decoder, where nothing is allocated.
type fault uint8

const (
	ok fault = iota
	faultTruncated
	faultTooShort
	faultTooLong
	faultZlib
	faultDictionary
	faultChecksum
	faultBlockType
	faultStored
	faultNumLit
	faultNumDist
	faultPreCode
	faultLenCode
	faultRepeat
	faultLitTree
	faultDistTree
	faultLitCode
	faultDistCode
	faultDistFar
)

var reasons = [...]string{
	faultTruncated:  "",
	faultTooShort:   "",
	faultTooLong:    "",
	faultZlib:       "no zlib header",
	faultDictionary: "stream needs a preset dictionary",
	faultChecksum:   "Adler-32 does not match",
	faultBlockType:  "block of reserved type",
	faultStored:     "length of stored block and its complement do not match",
	faultNumLit:     "more than 286 literal and length codes",
	faultNumDist:    "more than 30 distance codes",
	faultPreCode:    "code length code is incomplete or over-subscribed",
	faultLenCode:    "invalid code for a code length",
	faultRepeat:     "repeated code lengths without a first or past the last",
	faultLitTree:    "literal code is incomplete or over-subscribed",
	faultDistTree:   "distance code is incomplete or over-subscribed",
	faultLitCode:    "invalid literal or length",
	faultDistCode:   "invalid distance",
	faultDistFar:    "distance reaches before the start of the output",
}

// at makes an error of f.
func (f fault) at(in, out int) error {
	e := &Error{Err: ErrCorrupt, Reason: reasons[f], In: in, Out: out}
	switch f {
	case faultTruncated:
		e.Err = ErrTruncated
	case faultTooShort:
		e.Err = ErrTooShort
	case faultTooLong:
		e.Err = ErrTooLong
	}
	return e
}
