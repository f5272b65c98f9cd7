package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/squashfs"
)

// Verification says what is made of the PGP signatures of single-file images.
type Verification struct {
	Keys    Keyring
	Keyring string // the file's name, for messages
	Require bool   // an image without a good signature is refused; else it is told of, once, and used
	Memo    cvmfs.Memo
	Logger  *slog.Logger
}

// verifyMemo is the memo's bucket of what was found out, by image, keyring and rules.
const verifyMemo = "verify-sif"

// verifyRules names the rules of VerifySIF. It is to be raised with each change by
// which another verdict comes of the same image and keys, so that none is kept that
// an earlier version has found; 2: signatures by x.509 keys count as none.
const verifyRules = "2"

// maxProblems bounds the images that are remembered for Verified.
const maxProblems = 1000

// Verified is how verification went since the mount.
type Verified struct {
	Good     int       // images with a good signature
	Problems []Problem // the others, by name
}

// Problem is an image without a good signature.
type Problem struct {
	Image string `json:"image"`
	Text  string `json:"problem"`
}

// verifier verifies each image once, whatever happens to the mount meanwhile.
type verifier struct {
	v    Verification
	sum  string // names the keyring and the rules
	ctx  context.Context
	stop context.CancelFunc
	turn chan struct{} // holds a token: one image at a time is verified in the background
	runs sync.WaitGroup

	mu       sync.Mutex // guards all below
	begun    map[string]bool
	good     map[string]bool
	problems map[string]Problem
}

// Verify makes the images be verified from now on. It is to be called before
// anything is opened.
func (s *Images) Verify(v Verification) {
	w := &verifier{v: v, sum: fmt.Sprintf("%x %s", v.Keys.sum, verifyRules), turn: make(chan struct{}, 1), begun: map[string]bool{}, good: map[string]bool{}, problems: map[string]Problem{}}
	w.turn <- struct{}{}
	w.ctx, w.stop = context.WithCancel(context.Background())
	s.verifier = w
}

// Trust names by whose signatures images are admitted, "" where all are: what
// was learnt of an image under another rule does not count.
func (s *Images) Trust() string {
	if s.verifier == nil || !s.verifier.v.Require {
		return ""
	}
	return " signed " + s.verifier.sum
}

// Verified reports how verification went so far.
func (s *Images) Verified() (v Verified) {
	if s.verifier == nil {
		return v
	}
	s.verifier.mu.Lock()
	defer s.verifier.mu.Unlock()
	v.Good = len(s.verifier.good)
	for _, id := range slices.Sorted(maps.Keys(s.verifier.problems)) {
		v.Problems = append(v.Problems, s.verifier.problems[id])
	}
	slices.SortStableFunc(v.Problems, func(a, b Problem) int { return strings.Compare(a.Image, b.Image) })
	return v
}

// admit returns nil if the image id, which src is, may be used. Where a
// signature is required that waits for the whole image; else the image is
// looked at in the background.
func (w *verifier) admit(ctx context.Context, id, name string, src squashfs.Source, size int64) error {
	if w == nil {
		return nil
	}
	if w.v.Require {
		return w.refuse(name, w.verify(ctx, id, name, src, size))
	}
	w.mu.Lock()
	begun := w.begun[id]
	w.begun[id] = true
	w.mu.Unlock()
	if begun {
		return nil
	}
	w.runs.Go(func() {
		select {
		case <-w.turn:
			defer func() { w.turn <- struct{}{} }()
		case <-w.ctx.Done():
			return
		}
		err := w.verify(w.ctx, id, name, src, size)
		switch {
		case err == nil || w.ctx.Err() != nil:
		case isVerdict(err):
			w.v.Logger.Warn("an image has no good signature", "image", name, "hash", id, "err", err)
		default:
			w.v.Logger.Warn("an image's signatures cannot be verified now", "image", name, "hash", id, "err", err)
			w.mu.Lock()
			delete(w.begun, id)
			w.mu.Unlock()
		}
	})
	return nil
}

// isVerdict reports whether err says something of the image, for good.
func isVerdict(err error) bool {
	return errors.Is(err, ErrUnsigned) || errors.Is(err, ErrAltered) || errors.Is(err, ErrRefused)
}

// refuse makes of a verdict what a user is told.
func (w *verifier) refuse(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case isVerdict(err):
		return fmt.Errorf("%w: verify_sif requires a good signature, and %w. Have %s signed (apptainer sign), put the signer's public key into %s, or set mode = \"warn\"",
			ErrRefused, err, name, w.v.Keyring)
	}
	return fmt.Errorf("its signatures cannot be verified: %w", err)
}

// kept is what the memo has of an image.
type kept struct {
	Signatures
	Kind    string `json:"kind,omitempty"` // of the problem
	Problem string `json:"problem,omitempty"`
}

var verdicts = map[string]error{"unsigned": ErrUnsigned, "altered": ErrAltered, "refused": ErrRefused}

// verdict is a problem that the memo has kept.
type verdict struct {
	text string
	kind error
}

func (v verdict) Error() string { return v.text }
func (v verdict) Unwrap() error { return v.kind }

// verify verifies an image, or remembers how that went.
func (w *verifier) verify(ctx context.Context, id, name string, src squashfs.Source, size int64) (err error) {
	key := id + " " + w.sum
	var k kept
	if b, ok := w.v.Memo.Get(verifyMemo, key); ok && json.Unmarshal(b, &k) == nil && (k.Kind == "" && len(k.Signers) > 0 || verdicts[k.Kind] != nil) {
		if k.Kind != "" {
			err = verdict{k.Problem, verdicts[k.Kind]}
		}
		w.note(id, name, err)
		return err
	}
	k = kept{}
	k.Signatures, err = VerifySIF(ctx, src, size, w.v.Keys)
	if err != nil && !isVerdict(err) {
		return err
	}
	if err != nil {
		k.Problem = err.Error()
		for kind, verdict := range verdicts {
			if errors.Is(err, verdict) {
				k.Kind = kind
			}
		}
	}
	if b, err := json.Marshal(k); err == nil {
		w.v.Memo.Put(verifyMemo, key, b)
	}
	w.note(id, name, err)
	return err
}

// note counts an image in.
func (w *verifier) note(id, name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.good[id] = true
	case len(w.problems) < maxProblems:
		w.problems[id] = Problem{name, err.Error()}
	}
}

// close ends what runs in the background.
func (w *verifier) close() {
	if w != nil {
		w.stop()
		w.runs.Wait()
	}
}
