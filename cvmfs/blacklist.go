package cvmfs

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"

	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

// maxBlacklist bounds a site's blacklist, bytes.
const maxBlacklist = 1 << 20

// A site's blacklist forbids certificates and revisions, whoever signed them
// (trust.Blacklist). It is read anew at each look at the manifest:
//
//   - A repository whose servers offer nothing that is allowed is not opened; a
//     pin to a forbidden revision isn't either. The error wraps ErrBlacklisted.
//   - A repository that is open moves to a newer revision that is allowed, as it
//     does anyway. While there is none, it stays at the one it shows, says so at
//     each look, and Head.Forbidden has the reason. The reference client aborts
//     then, and every job that runs from the mount dies. The list is mostly
//     there to get clients off a broken revision, and its content does not get
//     worse while it is read; who wants it gone at once unmounts.
//   - A list that cannot be read or parsed forbids opening and moving, since to
//     leave out a line might allow what the site meant to forbid. A file that
//     does not exist forbids nothing, so that a site can configure it before
//     there is something to forbid.

// ErrBlacklisted is returned when the site's blacklist forbids the certificate
// or the revision.
var ErrBlacklisted = trust.ErrBlacklisted

// blacklist reads the configured blacklist; nil where there is none.
func (r *Repository) blacklist() (*trust.Blacklist, error) {
	if r.opts.BlacklistFile == "" {
		return nil, nil
	}
	f, err := os.Open(r.opts.BlacklistFile)
	if errors.Is(err, iofs.ErrNotExist) {
		if !r.opts.BlacklistMayLack {
			r.noBlacklist.Do(func() {
				r.log.Warn("the blacklist does not exist: nothing is forbidden", "repo", r.opts.FQRN, "path", r.opts.BlacklistFile)
			})
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("blacklist: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBlacklist+1))
	if err != nil {
		return nil, fmt.Errorf("blacklist: %w", err)
	}
	l, err := trust.ParseBlacklist(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.opts.BlacklistFile, err)
	}
	return l, nil
}

// permitted reports by an error that wraps ErrBlacklisted that the revision of
// head, whose root catalog was loaded, must not be shown.
func (r *Repository) permitted(head *Head) error {
	l, err := r.blacklist()
	if err != nil {
		return err
	}
	return l.CheckRevision(r.opts.FQRN, head.Revision)
}
