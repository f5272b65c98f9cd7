package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

var sentinels = []error{ErrManifest, ErrWhitelist, ErrExpired, ErrCertificate, ErrSignature, ErrName, ErrBlacklisted, ErrKeys, ErrBlacklist}

// checkSentinel checks that err wraps want and none of the other sentinels.
func checkSentinel(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil {
		t.Errorf("error %v, want none", err)
	}
	for _, s := range sentinels {
		if got := errors.Is(err, s); got != (s == want) {
			t.Errorf("error %q: wraps %q is %v, want the sentinel %v", err, s, got, want)
		}
	}
}

// A world is one repository's keys, for tests that need a signature.
type world struct {
	master, repo *rsa.PrivateKey
	cert         []byte // PEM
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{master: mustRSA(t, 1024), repo: mustRSA(t, 1024)}
	w.cert = selfSigned(t, &w.repo.PublicKey, w.repo)
	return w
}

func mustRSA(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func selfSigned(t *testing.T, pub, priv any) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func seal(a hash.Algorithm, body string, sign func(text string) ([]byte, error)) []byte {
	text := hash.Sum(a, []byte(body)).String()
	sig, err := sign(text)
	if err != nil {
		panic(err)
	}
	return append([]byte(body+"--\n"+text+"\n"), sig...)
}

func (w *world) manifest(a hash.Algorithm, body string) []byte {
	return seal(a, body, func(s string) ([]byte, error) {
		d := sha1.Sum([]byte(s))
		return rsa.SignPKCS1v15(rand.Reader, w.repo, crypto.SHA1, d[:])
	})
}

func (w *world) whitelist(a hash.Algorithm, body string) []byte {
	return seal(a, body, func(s string) ([]byte, error) { return rsa.SignPKCS1v15(rand.Reader, w.master, 0, []byte(s)) })
}

const rootHash = "f6fd396542dd884dabf29d509ff6b7743ad25fab"

// manifestBody is the least that a manifest must say, and its name.
func manifestBody(extra ...string) string {
	return "C" + rootHash + "\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS7\nNr.example.org\n" + strings.Join(extra, "")
}

func (w *world) whitelistBody(t *testing.T, a hash.Algorithm) string {
	t.Helper()
	c, err := ParseCertificate(w.cert)
	if err != nil {
		t.Fatal(err)
	}
	return "20260101000000\nE20300102133000\nNr.example.org\n" + FormatFingerprint(c.Fingerprint(a)) + "\n"
}

// at is before the expiry of whitelistBody.
var at = time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)

func TestEveryAlgorithmSealsAndLists(t *testing.T) {
	w := newWorld(t)
	for _, line := range []hash.Algorithm{hash.MD5, hash.SHA1, hash.RMD160, hash.SHAKE128} {
		for _, print := range []hash.Algorithm{hash.SHA1, hash.RMD160, hash.SHAKE128} {
			e := Evidence{w.manifest(line, manifestBody()), w.whitelist(line, w.whitelistBody(t, print)), w.cert}
			m, err := Verify(e, Policy{FQRN: "r.example.org", Keys: Keys{&w.master.PublicKey}, Now: at})
			if err != nil || m.Revision != 7 || m.RootCatalog.String() != rootHash {
				t.Errorf("hash line %d, fingerprint %d: %v", line, print, err)
			}
		}
	}
}

