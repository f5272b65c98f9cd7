package trust

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A Whitelist names the certificates that may sign a repository's manifest. It
// is signed by a master key and worth nothing before [Whitelist.Verify].
type Whitelist struct {
	Issued       time.Time // UTC
	Expires      time.Time // UTC, a full hour: the protocol drops minutes
	Name         string    // fqrn
	Fingerprints []hash.Hash

	signed    string
	signature []byte
}

const stampLayout = "20060102150405"

// ParseWhitelist reads a whitelist and checks it against its own hash line, not
// against any key. Errors wrap ErrWhitelist.
func ParseWhitelist(raw []byte) (*Whitelist, error) {
	w, err := parseWhitelist(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWhitelist, err)
	}
	return w, nil
}

func parseWhitelist(raw []byte) (*Whitelist, error) {
	f, err := parseFrame(raw)
	if err != nil {
		return nil, err
	}
	w := &Whitelist{signed: f.text, signature: f.signature}
	if len(f.lines) < 3 {
		return nil, fmt.Errorf("it has %d lines, at least 3 are needed", len(f.lines))
	}
	if w.Issued, err = stamp(f.lines[0]); err != nil {
		return nil, fmt.Errorf("line 1: %w", err)
	}
	e, ok := strings.CutPrefix(f.lines[1], "E")
	if !ok {
		return nil, errors.New("line 2 is not the expiry (E...)")
	}
	if w.Expires, err = stamp(e); err != nil {
		return nil, fmt.Errorf("line 2: %w", err)
	}
	w.Expires = w.Expires.Truncate(time.Hour)
	if w.Name, ok = strings.CutPrefix(f.lines[2], "N"); !ok {
		return nil, errors.New("line 3 is not the name (N...)")
	}
	for i, l := range f.lines[3:] {
		if err := w.line(l); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+4, err)
		}
	}
	if len(w.Fingerprints) == 0 {
		return nil, errors.New("it lists no certificate that is understood")
	}
	return w, nil
}

// line reads one line below the name. What it does not know is passed over, as the
// reference client does: it allows nothing. A fingerprint by a newer hash function may
// stand beside one that is known, or a newer signature (cvmfs/cvmfs issue 2995).
func (w *Whitelist) line(l string) error {
	switch {
	case strings.HasPrefix(l, "V"):
		return fmt.Errorf("signature kind %.20q is not supported: ask the repository's administrator for a whitelist that a master key signs", l[1:])
	case strings.HasPrefix(l, "W"):
		return fmt.Errorf("verification kind %.20q is not supported: ask the repository's administrator for a plain whitelist", l[1:])
	}
	if h, err := parseFingerprint(l); err == nil && !h.IsZero() {
		w.Fingerprints = append(w.Fingerprints, h)
	}
	return nil
}

// stamp reads YYYYMMDDhhmmss, which is UTC.
func stamp(s string) (time.Time, error) {
	t, err := time.Parse(stampLayout, s)
	if err != nil || len(s) != len(stampLayout) {
		return time.Time{}, fmt.Errorf("%.40q is no date of the form YYYYMMDDhhmmss", s)
	}
	return t, nil
}

// parseFingerprint reads AA:BB:...[-ALGORITHM], of 20 bytes. What follows a
// blank, a tab or # is comment; a line of comment only gives the zero hash.
func parseFingerprint(line string) (hash.Hash, error) {
	if i := strings.IndexAny(line, " \t#"); i >= 0 {
		line = line[:i]
	}
	if line == "" {
		return hash.Hash{}, nil
	}
	digits, id, hasID := strings.Cut(line, "-")
	const width = 20*3 - 1
	bad := fmt.Errorf("%.80q is no fingerprint of a certificate", line)
	if len(digits) != width {
		return hash.Hash{}, bad
	}
	for i := 2; i < width; i += 3 {
		if digits[i] != ':' {
			return hash.Hash{}, bad
		}
	}
	b, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if err != nil {
		return hash.Hash{}, bad
	}
	a := hash.SHA1
	switch {
	case !hasID:
	case strings.EqualFold(id, "rmd160"):
		a = hash.RMD160
	case strings.EqualFold(id, "shake128"):
		a = hash.SHAKE128
	default:
		return hash.Hash{}, bad
	}
	h, err := hash.FromDigest(a, b)
	if err != nil {
		return hash.Hash{}, bad
	}
	return h, nil
}

// Verify checks name, signature and expiry, in this order: an expiry date counts
// only when it is known who wrote it. Errors wrap ErrName, ErrKeys, ErrSignature
// or ErrExpired.
func (w *Whitelist) Verify(keys Keys, fqrn string, now time.Time) error {
	if w.Name != fqrn {
		return fmt.Errorf("%w: the server's whitelist is of %.80q, wanted %q: check the server's URL", ErrName, w.Name, fqrn)
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: none is configured for %s: set public_keys", ErrKeys, fqrn)
	}
	if !w.signedByAny(keys) {
		return fmt.Errorf("%w: the whitelist of %s is signed by none of the %d master keys given: check that public_keys has this repository's key",
			ErrSignature, fqrn, len(keys))
	}
	if now.After(w.Expires) {
		return fmt.Errorf("%w: the whitelist of %s expired on %s: the server's administrator must re-sign it, or check this machine's clock (it says %s)",
			ErrExpired, fqrn, w.Expires.Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	}
	return nil
}

func (w *Whitelist) signedByAny(keys Keys) bool {
	for _, k := range keys {
		if verifyBare(k, w.signed, w.signature) == nil {
			return true
		}
	}
	return false
}

// CheckCertificate reports by an error that wraps ErrCertificate that c is not
// on the list.
func (w *Whitelist) CheckCertificate(c *Certificate) error {
	for _, f := range w.Fingerprints {
		if c.Fingerprint(f.Algorithm) == f {
			return nil
		}
	}
	return fmt.Errorf("%w: it (%s) is not among the %d on the whitelist of %s: the repository's administrator must re-sign the whitelist",
		ErrCertificate, FormatFingerprint(c.Fingerprint(hash.SHA1)), len(w.Fingerprints), w.Name)
}
