package cvmfstest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

// keyBits is the size that the real server tools use.
const keyBits = 2048

// Keys are what a repository's administrator holds. To make them takes some
// tenths of a second; tests with several repositories may share them. They are
// safe for concurrent use.
type Keys struct {
	Master     *rsa.PrivateKey // signs whitelists
	Repository *rsa.PrivateKey // signs manifests, through a certificate
}

// NewKeys makes a pair of new keys.
func NewKeys() (*Keys, error) {
	m, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: make the master key: %w", err)
	}
	r, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: make the repository key: %w", err)
	}
	return &Keys{Master: m, Repository: r}, nil
}

// MasterPEM is the public master key as clients have it in a file *.pub.
func (k *Keys) MasterPEM() ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(&k.Master.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: write the master key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b}), nil
}

// Certificate is a self-signed certificate of the repository key, PEM, not yet
// deflated. It has expired, which must not matter to a client.
func (k *Keys) Certificate(fqrn string) ([]byte, error) {
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: fqrn + " CernVM-FS Release Managers"},
		NotBefore:    start,
		NotAfter:     start.AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.Repository.PublicKey, k.Repository)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: make the certificate of %s: %w", fqrn, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// SignManifest puts "--", the hash line and the repository key's signature
// behind body, which must end in a newline.
func (k *Keys) SignManifest(a hash.Algorithm, body []byte) ([]byte, error) {
	text := hash.Sum(a, body).String()
	d := sha1.Sum([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, k.Repository, crypto.SHA1, d[:])
	return seal(body, text, sig, err)
}

// SignWhitelist puts "--", the hash line and the master key's signature behind
// body, which must end in a newline.
func (k *Keys) SignWhitelist(a hash.Algorithm, body []byte) ([]byte, error) {
	text := hash.Sum(a, body).String()
	sig, err := rsa.SignPKCS1v15(nil, k.Master, 0, []byte(text)) // no DigestInfo: see package trust
	return seal(body, text, sig, err)
}

func seal(body []byte, text string, sig []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: sign: %w", err)
	}
	return bytes.Join([][]byte{body, []byte("--\n" + text + "\n"), sig}, nil), nil
}

// Whitelist is a signed whitelist of fqrn that lists one certificate (PEM).
func (k *Keys) Whitelist(fqrn string, a hash.Algorithm, certificate []byte, issued, expires time.Time) ([]byte, error) {
	c, err := trust.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("cvmfstest: whitelist of %s: %w", fqrn, err)
	}
	const stamp = "20060102150405"
	return k.SignWhitelist(a, fmt.Appendf(nil, "%s\nE%s\nN%s\n%s\n", issued.UTC().Format(stamp),
		expires.UTC().Format(stamp), fqrn, trust.FormatFingerprint(c.Fingerprint(a))))
}
