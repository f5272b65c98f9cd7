package trust

import (
	"crypto/rsa"
	"encoding/asn1"
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

// certificate is the way to the key in an X.509 certificate (RFC 5280, section
// 4.1). All else in it may be as odd as OpenSSL lets it be, by which CVMFS reads and
// writes them: x509.ParseCertificate refuses serial numbers below 0, and CVMFS gives
// them to half of the certificates that it makes itself (cvmfs/crypto/signature.cc).
type certificate struct {
	Signed struct {
		Version                                      int `asn1:"optional,explicit,default:0,tag:0"`
		Serial, Algorithm, Issuer, Validity, Subject asn1.RawValue
		Key                                          asn1.RawValue
	}
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
	var c certificate
	rest, err := asn1.Unmarshal(b, &c)
	if err != nil {
		return nil, fmt.Errorf("%w: parse it: %w", ErrCertificate, err)
	}
	k, err := parsePKIX(c.Signed.Key.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: its key: %w", ErrCertificate, err)
	}
	return &Certificate{DER: b[:len(b)-len(rest)], key: k}, nil
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
