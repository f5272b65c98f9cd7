// Package trust decides whether a CVMFS repository may be believed.
//
// The chain has four links, each an object that anyone may have forged until
// the link before it vouches for it:
//
//	master key      a file on this machine
//	   signs
//	whitelist       .cvmfswhitelist: name, expiry, fingerprints of certificates
//	   lists
//	certificate     data/..X: an X.509 certificate, of which only the key counts
//	   signs
//	manifest        .cvmfspublished: hash of the root catalog, from which every
//	                other byte of the repository is named by its hash
//
// [Verify] walks all of it; [ParseManifest] alone tells what a manifest says,
// which is needed to know which certificate to fetch, and proves nothing.
//
// A manifest and a whitelist have the same frame: lines of text, "--", the hash
// of those lines in any CVMFS algorithm, and a binary RSA signature of that
// hash's text up to the end of the file. The manifest's signature has a SHA-1
// DigestInfo around the text, the whitelist's holds the bare text.
//
// Not supported, and refused: whitelists that are signed by PKCS#7 (Vpkcs7) and
// those that ask for a check of the certificate chain (Wcachain). Dates in the
// certificate are not looked at; the whitelist's expiry stands for them. Go
// refuses RSA keys below 1024 bits, and so does this package.
//
// Nothing here does I/O except [LoadKeys]. All functions are safe for concurrent
// use, and values are not changed once they are returned.
package trust

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"errors"
	"fmt"
	"time"
)

// The links of the chain; every error of this package wraps exactly one.
var (
	// ErrManifest is returned when the manifest is malformed or was altered.
	ErrManifest = errors.New("bad manifest")
	// ErrWhitelist is returned when the whitelist is malformed, was altered,
	// or is of a kind that is not supported.
	ErrWhitelist = errors.New("bad whitelist")
	// ErrExpired is returned when the whitelist is past its date.
	ErrExpired = errors.New("whitelist expired")
	// ErrCertificate is returned when the certificate cannot be read, or is
	// not on the whitelist.
	ErrCertificate = errors.New("bad certificate")
	// ErrSignature is returned when a signature was not made by the key that
	// must have made it.
	ErrSignature = errors.New("bad signature")
	// ErrName is returned when the manifest or the whitelist is that of
	// another repository.
	ErrName = errors.New("wrong repository name")
	// ErrBlacklisted is returned when the site's blacklist forbids the
	// certificate or the revision.
	ErrBlacklisted = errors.New("blacklisted")
	// ErrKeys is returned when there is no usable master key.
	ErrKeys = errors.New("bad master key")
	// ErrBlacklist is returned when a blacklist cannot be read.
	ErrBlacklist = errors.New("bad blacklist")
)

// Evidence is what a server says of itself. The certificate is the inflated
// object that the manifest's field X names.
type Evidence struct {
	Manifest, Whitelist, Certificate []byte
}

// Policy is what this machine knows beforehand. Only Blacklist may be nil.
type Policy struct {
	FQRN      string    // the name under which the repository is mounted
	Keys      Keys      // any one of them may have signed the whitelist
	Now       time.Time // compared to the whitelist's expiry
	Blacklist *Blacklist
}

// Verify returns the manifest if every link of the chain holds, else an error
// that wraps the sentinel of the first one that does not.
func Verify(e Evidence, p Policy) (*Manifest, error) {
	m, err := ParseManifest(e.Manifest)
	if err != nil {
		return nil, err
	}
	if err := m.CheckName(p.FQRN); err != nil {
		return nil, err
	}
	w, err := ParseWhitelist(e.Whitelist)
	if err != nil {
		return nil, err
	}
	if err := w.Verify(p.Keys, p.FQRN, p.Now); err != nil {
		return nil, err
	}
	c, err := ParseCertificate(e.Certificate)
	if err != nil {
		return nil, err
	}
	if err := p.Blacklist.CheckCertificate(c); err != nil {
		return nil, err
	}
	if err := w.CheckCertificate(c); err != nil {
		return nil, err
	}
	if err := m.Verify(c); err != nil {
		return nil, err
	}
	if err := p.Blacklist.CheckRevision(p.FQRN, m.Revision); err != nil {
		return nil, err
	}
	return m, nil
}

// minBits and maxBits bound an RSA modulus. Go refuses less than the former for
// verification; the latter keeps a hostile certificate from costing seconds.
const (
	minBits = 1024
	maxBits = 16384
)

// checkKey says what is wrong with a key, in words.
func checkKey(k *rsa.PublicKey) error {
	if n := k.N.BitLen(); n < minBits || n > maxBits {
		return fmt.Errorf("RSA key of %d bits, accepted are %d to %d", n, minBits, maxBits)
	}
	return nil
}

// verifyDigest checks a manifest's signature: PKCS#1 v1.5 with SHA-1 of text.
func verifyDigest(k *rsa.PublicKey, text string, sig []byte) error {
	d := sha1.Sum([]byte(text))
	return rsa.VerifyPKCS1v15(k, crypto.SHA1, d[:], sig)
}

// verifyBare checks a whitelist's signature: PKCS#1 type 1 padding around the
// text itself, without DigestInfo.
func verifyBare(k *rsa.PublicKey, text string, sig []byte) error {
	return rsa.VerifyPKCS1v15(k, 0, []byte(text), sig)
}
