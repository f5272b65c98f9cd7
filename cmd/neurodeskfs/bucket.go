package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// openBucket makes the images of a source on object storage. Nobody is asked
// yet: a mount does not wait for them.
func (d *daemon) openBucket(s config.Source) (*blob.Bucket, error) {
	b, err := newBucket(s, d.netConfig(s), blob.Options{Store: d.disk, Claim: d.claim, Memo: memo{d.disk}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.FQRN, err)
	}
	return b, nil
}

// newBucket is a source's bucket; o says where its files are kept.
func newBucket(s config.Source, c fetch.Config, o blob.Options) (*blob.Bucket, error) {
	c.Order, c.MaxRedirects = "", maxRedirects // buckets move, and some services hand on to signed addresses
	o.Name, o.URLs, o.Index, o.Files, o.Net, o.Logger = s.FQRN, s.URL, s.Index, s.Images, c, c.Logger
	return blob.New(o)
}

// followBucket looks at the list and at the images in use whenever it is time,
// and as soon as one of them turned out to be another, until ctx ends.
func (d *daemon) followBucket(ctx context.Context, s *source) {
	pause := time.Duration(s.Refresh)
	if pause == 0 {
		pause = config.HTTPRefresh
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-s.bucket.Changed():
		}
		d.renew(ctx, s)
	}
}

// status fills in what a bucket has of it.
func (s *SourceStatus) bucket(b *blob.Bucket) {
	st := b.Status()
	s.URL, s.Offline, s.LastRefresh = st.URL, st.Offline, st.Checked.UTC()
	s.hosts(st.Net)
	s.traffic(st.Net)
}

// memoless remembers nothing.
type memoless struct{}

func (memoless) Get(string, string) ([]byte, bool) { return nil, false }
func (memoless) Put(string, string, []byte)        {}

// tryBucket makes the images of a source as a mount would, but keeps nothing.
func tryBucket(s config.Source) (*blob.Bucket, error) {
	return newBucket(s, netConfig(s), blob.Options{Store: cache.NewMemory(4 * blob.BlockSize), Memo: memoless{}})
}

// bucketChecks looks at a source on object storage: as far as the texts go, and
// with network whether the list, and the first image in it, can be had.
func bucketChecks(ctx context.Context, s config.Source, network bool) []Check {
	name := s.FQRN + " server"
	b, err := tryBucket(s)
	if err != nil {
		return []Check{fail(name, "mend it in the configuration (neurodeskfs config show names the line)", "%v", err)}
	}
	defer b.Close()
	checks := []Check{ok(name, "images at %s, proxies: %s", b.Place("@image@"), clip(s.Proxies, 60))}
	if !network {
		return checks
	}
	for _, proxy := range proxyURLs(s.Proxies + ";" + s.FallbackProxies) {
		checks = append(checks, askProxy(ctx, s.FQRN, proxy))
	}
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	const mend = "check url and index, the network and the proxies; a mount works offline from what is cached"
	text, err := b.Index(ctx)
	if err != nil {
		return append(checks, fail(name, mend, "%v", err))
	}
	first := tree.FirstListed(text, b.Listed())
	if first == "" {
		return append(checks, fail(name, "a list has one name of an image in each line", "there is no image in the list at %s", strings.Join(s.Index, ", ")))
	}
	began := time.Now()
	f, err := b.Find(ctx, first)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return append(checks, fail(name, "does url, with the name put in, lead to the image?", "the first image of the list is not at %s", b.Place(first)))
	case err != nil:
		return append(checks, fail(name, mend, "%v", err))
	}
	return append(checks, ok(name, "%s answers in %s; %s has %s", b.Place("@image@"), time.Since(began).Round(time.Millisecond), first, bytesText(f.Size)))
}
