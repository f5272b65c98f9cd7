package trust

import (
	"bytes"
	"compress/zlib"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

func mustRead(tb testing.TB, path ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func mustGlob(tb testing.TB, want int, path ...string) []string {
	tb.Helper()
	f, err := filepath.Glob(filepath.Join(path...))
	if err != nil || len(f) < want {
		tb.Fatalf("%v: %d files, %v; want at least %d", path, len(f), err, want)
	}
	return f
}

// goldenTime lies between issue and expiry of every golden whitelist, and after
// the certificates' end, which must not matter.
var goldenTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func mustKeys(tb testing.TB, paths ...string) Keys {
	tb.Helper()
	k, err := LoadKeys(paths...)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func inflate(b []byte) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, 1<<20))
}

// readEvidence reads what a client would fetch, each file from the first of dirs
// that has it. The certificate is nil when the manifest names none or it cannot
// be inflated.
func readEvidence(tb testing.TB, manifest []byte, dirs ...string) Evidence {
	tb.Helper()
	open := func(name string) []byte {
		for _, d := range dirs {
			if b, err := os.ReadFile(filepath.Join(d, name)); err == nil {
				return b
			}
		}
		tb.Fatalf("%s is in none of %v", name, dirs)
		return nil
	}
	if manifest == nil {
		manifest = open(".cvmfspublished")
	}
	e := Evidence{Manifest: manifest, Whitelist: open(".cvmfswhitelist")}
	if m, err := ParseManifest(manifest); err == nil {
		e.Certificate, _ = inflate(open(m.Certificate.Path(hash.Certificate)))
	}
	return e
}

func TestGoldenChain(t *testing.T) {
	dir := golden.Path(t, "cvmfs")
	keys := mustKeys(t, filepath.Join(dir, "keys")) // all four: any one may fit
	for _, p := range mustGlob(t, 10, dir, "manifests", "*", "*.cvmfspublished") {
		fqrn := filepath.Base(filepath.Dir(p))
		t.Run(fqrn+"/"+filepath.Base(p), func(t *testing.T) {
			e := readEvidence(t, mustRead(t, p), filepath.Join(dir, fqrn))
			m, err := Verify(e, Policy{FQRN: fqrn, Keys: keys, Now: goldenTime})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, fqrn, m.RootCatalog.Path(hash.Catalog))); err != nil {
				t.Errorf("root catalog: %v", err)
			}
			if m.Name != fqrn || m.RootSize == 0 || m.Revision < 2 || m.History.IsZero() || m.MetaInfo.IsZero() ||
				m.Published.Year() != 2026 || m.AltPath || m.GarbageCollectable != strings.HasPrefix(fqrn, "gamma") {
				t.Errorf("manifest %+v", m)
			}
			if want := map[bool]time.Duration{true: time.Minute, false: 4 * time.Minute}[strings.HasPrefix(fqrn, "beta")]; m.TTL != want {
				t.Errorf("TTL %v, want %v", m.TTL, want)
			}
		})
	}
}

func TestGoldenServedManifestIsTheLastRevision(t *testing.T) {
	dir := golden.Path(t, "cvmfs")
	for fqrn, rev := range map[string]uint64{"alpha.golden.test": 4, "beta.golden.test": 4, "gamma.golden.test": 7, "delta.golden.test": 2} {
		keys := mustKeys(t, filepath.Join(dir, "keys", fqrn+".pub"))
		m, err := Verify(readEvidence(t, nil, filepath.Join(dir, fqrn)), Policy{FQRN: fqrn, Keys: keys, Now: goldenTime})
		if err != nil || m.Revision != rev {
			t.Errorf("%s: %v, want revision %d", fqrn, err, rev)
		}
	}
}

// negatives names the link that must fail in each case of the golden set; nil is
// for a chain that holds, the fault being none or in an object below it.
var negatives = map[string]error{
	"certificate-corrupt":                        ErrCertificate,
	"manifest-bad-signature":                     ErrSignature,
	"manifest-body-changed":                      ErrManifest,
	"manifest-body-changed-rehashed":             ErrSignature,
	"manifest-empty":                             ErrManifest,
	"manifest-root-catalog-missing":              nil,
	"manifest-signed-by-other-certificate":       ErrSignature,
	"manifest-truncated":                         ErrManifest,
	"manifest-wrong-name":                        ErrName,
	"manifest-wrong-root-path":                   ErrManifest,
	"object-README-bitflip":                      nil,
	"object-README-swapped-content":              nil,
	"object-README-truncated":                    nil,
	"object-README-zip-bomb":                     nil,
	"ok-manifest-unknown-field":                  nil,
	"ok-whitelist-two-fingerprints-with-comment": nil,
	"root-catalog-corrupt":                       nil,
	"root-catalog-truncated":                     nil,
	"whitelist-bad-signature":                    ErrSignature,
	"whitelist-body-changed":                     ErrWhitelist,
	"whitelist-empty":                            ErrWhitelist,
	"whitelist-expired":                          ErrExpired,
	"whitelist-fingerprint-not-listed":           ErrCertificate,
	"whitelist-truncated":                        ErrSignature,
	"whitelist-wrong-master-key":                 ErrSignature,
	"whitelist-wrong-name":                       ErrName,
}

func TestGoldenNegatives(t *testing.T) {
	dir := golden.Path(t, "cvmfs")
	for _, verdicts := range mustGlob(t, 2, dir, "negative", "*.verdicts.tsv") {
		fqrn := strings.TrimSuffix(filepath.Base(verdicts), ".verdicts.tsv")
		keys := mustKeys(t, filepath.Join(dir, "keys", fqrn+".pub"))
		for line := range strings.Lines(string(mustRead(t, verdicts))) {
			f := strings.Split(line, "\t")
			if strings.HasPrefix(line, "#") {
				continue
			}
			t.Run(fqrn+"/"+f[0], func(t *testing.T) {
				want, known := negatives[f[0]]
				if !known {
					t.Fatal("no verdict for this case in the test")
				}
				e := readEvidence(t, nil, filepath.Join(dir, "negative", fqrn, f[0]), filepath.Join(dir, fqrn))
				m, err := Verify(e, Policy{FQRN: fqrn, Keys: keys, Now: goldenTime})
				checkSentinel(t, err, want)
				if want != nil && m != nil {
					t.Error("a manifest was returned with the error")
				}
				if mounts := f[1] == "0"; mounts && err != nil {
					t.Error("the reference client mounts this")
				}
			})
		}
	}
}
