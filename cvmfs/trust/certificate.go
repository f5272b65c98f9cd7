package trust

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A Certificate carries the key that signs manifests. Its dates and its issuer
// mean nothing in CVMFS; the whitelist alone says whether it holds.
type Certificate struct {
	DER []byte // what fingerprints are taken over
	key *rsa.PublicKey
}

// ParseCertificate reads an X.509 certificate with an RSA key, PEM (as CVMFS
// stores it) or DER, already inflated. Errors wrap ErrCertificate.
func ParseCertificate(b []byte) (*Certificate, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes are more than the %d allowed", ErrCertificate, len(b), MaxSize)
	}
	if p, _ := pem.Decode(b); p != nil {
		if p.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: the object holds a %.40q", ErrCertificate, p.Type)
		}
		b = p.Bytes
	}
	x, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("%w: parse it: %w", ErrCertificate, err)
	}
	k, ok := x.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: its key is %v, CVMFS signs by RSA", ErrCertificate, x.PublicKeyAlgorithm)
	}
	if err := checkKey(k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return &Certificate{DER: x.Raw, key: k}, nil
}

// Fingerprint is the hash of the certificate's DER form. The algorithm must be
// known, as every algorithm of a parsed hash is.
func (c *Certificate) Fingerprint(a hash.Algorithm) hash.Hash { return hash.Sum(a, c.DER) }

// FormatFingerprint writes h as whitelists do: AA:BB:..., and -ALGORITHM unless
// that is SHA-1.
func FormatFingerprint(h hash.Hash) string {
	var b strings.Builder
	for i, d := range h.Digest() {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02X", d)
	}
	if _, id, ok := strings.Cut(h.String(), "-"); ok {
		b.WriteString("-" + strings.ToUpper(id))
	}
	return b.String()
}
