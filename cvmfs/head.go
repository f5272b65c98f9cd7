package cvmfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

// Bounds on manifest and whitelist, and on the certificate, bytes. It is fetched
// while the manifest is, and must find room beside it where there is little.
const (
	maxEvidence    = 256 << 10
	maxCertificate = 128 << 10
)

// Head is the revision that a repository shows.
type Head struct {
	Root      CatalogRef
	Revision  uint64 // 0 when only the root hash is known
	Published time.Time
	TTL       time.Duration // how long the manifest is believed
	Tag       string        // the tag it is pinned to, if any
	Pinned    bool          // never moves
	Offline   bool          // from the last verified manifest: no server answered
	Expired   time.Time     // when the whitelist's date was over, which is allowed; zero: it is not
	Forbidden string        // why the site's blacklist forbids it; "": it does not
	History   hash.Hash     // the tag database, if there is one
	MetaInfo  hash.Hash
	Checked   time.Time // when the manifest was verified
	AltRoot   bool      // the root catalog has an alternative path

	evidence *evidence // to be kept; nil: nothing newer than what is kept
	cause    error     // why it is offline
}

// locate finds the revision to show, following the configured pin.
func (r *Repository) locate(ctx context.Context) (*Head, error) {
	if r.opts.RootHash != "" {
		h, err := hash.Parse(r.opts.RootHash)
		if err != nil {
			return nil, fmt.Errorf("root_hash of %s: %w", r.opts.FQRN, err)
		}
		return &Head{Root: CatalogRef{Hash: h}, Pinned: true, Checked: r.opts.Now()}, nil
	}
	if _, err := r.blacklist(); err != nil {
		return nil, err // no server mends that
	}
	m, found, offline, err := r.manifest(ctx)
	if err != nil {
		return nil, err
	}
	if m.AltPath {
		r.objects.alt.Store(&m.RootCatalog)
	}
	head := &Head{
		Root: CatalogRef{Hash: m.RootCatalog, Size: m.RootSize}, Revision: m.Revision, Published: m.Published,
		TTL: m.TTL, Offline: offline != nil, cause: offline, History: m.History, MetaInfo: m.MetaInfo, Checked: r.opts.Now(), AltRoot: m.AltPath, evidence: found,
	}
	if expired := r.expired.Load(); expired != nil && !expired.IsZero() {
		head.Expired = *expired
		r.log.Warn("the whitelist's date is over, which --allow-expired-whitelist lets pass", "repo", r.opts.FQRN, "expired", expired.UTC())
	}
	if r.opts.Tag == "" && r.opts.Revision == 0 && r.opts.Date.IsZero() {
		return head, nil
	}
	return r.pin(ctx, head)
}

// pin moves head to the configured tag, revision or date.
func (r *Repository) pin(ctx context.Context, head *Head) (*Head, error) {
	head.Pinned = true
	if r.opts.Revision != 0 && r.opts.Revision == head.Revision {
		return head, nil
	}
	if head.History.IsZero() {
		return nil, fmt.Errorf("%s keeps no tags", r.opts.FQRN)
	}
	b, err := r.metadata(ctx, head.History, hash.History, maxMetadata)
	if err != nil {
		return nil, err
	}
	history, err := catalog.OpenHistoryBytes(b)
	if err != nil {
		return nil, fmt.Errorf("tag database of %s: %w", r.opts.FQRN, err)
	}
	defer history.Close()
	t, err := r.pinnedTag(ctx, history)
	if err != nil {
		return nil, err
	}
	head.Root = CatalogRef{Hash: t.Hash}
	head.Revision, head.Published, head.Tag = t.Revision, t.Timestamp, t.Name
	return head, nil
}

// pinnedTag finds the tag that the configuration means.
func (r *Repository) pinnedTag(ctx context.Context, history *catalog.History) (t catalog.Tag, err error) {
	switch {
	case r.opts.Tag != "":
		if t, err = history.ByName(ctx, r.opts.Tag); errors.Is(err, catalog.ErrNotFound) {
			err = fmt.Errorf("%s has no tag %q", r.opts.FQRN, r.opts.Tag)
		}
		return t, err
	case !r.opts.Date.IsZero():
		if t, err = history.ByDate(ctx, r.opts.Date); errors.Is(err, catalog.ErrNotFound) {
			err = fmt.Errorf("%s has no tag that is not after %s: choose a later date", r.opts.FQRN, r.opts.Date.UTC().Format(time.RFC3339))
		}
		return t, err
	}
	tags, err := history.Tags(ctx)
	if err != nil {
		return t, err
	}
	for _, t := range tags {
		if t.Revision == r.opts.Revision {
			return t, nil
		}
	}
	return t, fmt.Errorf("%s has no tag for revision %d: only tagged revisions can be pinned", r.opts.FQRN, r.opts.Revision)
}

