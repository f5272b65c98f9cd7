package integration

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// refusals are the cases of the negative set that must not mount, with words
// that the reason must have.
var refusals = map[string][]string{
	"certificate-corrupt":                  {"certificate"},
	"manifest-bad-signature":               {"manifest", "signature"},
	"manifest-body-changed":                {"manifest", "hash"},
	"manifest-body-changed-rehashed":       {"manifest", "signature"},
	"manifest-empty":                       {"manifest", "empty"},
	"manifest-root-catalog-missing":        {"catalog", "abababab", "404"},
	"manifest-signed-by-other-certificate": {"manifest", "signature"},
	"manifest-truncated":                   {"manifest"},
	"manifest-wrong-name":                  {"manifest", "other.example.org"},
	"manifest-wrong-root-path":             {"manifest", "root path"},
	"root-catalog-corrupt":                 {"catalog", "hash"},
	"root-catalog-truncated":               {"catalog", "hash"},
	"whitelist-bad-signature":              {"whitelist", "signature"},
	"whitelist-body-changed":               {"whitelist", "hash"},
	"whitelist-empty":                      {"whitelist", "empty"},
	"whitelist-expired":                    {"whitelist", "expired"},
	"whitelist-fingerprint-not-listed":     {"whitelist", "certificate"},
	"whitelist-truncated":                  {"whitelist"},
	"whitelist-wrong-master-key":           {"whitelist", "signature"},
	"whitelist-wrong-name":                 {"whitelist", "other.example.org"},
}

// goldenCases lists the cases of a repository's negative set.
func goldenCases(t *testing.T, fqrn string) (names []string) {
	t.Helper()
	f, err := os.Open(golden.Path(t, "cvmfs", "negative", fqrn+".verdicts.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, _, _ := strings.Cut(lines.Text(), "\t"); !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	folders, err := os.ReadDir(golden.Path(t, "cvmfs", "negative", fqrn))
	if err != nil || len(folders) != len(names) || len(names) < 20 {
		t.Fatalf("%d verdicts, %d folders, %v", len(names), len(folders), err)
	}
	return names
}

// TestGoldenNegatives gives each bad repository its verdict: it is refused with
// the reason, or one object of it cannot be read, or it is good after all.
func TestGoldenNegatives(t *testing.T) {
	for _, fqrn := range []string{"alpha.golden.test", "beta.golden.test"} {
		for _, name := range goldenCases(t, fqrn) {
			t.Run(fqrn+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := setup{Sources: []source{newStratum(t).Golden(fqrn, goldenCase(t, fqrn, name))}}
				words, isRefused := refusals[name]
				switch {
				case isRefused:
					checkRefusal(t, s, fqrn, words)
				case strings.HasPrefix(name, "object-README-"):
					checkBadObject(t, s, fqrn, name)
				case strings.HasPrefix(name, "ok-"):
					checkGoodMount(t, s, fqrn)
				default:
					t.Error("no verdict is known for this case")
				}
			})
		}
	}
}

func checkRefusal(t *testing.T, s setup, fqrn string, words []string) {
	const untrusted = 4
	r := refused(t, s)
	t.Logf("%s: %s", r.Took, r.Stderr)
	if r.Status != untrusted {
		t.Errorf("exit status %d, want %d", r.Status, untrusted)
	}
	for _, w := range append(words, fqrn) {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("the reason does not say %q: %s", w, r.Stderr)
		}
	}
}

// checkBadObject reads the whole tree twice. README.txt alone fails, each time,
// and the log says why, once.
func checkBadObject(t *testing.T, s setup, fqrn, name string) {
	const bad = "/README.txt"
	m := mount(t, s)
	want := goldenListing(t, fqrn, 3, nil)
	e := want[bad]
	e.Hash = unreadable
	want[bad] = e
	got, err := readListing(m.Raw(fqrn), -1)
	if err != nil {
		t.Fatal(err)
	}
	sameListing(t, "first time", got, want)
	if b, err := os.ReadFile(m.Raw(fqrn, bad)); err == nil || len(b) > 0 {
		t.Errorf("the second time %d bytes are read, %v", len(b), err)
	}
	objects, err := filepath.Glob(golden.Path(t, "cvmfs", "negative", fqrn, name, "data/*/*"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("objects of the case: %v, %v", objects, err)
	}
	object := filepath.Base(filepath.Dir(objects[0])) + "/" + filepath.Base(objects[0])
	lines := 0
	for line := range strings.Lines(m.Log()) {
		if strings.Contains(line, "level=ERROR") && strings.Contains(line, object) && strings.Contains(line, "README.txt") {
			lines++
		}
	}
	if lines != 1 {
		t.Errorf("the log names object %s %d times as an error, want once", object, lines)
	}
	if s := m.Status(); s.IOErrors == 0 || s.Sources[0].VerifyFailures == 0 {
		t.Errorf("status counts %d I/O errors, %d objects that were refused", s.IOErrors, s.Sources[0].VerifyFailures)
	}
}

func checkGoodMount(t *testing.T, s setup, fqrn string) {
	m := mount(t, s)
	got, err := readEntry(m.Raw(fqrn, "README.txt"))
	if err == nil {
		got.Hash, err = hashFile(m.Raw(fqrn, "README.txt"))
	}
	if want := goldenListing(t, fqrn, 3, nil)["/README.txt"]; err != nil || got != want {
		t.Errorf("README.txt %+v, %v; want %+v", got, err, want)
	}
}