func TestSignatureFormsAreNotInterchangeable(t *testing.T) {
	w := newWorld(t)
	p := Policy{FQRN: "r.example.org", Keys: Keys{&w.master.PublicKey}, Now: at}
	swapped := &world{master: w.repo, repo: w.master}
	good := Evidence{w.manifest(hash.SHA1, manifestBody()), w.whitelist(hash.SHA1, w.whitelistBody(t, hash.SHA1)), w.cert}
	bare := good
	bare.Manifest = swapped.whitelist(hash.SHA1, manifestBody())
	wrapped := good
	wrapped.Whitelist = swapped.manifest(hash.SHA1, w.whitelistBody(t, hash.SHA1))
	for name, e := range map[string]Evidence{"bare manifest": bare, "wrapped whitelist": wrapped} {
		if _, err := Verify(e, p); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
}

func TestManifestFields(t *testing.T) {
	w := newWorld(t)
	full := manifestBody("B314368\nGyes\nAno\nX"+rootHash+"-rmd160\nH"+rootHash+"-shake128\nM"+rootHash+"\nT1795416124\n",
		"Lx\nYx\nYx\nZ\n%odd\n\nQ1\nQ2\nBB\n")
	if _, err := ParseManifest(w.manifest(hash.SHA1, full)); err == nil {
		t.Error("two B fields were accepted")
	}
	m, err := ParseManifest(w.manifest(hash.SHA1, strings.TrimSuffix(full, "BB\n")))
	if err != nil {
		t.Fatal(err)
	}
	if m.RootSize != 314368 || !m.GarbageCollectable || m.AltPath || m.TTL != 4*time.Minute || m.Revision != 7 ||
		m.Certificate.Algorithm != hash.RMD160 || m.History.Algorithm != hash.SHAKE128 || m.MetaInfo.IsZero() ||
		!m.Published.Equal(time.Unix(1795416124, 0)) || m.Name != "r.example.org" {
		t.Errorf("manifest %+v", m)
	}
}

func TestManifestRefusals(t *testing.T) {
	w := newWorld(t)
	without := func(c string) string {
		var b strings.Builder
		for l := range strings.Lines(manifestBody()) {
			if !strings.HasPrefix(l, c) {
				b.WriteString(l)
			}
		}
		return b.String()
	}
	bodies := map[string]string{
		"no C": without("C"), "no R": without("R"), "no D": without("D"), "no S": without("S"),
		"C twice":          manifestBody("C" + rootHash + "\n"),
		"empty C":          without("C") + "C\n",
		"C of MD5":         without("C") + "Cd41d8cd98f00b204e9800998ecf8427e\n",
		"C of odd hash":    without("C") + "C" + rootHash + "-sha3\n",
		"S negative":       without("S") + "S-1\n",
		"S with sign":      without("S") + "S+1\n",
		"S with blank":     without("S") + "S1 \n",
		"S too large":      without("S") + "S18446744073709551616\n",
		"S with CR":        without("S") + "S7\r\n",
		"D overflows":      without("D") + "D9223372036854775807\n",
		"B negative":       manifestBody("B-1\n"),
		"B too large":      manifestBody("B9223372036854775808\n"),
		"T too large":      manifestBody("T99999999999999\n"),
		"G neither":        manifestBody("Gmaybe\n"),
		"A neither":        manifestBody("A\n"),
		"root path":        without("R") + "R" + strings.Repeat("0", 32) + "\n",
		"larger than 64K":  manifestBody("Q" + strings.Repeat("x", MaxSize) + "\n"),
		"only empty lines": "\n\n",
	}
	for name, body := range bodies {
		_, err := ParseManifest(w.manifest(hash.SHA1, body))
		t.Run(name, func(t *testing.T) { checkSentinel(t, err, ErrManifest) })
	}
	good := string(w.manifest(hash.SHA1, manifestBody()))
	head, _, _ := strings.Cut(good, "--\n")
	for name, raw := range map[string]string{
		"html":            "<html><body>Please log in\n--\n</body></html>",
		"nul bytes":       strings.Repeat("\x00", 600),
		"no signature":    head + "--\n" + hash.Sum(hash.SHA1, []byte(head)).String() + "\n",
		"no hash line":    head + "--\n",
		"huge signature":  good + strings.Repeat("x", maxSignature),
		"mark at start":   "--\n" + good,
		"one byte before": "x" + good,
	} {
		_, err := ParseManifest([]byte(raw))
		t.Run(name, func(t *testing.T) { checkSentinel(t, err, ErrManifest) })
	}
	for n := range len(good) - 128 {
		if _, err := ParseManifest([]byte(good[:n])); !errors.Is(err, ErrManifest) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestWhitelistRefusals(t *testing.T) {
	w := newWorld(t)
	body := w.whitelistBody(t, hash.SHA1)
	head := "20260101000000\nE20300102000000\nNr.example.org\n"
	for name, b := range map[string]string{
		"two lines":        "20260101000000\nE20300102000000\n",
		"no fingerprint":   head,
		"comment only":     head + "# nobody\n\n",
		"bad issue date":   "2026010100000\nE20300102000000\nNx\n",
		"bad expiry":       "20260101000000\nE20301302000000\nNx\n",
		"expiry not E":     "20260101000000\n20300102000000\nNx\n",
		"fractional":       "20260101000000\nE20300102000000.5\nNx\n",
		"no name":          "20260101000000\nE20300102000000\nAA:BB\n",
		"short print":      head + "AA:BB\n",
		"wrong separator":  strings.Replace(body, ":", ".", 1),
		"no hex":           head + strings.Repeat("ZZ:", 19) + "ZZ\n",
		"unknown hash":     strings.TrimSuffix(body, "\n") + "-MD5\n",
		"pkcs7":            head + "Vpkcs7\n" + body,
		"chain":            head + "Wcachain\n" + body,
		"larger than 64 K": body + strings.Repeat("# x\n", MaxSize/4),
	} {
		_, err := ParseWhitelist(w.whitelist(hash.SHA1, b))
		t.Run(name, func(t *testing.T) { checkSentinel(t, err, ErrWhitelist) })
	}
}

// TestWhitelistOfANewerCVMFS: what is not known beside a fingerprint that is.
func TestWhitelistOfANewerCVMFS(t *testing.T) {
	w := newWorld(t)
	known := w.whitelistBody(t, hash.SHA1)
	for _, line := range []string{"AA:BB:CC-SHA256", "!0c2lnbmF0dXJl", "Xfuture"} {
		e := Evidence{w.manifest(hash.SHA1, manifestBody()), w.whitelist(hash.SHA1, known+line+"\n"), w.cert}
		if _, err := Verify(e, Policy{FQRN: "r.example.org", Keys: Keys{&w.master.PublicKey}, Now: at}); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestExpiryCountsFullHours(t *testing.T) {
	w := newWorld(t)
	l, err := ParseWhitelist(w.whitelist(hash.SHA1, w.whitelistBody(t, hash.SHA1)))
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2030, 1, 2, 13, 0, 0, 0, time.UTC) // the list says 13:30
	keys := Keys{&w.master.PublicKey}
	if err := l.Verify(keys, "r.example.org", end); err != nil {
		t.Errorf("at the hour: %v", err)
	}
	err = l.Verify(keys, "r.example.org", end.Add(time.Second).In(time.FixedZone("east", 10*3600)))
	checkSentinel(t, err, ErrExpired)
	want := "whitelist expired: the whitelist of r.example.org expired on 2030-01-02: the server's administrator must re-sign it, or check this machine's clock (it says 2030-01-02)"
	if err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
	checkSentinel(t, l.Verify(nil, "r.example.org", end), ErrKeys)
}

func TestCertificateRefusals(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := mustRSA(t, 1024)
	small := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 511, 1), E: 65537}
	large := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), maxBits, 1), E: 65537}
	for name, b := range map[string][]byte{
		"nothing":      nil,
		"text":         []byte("hello"),
		"other PEM":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"damaged":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0x82}}),
		"EC key":       selfSigned(t, &ec.PublicKey, ec),
		"512 bits":     selfSigned(t, small, signer),
		"16,385 bits":  selfSigned(t, large, signer),
		"above 64 KiB": make([]byte, MaxSize+1),
	} {
		_, err := ParseCertificate(b)
		t.Run(name, func(t *testing.T) { checkSentinel(t, err, ErrCertificate) })
	}
	p, _ := pem.Decode(selfSigned(t, &signer.PublicKey, signer))
	if _, err := ParseCertificate(p.Bytes); err != nil {
		t.Errorf("DER: %v", err)
	}
}