// metadata returns a small object, of at most limit bytes, that is always compressed.
func (r *Repository) metadata(ctx context.Context, h hash.Hash, kind hash.Suffix, limit int64) ([]byte, error) {
	o, err := r.objects.get(ctx, object{hash: h, suffix: kind, size: -1, limit: limit})
	if err != nil {
		return nil, err
	}
	defer o.release()
	b := make([]byte, o.Size())
	_, err = o.ReadAt(b, 0)
	return b, err
}

// EvidenceBucket is where the Memo keeps the last verified manifest of each
// repository; what is put there should survive a kill.
const EvidenceBucket = "evidence"

// evidence is kept from one run to the next, so that a server that lags
// behind, or none at all, does not move us back.
type evidence struct {
	Manifest, Whitelist []byte
	// Certificate is kept with them: who could deny it to a node that has lost it
	// could offer an older revision again.
	Certificate []byte `json:",omitempty"`
}

// keep remembers what head, whose root catalog is there, was verified by. A tier
// that is filled for the first time has it at once, so that what is there is of use.
func (r *Repository) keep(ctx context.Context, head *Head) error {
	if head.evidence == nil {
		return nil
	}
	b, err := json.Marshal(head.evidence)
	if err != nil {
		return err
	}
	r.opts.Memo.Put(EvidenceBucket, r.opts.FQRN, b)
	head.evidence = nil
	if r.opts.Fill == nil {
		return nil
	}
	if _, err := r.opts.Fill.Head(ctx, r.opts.FQRN); errors.Is(err, iofs.ErrNotExist) {
		return r.opts.Fill.SetHead(r.opts.FQRN, b)
	}
	return nil
}

// Filled names the revision that is shown as the one of the tier that was filled,
// unless that has a newer one. A node that reaches no server starts from it: until
// what it needs of the new one is there, the one before serves it better.
func (r *Repository) Filled(ctx context.Context) error {
	_, newer, err := r.remembered(ctx, nil)
	b, ok := r.opts.Memo.Get(EvidenceBucket, r.opts.FQRN)
	if r.opts.Fill == nil || err != nil || newer != nil || !ok {
		return nil // pinned to a root hash, which no manifest names, or said already
	}
	return r.opts.Fill.SetHead(r.opts.FQRN, b)
}

// manifest fetches and verifies the manifest. It never returns an older one
// than was seen before; where the servers have none that holds, or none can be
// reached, it returns that one, and offline says why. found is what the manifest
// was verified by, nil if that is kept already.
func (r *Repository) manifest(ctx context.Context) (m *trust.Manifest, found *evidence, offline, err error) {
	known, seen, knownErr := r.remembered(ctx, nil)
	asking, cancel := ctx, func() {}
	if knownErr == nil {
		asking, cancel = sparing(ctx)
	}
	m, e, err := r.fetchManifest(asking, knownErr != nil)
	cancel()
	if err == nil && knownErr != nil {
		// The whitelist that was kept may have expired; what the manifest says
		// of the revision that was seen holds all the same.
		known, seen, knownErr = r.remembered(ctx, e.Whitelist)
	}
	switch {
	case err != nil && knownErr != nil && !errors.Is(knownErr, errNothing):
		return nil, nil, nil, fmt.Errorf("%w; what was verified before does not hold either: %w", err, knownErr)
	case err != nil && (knownErr != nil || ctx.Err() != nil || errors.Is(err, fetch.ErrClosed)):
		return nil, nil, nil, err
	case errors.Is(err, ErrBlacklisted):
		r.log.Warn("the servers offer what the site's blacklist forbids: keeping what was seen before", "repo", r.opts.FQRN, "revision", known.Revision, "err", err)
		return known, seen, nil, nil
	case err != nil:
		r.log.Warn("no server can be reached that has a sound manifest: going on with the last verified revision", "repo", r.opts.FQRN, "revision", known.Revision, "err", err)
		return known, seen, err, nil
	case knownErr == nil && (m.Revision < known.Revision || m.Published.Before(known.Published)):
		r.log.Warn("the servers offer an older revision than was seen before: keeping the newer", "repo", r.opts.FQRN, "offered", m.Revision, "revision", known.Revision)
		return known, seen, nil, nil
	}
	return m, &e, nil, nil
}

// sparing leaves a quarter of ctx's time: servers that do not even refuse would
// take all of it, and what is known could not be loaded any more.
func sparing(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end.Add(-time.Until(end)/4))
}

// errNothing is returned by remembered when no earlier run kept anything.
var errNothing = errors.New("nothing remembered")

