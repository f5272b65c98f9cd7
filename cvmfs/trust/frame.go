package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// Bounds of what a server may send. Real manifests have some 600 bytes, real
// whitelists below 10 KiB.
const (
	// MaxSize bounds a manifest, a whitelist and a certificate, in bytes.
	MaxSize = 64 << 10
	// maxSignature is the signature of the largest key accepted, in bytes.
	maxSignature = maxBits / 8
)

// A frame is the common outside of manifest and whitelist.
type frame struct {
	lines     []string // without "--" and newlines
	text      string   // the hash line, which is what was signed
	signature []byte
}

// parseFrame splits raw and verifies the hash line over the body. Errors are
// bare; the caller adds the sentinel.
func parseFrame(raw []byte) (*frame, error) {
	if len(raw) == 0 {
		return nil, errors.New("it is empty: the server or a proxy on the way is broken")
	}
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes are more than the %d allowed", len(raw), MaxSize)
	}
	const mark = "\n--\n"
	i := bytes.Index(raw, []byte(mark))
	if i < 0 {
		return nil, errors.New(`no line "--" before the signature: it was cut off, or is no CVMFS file at all (a login page?)`)
	}
	body, rest := raw[:i+1], raw[i+len(mark):]
	line, sig, ok := bytes.Cut(rest, []byte("\n"))
	if !ok {
		return nil, errors.New("it was cut off before the signature")
	}
	h, err := hash.Parse(string(line))
	if err != nil {
		return nil, fmt.Errorf("hash line: %w", err)
	}
	if hash.Sum(h.Algorithm, body) != h {
		return nil, errors.New("its text does not match its own hash: it was altered or damaged on the way")
	}
	if len(sig) == 0 || len(sig) > maxSignature {
		return nil, fmt.Errorf("signature of %d bytes", len(sig))
	}
	return &frame{
		lines:     strings.Split(string(body[:i]), "\n"),
		text:      string(line),
		signature: bytes.Clone(sig),
	}, nil
}
