package trust

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

// A Blacklist is what a site forbids, whoever signed it. A nil Blacklist forbids
// nothing.
type Blacklist struct {
	Fingerprints []hash.Hash       // of certificates
	MinRevision  map[string]uint64 // by fqrn: lower revisions are forbidden
}

// maxBlacklist bounds a blacklist, in bytes; it may come from a repository.
const maxBlacklist = 1 << 20

// ParseBlacklist reads a CVMFS blacklist file: on each line the fingerprint of a
// certificate, or "<fqrn N", which forbids all revisions below N. What follows #
// is comment. A line that cannot be read is an error that wraps ErrBlacklist:
// to leave it out might allow what the site meant to forbid.
func ParseBlacklist(b []byte) (*Blacklist, error) {
	if len(b) > maxBlacklist {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrBlacklist, maxBlacklist)
	}
	l := &Blacklist{MinRevision: make(map[string]uint64)}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if err := l.line(strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrBlacklist, n, err)
		}
	}
	return l, nil
}

func (l *Blacklist) line(s string) error {
	rule, ok := strings.CutPrefix(s, "<")
	if !ok {
		h, err := parseFingerprint(s)
		if err == nil && !h.IsZero() {
			l.Fingerprints = append(l.Fingerprints, h)
		}
		return err
	}
	rule, _, _ = strings.Cut(rule, "#")
	f := strings.Fields(rule)
	if len(f) != 2 {
		return errors.New(`want "<name revision"`)
	}
	v, err := number(f[1], math.MaxUint64)
	if err != nil {
		return err
	}
	l.MinRevision[f[0]] = max(l.MinRevision[f[0]], v)
	return nil
}

// CheckCertificate reports by an error that wraps ErrBlacklisted that c is on
// the list.
func (l *Blacklist) CheckCertificate(c *Certificate) error {
	if l == nil {
		return nil
	}
	i := slices.IndexFunc(l.Fingerprints, func(f hash.Hash) bool { return c.Fingerprint(f.Algorithm) == f })
	if i >= 0 {
		return fmt.Errorf("%w: this site's blacklist forbids the repository's certificate %s", ErrBlacklisted, FormatFingerprint(l.Fingerprints[i]))
	}
	return nil
}

// CheckRevision reports by an error that wraps ErrBlacklisted that the revision
// of fqrn is forbidden.
func (l *Blacklist) CheckRevision(fqrn string, revision uint64) error {
	if l == nil || revision >= l.MinRevision[fqrn] {
		return nil
	}
	return fmt.Errorf("%w: this site's blacklist forbids %s below revision %d, the server has %d: wait for it to catch up, or use another server",
		ErrBlacklisted, fqrn, l.MinRevision[fqrn], revision)
}
