package trust

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A Manifest says which revision of a repository is current. It is signed text
// and worth nothing before [Manifest.Verify].
type Manifest struct {
	RootCatalog hash.Hash // C
	RootSize    int64     // B: bytes of the inflated root catalog, 0 if not told
	TTL         time.Duration
	Revision    uint64
	Name        string    // N: fqrn, empty if not told
	Certificate hash.Hash // X: zero if not told; then the manifest cannot be verified
	History     hash.Hash // H: zero if the repository has no tags
	MetaInfo    hash.Hash // M: zero if there is none
	Published   time.Time // T: UTC, zero if not told

	GarbageCollectable bool // G
	AltPath            bool // A: the root catalog also lies at .cvmfsalt-<hash>C

	signed    string
	signature []byte
}

// maxTTL bounds field D; what is above is a mistake (and would overflow).
const maxTTL = 100 * 365 * 24 * time.Hour

// ParseManifest reads a manifest and checks it against its own hash line, not
// against any key. C, R, D and S must be there; letters it does not know are
// ignored. Errors wrap ErrManifest.
func ParseManifest(raw []byte) (*Manifest, error) {
	f, err := parseFrame(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	m := &Manifest{signed: f.text, signature: f.signature}
	seen := make(map[byte]bool)
	for _, l := range f.lines {
		if l == "" {
			continue
		}
		set, known := fields[l[0]]
		if !known {
			continue
		}
		if seen[l[0]] {
			return nil, fmt.Errorf("%w: field %c appears twice", ErrManifest, l[0])
		}
		seen[l[0]] = true
		if err := set(m, l[1:]); err != nil {
			return nil, fmt.Errorf("%w: field %c: %w", ErrManifest, l[0], err)
		}
	}
	for _, c := range []byte("CRDS") {
		if !seen[c] {
			return nil, fmt.Errorf("%w: field %c is missing", ErrManifest, c)
		}
	}
	return m, nil
}

// fields reads each letter (CVMFS protocol, manifest.cc). L, Y and Z are known
// to CVMFS but of no use to a reader, and ignored like unknown ones.
var fields = map[byte]func(*Manifest, string) error{
	'C': func(m *Manifest, v string) error { return setHash(&m.RootCatalog, v) },
	'X': func(m *Manifest, v string) error { return setHash(&m.Certificate, v) },
	'H': func(m *Manifest, v string) error { return setHash(&m.History, v) },
	'M': func(m *Manifest, v string) error { return setHash(&m.MetaInfo, v) },
	'R': func(_ *Manifest, v string) error {
		if want := hash.Sum(hash.MD5, nil).String(); v != want {
			return fmt.Errorf("the root path's hash is %.60q, want %s", v, want)
		}
		return nil
	},
	'B': func(m *Manifest, v string) error {
		n, err := number(v, math.MaxInt64)
		m.RootSize = int64(n)
		return err
	},
	'D': func(m *Manifest, v string) error {
		n, err := number(v, uint64(maxTTL/time.Second))
		m.TTL = time.Duration(n) * time.Second
		return err
	},
	'S': func(m *Manifest, v string) error {
		n, err := number(v, math.MaxUint64)
		m.Revision = n
		return err
	},
	'T': func(m *Manifest, v string) error {
		n, err := number(v, math.MaxInt32<<8) // about the year 19400, fits every use of time.Time
		m.Published = time.Unix(int64(n), 0).UTC()
		return err
	},
	'N': func(m *Manifest, v string) error { m.Name = v; return nil },
	'G': func(m *Manifest, v string) error { return setBool(&m.GarbageCollectable, v) },
	'A': func(m *Manifest, v string) error { return setBool(&m.AltPath, v) },
}

// setHash reads the name of an object. MD5 names none.
func setHash(h *hash.Hash, v string) error {
	p, err := hash.Parse(v)
	if err != nil {
		return err
	}
	if p.Algorithm == hash.MD5 {
		return fmt.Errorf("%w: MD5 names no object", hash.ErrSyntax)
	}
	*h = p
	return nil
}

// number reads digits and nothing else (no sign, no blanks).
func number(v string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%.40q is no number from 0 to %d", v, limit)
	}
	return n, nil
}

func setBool(b *bool, v string) error {
	if v != "yes" && v != "no" {
		return fmt.Errorf("%.40q is neither yes nor no", v)
	}
	*b = v == "yes"
	return nil
}

// CheckName reports by an error that wraps ErrName that the manifest is not
// fqrn's, or names no repository.
func (m *Manifest) CheckName(fqrn string) error {
	if m.Name != fqrn {
		return fmt.Errorf("%w: the server's manifest is of %.80q, wanted %q: check the server's URL", ErrName, m.Name, fqrn)
	}
	return nil
}

// Verify checks that the holder of c's key signed the manifest. It says nothing
// of whether c may be believed. Errors wrap ErrSignature or ErrCertificate.
func (m *Manifest) Verify(c *Certificate) error {
	if err := verifyDigest(c.key, m.signed, m.signature); err != nil {
		return fmt.Errorf("%w: manifest of %.80q, revision %d, is not signed by the certificate that it names (another server may have a good copy): %w",
			ErrSignature, m.Name, m.Revision, err)
	}
	return nil
}