// TestOnlyTheKeyOfACertificateCounts: what OpenSSL takes and x509.ParseCertificate
// does not, as CVMFS's own certificates have it.
func TestOnlyTheKeyOfACertificateCounts(t *testing.T) {
	k := mustRSA(t, 1024)
	p, _ := pem.Decode(selfSigned(t, &k.PublicKey, k))
	for name, change := range map[string][2]string{
		"a serial number below 0":   {"\x02\x01\x01\x30", "\x02\x01\x81\x30"},
		"an odd letter in its name": {"\x13\x04test", "\x13\x04t@st"},
		"a month that there is not": {"\x17\x0d700101", "\x17\x0d701301"},
	} {
		der := bytes.Replace(p.Bytes, []byte(change[0]), []byte(change[1]), 1)
		if _, err := x509.ParseCertificate(der); err == nil {
			t.Errorf("%s: not changed", name)
		}
		for form, b := range map[string][]byte{
			"PEM": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "DER": der, "DER and more": append(bytes.Clone(der), 1, 2, 3),
		} {
			c, err := ParseCertificate(b)
			if err != nil || !c.key.Equal(&k.PublicKey) || c.Fingerprint(hash.SHA1) != hash.Sum(hash.SHA1, der) {
				t.Errorf("%s, %s: %v", name, form, err)
			}
		}
	}
}

func TestLoadKeys(t *testing.T) {
	dir := t.TempDir()
	k := &mustRSA(t, 1024).PublicKey
	spki, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ecder, _ := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	tiny, _ := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 767, 1), E: 65537})
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	write := func(name, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := write("keys/one.pub", "a comment\n"+block("PUBLIC KEY", spki))
	write("keys/two.pub", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(k))+block("PUBLIC KEY", spki))
	write("keys/README", "no key")
	got, err := LoadKeys(one, filepath.Join(dir, "keys"))
	if err != nil || len(got) != 4 {
		t.Fatalf("%d keys, %v; want 4", len(got), err)
	}
	for i := range got {
		if !got[i].Equal(k) {
			t.Errorf("key %d is another", i)
		}
	}
	bad := map[string]string{
		"empty":    write("empty.pub", ""),
		"private":  write("private.pub", block("PRIVATE KEY", spki)),
		"EC":       write("ec.pub", block("PUBLIC KEY", ecder)),
		"768":      write("tiny.pub", block("PUBLIC KEY", tiny)),
		"garbage":  write("garbage.pub", block("PUBLIC KEY", []byte("x"))+block("PUBLIC KEY", spki)),
		"pkcs1":    write("pkcs1.pub", block("RSA PUBLIC KEY", spki)),
		"large":    write("large.pub", strings.Repeat("\n", MaxSize+1)),
		"missing":  filepath.Join(dir, "nobody.pub"),
		"no *.pub": filepath.Dir(write("nokeys/README", "")),
	}
	for name, p := range bad {
		_, err := LoadKeys(p)
		t.Run(name, func(t *testing.T) {
			checkSentinel(t, err, ErrKeys)
			if !strings.Contains(fmt.Sprint(err), p) {
				t.Errorf("message %q does not name %s", err, p)
			}
		})
	}
	_, err = LoadKeys()
	checkSentinel(t, err, ErrKeys)
}
