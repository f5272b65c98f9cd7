package trust

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// seed adds the golden files that match; none is a failure, for a fuzzer that
// starts from nothing finds nothing.
func seed(f *testing.F, patterns ...string) {
	f.Helper()
	dir := golden.Path(f, "cvmfs")
	for _, p := range patterns {
		for _, name := range mustGlob(f, 1, dir, p) {
			f.Add(mustRead(f, name))
		}
	}
}

func FuzzManifest(f *testing.F) {
	seed(f, "*/.cvmfspublished", "manifests/*/*", "negative/*/*/.cvmfspublished")
	key := mustKeys(f, filepath.Join(golden.Path(f, "cvmfs"), "keys"))[0]
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			checkSentinel(t, err, ErrManifest)
			return
		}
		if m.RootCatalog.IsZero() || m.RootCatalog.Algorithm == hash.MD5 || m.TTL < 0 || m.TTL > maxTTL || m.RootSize < 0 {
			t.Errorf("manifest %+v", m)
		}
		if m.Verify(&Certificate{key: key}) == nil {
			t.Error("a master key's public half verified a manifest")
		}
	})
}

func FuzzWhitelist(f *testing.F) {
	seed(f, "*/.cvmfswhitelist", "negative/*/*/.cvmfswhitelist")
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := ParseWhitelist(b)
		if err != nil {
			checkSentinel(t, err, ErrWhitelist)
			return
		}
		if len(w.Fingerprints) == 0 || w.Expires.Minute() != 0 {
			t.Errorf("whitelist %+v", w)
		}
		for _, h := range w.Fingerprints {
			if got, err := parseFingerprint(FormatFingerprint(h)); err != nil || got != h {
				t.Errorf("fingerprint %v comes back as %v, %v", h, got, err)
			}
		}
	})
}

// FuzzBlacklist starts from whitelists, whose lines have the same fingerprints:
// there is no golden blacklist.
// FuzzCertificate: what is a certificate to this package and not to crypto/x509 has
// the same key, and what is one to both has the same bytes.
func FuzzCertificate(f *testing.F) {
	dir := golden.Path(f, "cvmfs")
	seeds := 0
	for _, name := range mustGlob(f, 1, dir, "*/data/*/*X") {
		if b, err := inflate(mustRead(f, name)); err == nil {
			p, _ := pem.Decode(b)
			f.Add(p.Bytes)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no golden certificate")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCertificate(b)
		if err != nil {
			checkSentinel(t, err, ErrCertificate)
		}
		x, xerr := x509.ParseCertificate(b)
		if xerr != nil {
			return
		}
		k, isRSA := x.PublicKey.(*rsa.PublicKey)
		if usable := isRSA && checkKey(k) == nil; usable != (err == nil) || usable && (!c.key.Equal(k) || !bytes.Equal(c.DER, x.Raw)) {
			t.Errorf("%v, of RSA %v", err, isRSA)
		}
	})
}

func FuzzBlacklist(f *testing.F) {
	seed(f, "*/.cvmfswhitelist")
	f.Add([]byte("# site\n<alpha.golden.test 7\nD5:E0:A5:06:FD:85:E3:44:31:E0:E7:F3:40:3B:D2:33:B0:89:5E:BD-RMD160\t# x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseBlacklist(b)
		if err != nil {
			checkSentinel(t, err, ErrBlacklist)
			return
		}
		for n, v := range l.MinRevision {
			if v > 0 && l.CheckRevision(n, v-1) == nil || l.CheckRevision(n, v) != nil {
				t.Errorf("revision %d of %q", v, n)
			}
		}
	})
}