// remembered verifies what an earlier run kept, by the given whitelist or, if
// that is nil, the one that was kept. Of that and of what lies in the shared tiers
// it is the newest that holds. by is what it was verified by, nil if the Memo has it.
func (r *Repository) remembered(ctx context.Context, whitelist []byte) (newest *trust.Manifest, by *evidence, err error) {
	var kept [][]byte
	own, ok := r.opts.Memo.Get(EvidenceBucket, r.opts.FQRN)
	if ok {
		kept = append(kept, own)
	}
	for _, t := range r.opts.Tiers {
		if b, err := t.Head(ctx, r.opts.FQRN); err == nil {
			kept = append(kept, b)
		}
	}
	err = errNothing
	for i, b := range kept {
		m, e, failed := r.recall(ctx, b, whitelist)
		switch {
		case failed != nil:
			err = failed
		case newest == nil || m.Revision > newest.Revision:
			newest, by = m, e
			if ok && i == 0 && whitelist == nil {
				by = nil
			}
		}
	}
	if newest != nil {
		return newest, by, nil
	}
	return nil, nil, err
}

// recall verifies evidence that was kept, by the given whitelist if there is one.
func (r *Repository) recall(ctx context.Context, kept, whitelist []byte) (*trust.Manifest, *evidence, error) {
	var e evidence
	if err := json.Unmarshal(kept, &e); err != nil {
		return nil, nil, err
	}
	if whitelist != nil {
		e.Whitelist = whitelist
	}
	m, err := trust.ParseManifest(e.Manifest)
	if err != nil {
		return nil, nil, err
	}
	m, err = r.verify(ctx, m, &e)
	return m, &e, err
}

// fetchManifest asks the servers in turn until one's manifest holds. needed: no
// other is known.
func (r *Repository) fetchManifest(ctx context.Context, needed bool) (m *trust.Manifest, e evidence, err error) {
	whitelist := make(chan error, 1)
	ctx, cancel := context.WithCancel(fetch.Urgent(ctx))
	defer cancel()
	var list []byte
	go func() { // beside the manifest: it saves a round trip
		var err error
		list, err = r.fetchWhitelist(ctx, needed)
		whitelist <- err
	}()
	var listErr error
	waited := false
	err = r.opts.Net.Get(ctx, fetch.Request{Path: ".cvmfspublished", Limit: maxEvidence, Hurry: true, Needed: needed, Accept: func(ctx context.Context, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return fmt.Errorf("%w: %w", fetch.ErrContent, err)
		}
		parsed, err := trust.ParseManifest(b)
		if err == nil {
			err = parsed.CheckName(r.opts.FQRN)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", fetch.ErrContent, err)
		}
		if !waited {
			listErr, waited = <-whitelist, true
		}
		if listErr != nil {
			return listErr // no other host's manifest mends that
		}
		e = evidence{Manifest: b, Whitelist: list}
		if m, err = r.verify(ctx, parsed, &e); err != nil {
			return fmt.Errorf("%w: %w", fetch.ErrContent, err)
		}
		return nil
	}})
	if !waited {
		cancel()
		<-whitelist
	}
	return m, e, err
}

// fetchWhitelist asks the servers in turn until one's whitelist is signed by a
// master key and in date.
func (r *Repository) fetchWhitelist(ctx context.Context, needed bool) (list []byte, err error) {
	err = r.opts.Net.Get(ctx, fetch.Request{Path: ".cvmfswhitelist", Limit: maxEvidence, Hurry: true, Needed: needed, Accept: func(_ context.Context, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return fmt.Errorf("%w: %w", fetch.ErrContent, err)
		}
		w, err := trust.ParseWhitelist(b)
		if err == nil {
			err = w.Verify(r.opts.Keys, r.opts.FQRN, r.judgedAt(w))
		}
		if err != nil {
			return fmt.Errorf("%w: %w", fetch.ErrContent, err)
		}
		list = b
		return nil
	}})
	return list, err
}

// verify walks the whole chain for m. The certificate is fetched where e lacks it.
func (r *Repository) verify(ctx context.Context, m *trust.Manifest, e *evidence) (*trust.Manifest, error) {
	list, err := r.blacklist()
	if err != nil {
		return nil, err
	}
	w, err := trust.ParseWhitelist(e.Whitelist)
	if err != nil {
		return nil, err
	}
	if e.Certificate == nil {
		e.Certificate, err = r.metadata(ctx, m.Certificate, hash.Certificate, maxCertificate)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	at := r.judgedAt(w)
	m, err = trust.Verify(trust.Evidence{Manifest: e.Manifest, Whitelist: e.Whitelist, Certificate: e.Certificate}, trust.Policy{
		FQRN: r.opts.FQRN, Keys: r.opts.Keys, Now: at, Blacklist: list,
	})
	if err == nil {
		expired := time.Time{}
		if r.opts.Now().After(w.Expires) {
			expired = w.Expires
		}
		r.expired.Store(&expired)
	}
	return m, err
}

// judgedAt is the moment at which a whitelist must be valid: now, or its last
// hour where the date is waived.
func (r *Repository) judgedAt(w *trust.Whitelist) time.Time {
	now := r.opts.Now()
	if r.opts.AllowExpired && now.After(w.Expires) {
		return w.Expires
	}
	return now
}
