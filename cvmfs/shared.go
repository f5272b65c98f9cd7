package cvmfs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
)

// tierName is where a shared tier has o: by its hash, also where the server has
// it at another place.
func tierName(o object) string { return tier.Name(o.hash.Path(o.suffix)) }

// fromTiers brings o into the cache from the first shared tier that has it, just
// as it is verified when the network brings it; nil: none has. What is wrong
// there is the tier's affair, for the network is asked next.
func (s *objects) fromTiers(ctx context.Context, o object) *cache.Object {
	for _, t := range s.tiers {
		in, err := t.Open(ctx, tierName(o))
		if err != nil {
			continue
		}
		obj, err := s.take(ctx, io.LimitReader(in, o.stored()+1), o)
		in.Close()
		switch {
		case err == nil:
			in.Served()
			return obj
		case errors.Is(err, fetch.ErrContent) && !errors.Is(err, tier.ErrAside) && ctx.Err() == nil:
			t.Refused(tierName(o), err)
		}
	}
	return nil
}

// filling lets take read body and puts it into the tier that is being filled
// when take has found it right. An error of the tier is the caller's to know.
func (s *objects) filling(o object, body io.Reader, take func(io.Reader) error) error {
	w, err := s.fill.Create(tierName(o))
	if err != nil {
		return err
	}
	defer w.Abort()
	copied := &tee{in: body, out: w}
	if err := take(copied); err != nil {
		if copied.err != nil {
			return copied.err
		}
		return err
	}
	return w.Commit()
}

// tee is io.TeeReader that tells a failing writer from a failing reader.
type tee struct {
	in  io.Reader
	out io.Writer
	err error // of out
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	if n > 0 && t.err == nil {
		if _, werr := t.out.Write(p[:n]); werr != nil {
			t.err = fmt.Errorf("the shared tier cannot be written: %w", werr)
		}
	}
	if t.err != nil {
		return n, t.err
	}
	return n, err
}

// provide sees to it that the tier that is being filled has o: what is there is
// compared with its hash, and what is not, or is damaged, is fetched. present:
// nothing was fetched.
func (s *objects) provide(ctx context.Context, o object) (present bool, err error) {
	if in, err := s.fill.Open(ctx, tierName(o)); err == nil {
		err := matches(io.LimitReader(in, o.stored()+1), o)
		in.Close()
		if err == nil {
			return true, nil
		}
	}
	req := s.request(o)
	req.Accept = func(_ context.Context, body io.Reader) error {
		return s.filling(o, body, func(body io.Reader) error { return matches(body, o) })
	}
	return false, s.net.Get(o.priority(ctx), req)
}

// matches reads body to its end and compares it with o's hash; the error wraps
// fetch.ErrContent.
func matches(body io.Reader, o object) error {
	digest := o.hash.Algorithm.New()
	if _, err := io.Copy(digest, body); err != nil {
		return fmt.Errorf("%w: object %s: %w", fetch.ErrContent, o.hash, err)
	}
	if got := hash.Of(o.hash.Algorithm, digest); got != o.hash {
		return fmt.Errorf("%w: object %s has hash %s", fetch.ErrContent, o.hash, got)
	}
	return nil
}
